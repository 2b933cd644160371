"""A link without peers has none: the host is not on it, however its guest came to it, and the guest reaches nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.nics.isolated import tap_name
from tests.e2e.libvirtd import PrivateLibvirt
from tests.e2e.provider import Provider, spec, type_line, wait_for

pytestmark = pytest.mark.e2e

LINE = (
    "until ip -6 addr show eth0 | grep fe80: | grep -qv tentative; do sleep 1; done; "
    "ping6 -c 2 -W 1 -I eth0 ff02::1; ip -6 addr show eth0; echo asked $((40+2))"
)
"""Asks everybody on the link for an answer, once the guest has an address to ask from; the guest itself gives one."""


def devices(private: PrivateLibvirt) -> dict[str, dict[str, object]]:
    """The host's network devices, as `ip` tells them, by name."""
    return {each["ifname"]: each for each in json.loads(private.run(["ip", "-j", "-s", "-s", "addr"]))}


def routes(private: PrivateLibvirt) -> list[str]:
    return [*private.run(["ip", "route"]).splitlines(), *private.run(["ip", "-6", "route"]).splitlines()]


def tap_of(machine_id: str, name: str) -> str:
    return tap_name(machine_id, pb.NetworkInterface(name=name))


def assert_host_is_away(private: PrivateLibvirt, *taps: str) -> None:
    """None of the host's devices but loopback has an address, and of what came from the guest it has heard nothing."""
    found = devices(private)
    assert found.keys() == {"lo", *taps}
    for tap in taps:
        assert found[tap]["addr_info"] == []
        assert "UP" not in found[tap]["flags"]  # type: ignore[operator]
        statistics = found[tap]["stats64"]
        assert statistics["rx"]["packets"] == statistics["tx"]["packets"] == 0  # type: ignore[index]
    assert not routes(private)


def answers(provider: Provider, machine_id: str) -> set[str]:
    """Who answers to everybody's address on the guest's eth0, but for the guest itself."""
    said = len(provider.console(machine_id))
    type_line(provider.libvirt.uri, machine_id, LINE, lambda: "asked 42" in provider.console(machine_id)[said:])
    text = provider.console(machine_id)[said:]
    assert "2 packets transmitted" in text, text
    return set(re.findall(r"bytes from (\S+?)[:%]? ", text)) - set(re.findall(r"inet6 (\S+)/", text))


def attach(provider: Provider, machine_id: str, name: str) -> None:
    nic = pb.NetworkInterface(name=name, network_id="isolated")
    request = pb.AttachNetworkInterfaceRequest(machine_id=machine_id, network_interface=nic)
    provider.stub.AttachNetworkInterface(request, timeout=10)


def attached(provider: Provider, machine_id: str) -> bool:
    machine = provider.get(machine_id)
    assert machine is not None
    nics = machine.status.network_interfaces
    return bool(nics) and all(each.state == pb.NETWORK_INTERFACE_ATTACHED for each in nics)


@pytest.fixture
def private(private_libvirt: PrivateLibvirt) -> PrivateLibvirt:
    """Without what providers of the tests before, which were killed, have left."""
    for name in devices(private_libvirt).keys() - {"lo"}:
        private_libvirt.run(["ip", "link", "delete", name])
    return private_libvirt


@pytest.mark.rule("R-G13-1")
def test_the_host_is_not_on_an_isolated_link(provider: Provider, private: PrivateLibvirt, tiny_image: Path) -> None:
    provider.start("--firmware", "bios", "--detach-settle", "0s")
    machine_id = provider.create(spec(image=tiny_image, nics={"cold": "isolated"})).metadata.id
    cold, hot = tap_of(machine_id, "cold"), tap_of(machine_id, "hot")
    provider.wait_console(machine_id, "tiny: up")
    assert answers(provider, machine_id) == set()
    assert_host_is_away(private, cold)
    assert devices(private)[cold]["stats64"]["rx"]["dropped"] > 0, "the guest has sent nothing"  # type: ignore[index]

    attach(provider, machine_id, "hot")
    provider.wait_console(machine_id, "tiny: nic eth1 mac=")
    wait_for("both attached", lambda: attached(provider, machine_id))
    assert_host_is_away(private, cold, hot)

    with provider.domain(machine_id) as domain:
        domain.managedSave(0)
    wait_for("the restored guest", lambda: provider.state_of(machine_id) == "MACHINE_RUNNING")
    wait_for("event of the restore", lambda: any(e.reason == "restored" for e in provider.events(machine_id)))
    assert_host_is_away(private, cold, hot)

    # As after a boot of the host: no tap is left, and all are made anew.
    provider.power(machine_id, pb.POWER_OFF)
    provider.wait_state(machine_id, "MACHINE_SUSPENDED")
    for tap in (cold, hot):
        private.run(["ip", "link", "delete", tap])
    provider.power(machine_id, pb.POWER_ON)
    provider.wait_console(machine_id, "tiny: up", count=2)
    assert answers(provider, machine_id) == set()
    assert_host_is_away(private, cold, hot)

    request = pb.DetachNetworkInterfaceRequest(machine_id=machine_id, name="hot")
    provider.stub.DetachNetworkInterface(request, timeout=10)
    wait_for("end of its tap", lambda: hot not in devices(private))
    provider.delete(machine_id)
    wait_for("end of the machine", lambda: provider.get(machine_id) is None)
    assert devices(private).keys() == {"lo"}
