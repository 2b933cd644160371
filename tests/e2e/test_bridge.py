"""NICs on a bridge of the host, by the operator's network map: guests reach each other, or do not; nothing is left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.nics.bridge import VLANS_SINCE
from tests.e2e.libvirtd import PrivateLibvirt
from tests.e2e.provider import Provider, asked, spec, wait_for

pytestmark = pytest.mark.e2e

MAP = """networks:
  - {network_id: "net://open/*", driver: bridge, bridge: br-e2e}
  - {network_id: "net://apart/*", driver: bridge, bridge: br-e2e, isolated_ports: true}
  - {network_id: "net://tagged/*", driver: bridge, bridge: br-e2e, vlan: 42}
"""


@pytest.fixture
def bridge(private_libvirt: PrivateLibvirt) -> Iterator[str]:
    """Its name; it is made by the test, and removed after it."""
    yield "br-e2e"
    private_libvirt.run(["sh", "-c", "ip link delete br-e2e 2>/dev/null; true"])


def make(private: PrivateLibvirt, bridge: str) -> None:
    private.run(["ip", "link", "add", bridge, "type", "bridge", "forward_delay", "0"])
    private.run(["ip", "link", "set", bridge, "up"])


def ports(private: PrivateLibvirt, bridge: str) -> list[str]:
    return sorted(each["ifname"] for each in json.loads(private.run(["ip", "-j", "link", "show", "master", bridge])))


def serve(provider: Provider) -> None:
    networks = provider.root / "networks.yaml"
    networks.write_text(MAP)
    provider.start("--firmware", "bios", "--detach-settle", "0s", "--network-map", str(networks))


ASSURED = "while ip -6 addr show eth0 | grep -q tentative; do sleep 1; done"
"""A guest's own look whether somebody has its addresses is over."""


def addresses(number: int) -> list[str]:
    """Of a guest, one of each family: its filter lets no other through."""
    return [f"10.98.0.{number}", f"fd00:98::{number}"]


@pytest.mark.parametrize("kind", ["open", "apart"])
def test_guests_reach_each_other_unless_their_ports_are_isolated(
    provider: Provider, tiny_image: Path, bridge: str, kind: str
) -> None:
    private = provider.libvirt
    serve(provider)
    asked_for = spec(image=tiny_image, nics={"eth": f"net://{kind}/a"})
    asked_for.network_interfaces[0].ips.extend(addresses(1))
    first = provider.create(asked_for).metadata.id
    wait_for("the reason", lambda: "device-not-ready" in provider.reasons(first))
    assert f'there is no bridge "{bridge}" on this host' in provider.why(first)
    make(private, bridge)
    wait_for("word of the bridge", lambda: f'"links": ["{bridge}"]' in provider.log())
    second = provider.create(spec(image=tiny_image)).metadata.id
    for each in (first, second):
        provider.wait_console(each, "tiny: up")
    nic = pb.NetworkInterface(name="late", network_id=f"net://{kind}/b", ips=addresses(2))
    request = pb.AttachNetworkInterfaceRequest(machine_id=second, network_interface=nic)
    provider.stub.AttachNetworkInterface(request, timeout=10)
    provider.wait_console(second, "tiny: nic eth0 mac=")
    wait_for("both on the bridge", lambda: len(ports(private, bridge)) == 2)
    for number, each in ((1, first), (2, second)):
        own4, own6 = addresses(number)
        words = f"ip link set eth0 up; ip addr add {own4}/24 dev eth0; ip addr add {own6}/64 dev eth0; {ASSURED}"
        asked(provider, each, words, number)
    for number, (ping, address) in enumerate(zip(("ping", "ping6"), addresses(2), strict=True)):
        heard = asked(provider, first, f"{ping} -c 3 -W 2 {address}", 3 + number)
        assert (f"bytes from {address}" in heard) == (kind == "open"), heard
    machine = provider.get(second)
    assert machine is not None
    (status,) = machine.status.network_interfaces
    assert status.handle.startswith(f"bridge://{bridge}/")
    provider.stub.DetachNetworkInterface(pb.DetachNetworkInterfaceRequest(machine_id=second, name="late"), timeout=10)
    wait_for("one on the bridge", lambda: len(ports(private, bridge)) == 1)
    for each in (first, second):
        provider.delete(each)
        wait_for("end of the machine", lambda each=each: provider.get(each) is None)  # type: ignore[misc]
    assert ports(private, bridge) == []


def test_a_vlan_that_this_libvirt_cannot_have_says_what_can(provider: Provider, tiny_image: Path, bridge: str) -> None:
    connection = libvirt.open(provider.libvirt.uri)
    version = connection.getLibVersion()
    connection.close()
    if version >= VLANS_SINCE:
        pytest.skip("this libvirt can")
    make(provider.libvirt, bridge)
    serve(provider)
    machine_id = provider.create(spec(image=tiny_image, nics={"eth": "net://tagged/a"})).metadata.id
    wait_for("the reason", lambda: "device-not-ready" in provider.reasons(machine_id))
    assert "VLAN 42 of a Linux bridge" in provider.why(machine_id)
    provider.delete(machine_id)
