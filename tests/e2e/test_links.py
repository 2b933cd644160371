"""NICs on Open vSwitch, on a device of the host, on somebody else's tap, and by user networking, by the network map."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from sri_libvirt import names
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests.backends.openvswitch import OpenVswitch
from tests.e2e import macvtap_nodes
from tests.e2e.libvirtd import PrivateLibvirt
from tests.e2e.provider import Provider, asked, spec, wait_for

pytestmark = pytest.mark.e2e

MAP = """networks:
  - {network_id: "ovs://seven", driver: ovs, bridge: ovs0, vlan: 7}
  - {network_id: "ovs://eight", driver: ovs, bridge: ovs0, vlan: 8}
  - {network_id: "ovs://both", driver: ovs, bridge: ovs0, trunk: [7, 8]}
  - {network_id: "card", driver: direct, device: card0, allow: [mac]}
  - {network_id: "theirs", driver: tap, device: theirs}
  - {network_id: "user", driver: user}
"""
MAC = "52:54:00:ab:cd:ef"


def serve(provider: Provider) -> None:
    networks = provider.root / "networks.yaml"
    networks.write_text(MAP)
    provider.start("--firmware", "bios", "--detach-settle", "0s", "--network-map", str(networks), "--allow-user-net")


def links(private: PrivateLibvirt) -> set[str]:
    return {each["ifname"] for each in json.loads(private.run(["ip", "-j", "link"]))}


def attach(provider: Provider, machine_id: str, name: str, network_id: str, **attributes: str) -> str:
    """The MAC of an interface that is attached now; the guest has it."""
    nic = pb.NetworkInterface(name=name, network_id=network_id, attributes=attributes)
    request = pb.AttachNetworkInterfaceRequest(machine_id=machine_id, network_interface=nic)
    provider.stub.AttachNetworkInterface(request, timeout=10)
    mac = attributes.get("mac", names.mac_address(machine_id, name))
    provider.wait_console(machine_id, f"mac={mac}")
    return mac


def detach(provider: Provider, machine_id: str, name: str) -> None:
    """The guest has it no more at the end, and what it was joined to is released."""
    provider.stub.DetachNetworkInterface(pb.DetachNetworkInterfaceRequest(machine_id=machine_id, name=name), timeout=10)
    alias = names.alias("nic", name, 1)
    wait_for("it gone", lambda: alias not in live_xml(provider, machine_id))


def live_xml(provider: Provider, machine_id: str) -> str:
    connection = libvirt.open(provider.libvirt.uri)
    try:
        xml: str = connection.lookupByUUIDString(machine_id).XMLDesc(0)
        return xml
    finally:
        connection.close()


def is_attached(provider: Provider, machine_id: str, name: str = "eth") -> bool:
    found = nics(provider, machine_id).get(name)
    return found is not None and found.state == pb.NETWORK_INTERFACE_ATTACHED


def nics(provider: Provider, machine_id: str) -> dict[str, pb.NetworkInterfaceStatus]:
    machine = provider.get(machine_id)
    return {each.name: each for each in machine.status.network_interfaces} if machine else {}


def up(provider: Provider, image: Path) -> str:
    machine_id = provider.create(spec(image=image)).metadata.id
    provider.wait_console(machine_id, "tiny: up")
    return machine_id


def alias_of(provider: Provider, machine_id: str) -> list[str]:
    """Of the NIC that the guest has."""
    return re.findall(r"alias name='(ua-nic-[^']*)'", live_xml(provider, machine_id))


@pytest.fixture
def switch(private_libvirt: PrivateLibvirt) -> Iterator[OpenVswitch]:
    with OpenVswitch(private_libvirt.directory("ovs"), private_libvirt.inside) as found:
        yield found


def test_open_vswitch(provider: Provider, tiny_image: Path, switch: OpenVswitch) -> None:
    serve(provider)
    first, second = up(provider, tiny_image), up(provider, tiny_image)
    nic = pb.NetworkInterface(name="eth", network_id="ovs://seven")
    request = pb.AttachNetworkInterfaceRequest(machine_id=first, network_interface=nic)
    provider.stub.AttachNetworkInterface(request, timeout=10)
    wait_for("the reason", lambda: "device-not-ready" in provider.reasons(first))
    assert 'there is no bridge "ovs0" of Open vSwitch on this host' in provider.why(first)
    switch.bridge("ovs0")
    provider.wait_console(first, "tiny: nic eth0 mac=")
    (port,) = switch.ports("ovs0")
    identity = names.interface_id(first, "eth")
    assert switch.interface(port) == {"tag": 7, "trunks": [], "id": identity}
    assert nics(provider, first)["eth"].handle == f"ovs://ovs0/{identity}"
    attach(provider, second, "eth", "ovs://eight")
    for number, each in ((1, first), (2, second)):
        asked(provider, each, f"ip link set eth0 up; ip addr add 10.98.0.{number}/24 dev eth0", number)
    assert "bytes from" not in asked(provider, first, "ping -c 2 -W 1 10.98.0.2", 3), "of another VLAN"
    detach(provider, second, "eth")
    attach(provider, second, "more", "ovs://seven")
    asked(provider, second, "ip link set eth0 up; ip addr add 10.98.0.2/24 dev eth0", 4)
    assert "bytes from 10.98.0.2" in asked(provider, first, "ping -c 3 -W 3 10.98.0.2", 5)
    detach(provider, second, "more")
    attach(provider, second, "trunk", "ovs://both")
    (other,) = set(switch.ports("ovs0")) - {port}
    assert switch.interface(other) == {"tag": None, "trunks": [7, 8], "id": names.interface_id(second, "trunk")}
    detach(provider, second, "trunk")
    attach(provider, second, "more", "ovs://seven")
    asked(provider, second, "ip link set eth0 up; ip addr add 10.98.0.2/24 dev eth0", 6)
    before = alias_of(provider, first)
    switch.switch.kill()
    assert "bytes from" not in asked(provider, first, "ping -c 1 -W 1 10.98.0.2", 7)
    nic = pb.NetworkInterface(name="late", network_id="ovs://seven")
    provider.stub.AttachNetworkInterface(
        pb.AttachNetworkInterfaceRequest(machine_id=second, network_interface=nic), timeout=10
    )
    wait_for("the reason", lambda: "device-not-ready" in provider.reasons(second))
    assert "Open vSwitch does not run on this host" in provider.why(second)
    switch.switch.start()
    wait_for("all attached", lambda: all(is_attached(provider, second, each) for each in ("more", "late")))
    wait_for("the first as well", lambda: is_attached(provider, first))
    assert alias_of(provider, first) == before, "its NIC was left to it"
    assert "bytes from 10.98.0.2" in asked(provider, first, "ping -c 9 -W 3 10.98.0.2", 8)
    for each in (first, second):
        provider.delete(each)
        wait_for("end of the machine", lambda each=each: provider.get(each) is None)  # type: ignore[misc]
    assert switch.ports("ovs0") == []


@pytest.fixture
def card(private_libvirt: PrivateLibvirt, tmp_path: Path) -> Iterator[str]:
    """A card of the host, with a cable to a neighbour; who makes macvtap's nodes is there."""
    log = tmp_path / "nodes"
    with log.open("wb") as output:
        child = private_libvirt.popen([sys.executable, macvtap_nodes.__file__], stdout=output, stderr=output)
    wait_for("who makes the nodes", lambda: b"ready" in log.read_bytes())
    private_libvirt.run(["ip", "link", "add", "card0", "type", "veth", "peer", "name", "cable0"])
    for each in ("card0", "cable0"):
        private_libvirt.run(["ip", "link", "set", each, "up"])
    private_libvirt.run(["ip", "addr", "add", "10.98.0.1/24", "dev", "cable0"])
    yield "card0"
    private_libvirt.run(["sh", "-c", "ip link delete cable0 2>/dev/null; true"])
    assert child.poll() is None, log.read_text()
    child.terminate()
    child.wait(10)


def test_a_device_of_the_host(provider: Provider, tiny_image: Path, card: str) -> None:
    private = provider.libvirt
    serve(provider)
    before = links(private)
    machine_id = up(provider, tiny_image)
    assert attach(provider, machine_id, "eth", "card", mac=MAC) == MAC
    asked(provider, machine_id, "ip link set eth0 up; ip addr add 10.98.0.7/24 dev eth0", 1)
    assert "bytes from 10.98.0.1" in asked(provider, machine_id, "ping -c 3 -W 3 10.98.0.1", 2)
    other = up(provider, tiny_image)
    nic = pb.NetworkInterface(name="eth", network_id="card", attributes={"mac": MAC})
    provider.stub.AttachNetworkInterface(
        pb.AttachNetworkInterfaceRequest(machine_id=other, network_interface=nic), timeout=10
    )
    wait_for("the reason", lambda: "address-taken" in provider.reasons(other))
    assert f'{MAC} is that of the network interface "eth" of machine {machine_id}' in provider.why(other)
    detach(provider, machine_id, "eth")
    provider.wait_console(other, f"mac={MAC}")
    private.run(["ip", "link", "delete", "cable0"])
    wait_for("the card gone", lambda: card not in links(private))
    wait_for("a guest that runs is left alone", lambda: is_attached(provider, other))
    detach(provider, other, "eth")
    request = pb.AttachNetworkInterfaceRequest(machine_id=machine_id, network_interface=nic)
    provider.stub.AttachNetworkInterface(request, timeout=10)
    wait_for("the reason", lambda: "device-not-ready" in provider.reasons(machine_id))
    assert f'there is no network device "{card}" on this host' in provider.why(machine_id)
    for each in (machine_id, other):
        provider.delete(each)
        wait_for("end of the machine", lambda each=each: provider.get(each) is None)  # type: ignore[misc]
    assert links(private) == before - {"card0", "cable0"}


def test_a_tap_of_somebody_elses_is_used_and_left(provider: Provider, tiny_image: Path) -> None:
    private = provider.libvirt
    serve(provider)
    private.run(["ip", "tuntap", "add", "theirs", "mode", "tap"])
    private.run(["ip", "link", "set", "theirs", "up"])
    private.run(["ip", "addr", "add", "10.98.1.1/24", "dev", "theirs"])
    try:
        machine_id, other = up(provider, tiny_image), up(provider, tiny_image)
        attach(provider, machine_id, "eth", "theirs")
        asked(provider, machine_id, "ip link set eth0 up; ip addr add 10.98.1.7/24 dev eth0", 1)
        assert "bytes from 10.98.1.1" in asked(provider, machine_id, "ping -c 3 -W 3 10.98.1.1", 2)
        nic = pb.NetworkInterface(name="eth", network_id="theirs")
        request = pb.AttachNetworkInterfaceRequest(machine_id=other, network_interface=nic)
        provider.stub.AttachNetworkInterface(request, timeout=10)
        wait_for("the reason", lambda: "plug-failed" in provider.reasons(other) or "busy" in provider.why(other))
        detach(provider, machine_id, "eth")
        provider.wait_console(other, "tiny: nic eth0 mac=")
        for each in (machine_id, other):
            provider.delete(each)
            wait_for("end of the machine", lambda each=each: provider.get(each) is None)  # type: ignore[misc]
        shown = json.loads(private.run(["ip", "-j", "addr", "show", "theirs"]))
        assert [each["local"] for each in shown[0]["addr_info"] if each["family"] == "inet"] == ["10.98.1.1"]
        assert "UP" in shown[0]["flags"]
    finally:
        private.run(["ip", "link", "delete", "theirs"])


def test_user_networking(provider: Provider, tiny_image: Path) -> None:
    serve(provider)
    before = links(provider.libvirt)
    machine_id = up(provider, tiny_image)
    attach(provider, machine_id, "eth", "user")
    provider.wait_console(machine_id, "nic eth0 ip=10.0.2.15")
    assert links(provider.libvirt) == before
    detach(provider, machine_id, "eth")
    provider.delete(machine_id)


def test_what_this_kernel_cannot_shape_waits_with_libvirts_words(provider: Provider, tiny_image: Path) -> None:
    private, networks = provider.libvirt, provider.root / "networks.yaml"
    networks.write_text(
        'networks: [{network_id: "*", driver: bridge, bridge: br-slow, bandwidth: {average: 1Mi}, antispoof: false}]'
    )
    provider.start("--firmware", "bios", "--detach-settle", "0s", "--network-map", str(networks))
    private.run(["ip", "link", "add", "br-slow", "type", "bridge"])
    private.run(["ip", "link", "set", "br-slow", "up"])
    try:
        before = links(private)
        machine_id = up(provider, tiny_image)
        nic = pb.NetworkInterface(name="eth", network_id="x")
        request = pb.AttachNetworkInterfaceRequest(machine_id=machine_id, network_interface=nic)
        provider.stub.AttachNetworkInterface(request, timeout=10)
        wait_for("either", lambda: is_attached(provider, machine_id) or provider.reasons(machine_id))
        if is_attached(provider, machine_id):
            (tap,) = links(private) - before
            assert "rate 8Mbit" in private.run(["tc", "class", "show", "dev", tap])
        else:
            assert "libvirt could not plug the device" in provider.why(machine_id)
            assert links(private) == before, "no tap stays"
        provider.delete(machine_id)
        wait_for("end of the machine", lambda: provider.get(machine_id) is None)
    finally:
        private.run(["ip", "link", "delete", "br-slow"])


def test_nothing_of_the_map_is_a_tenants(provider: Provider, tiny_image: Path) -> None:
    """Attributes that name a bridge, a VLAN or a driver are not looked at."""
    serve(provider)
    private = provider.libvirt
    private.network("lan", "open")
    try:
        machine_id = up(provider, tiny_image)
        said = {"bridge": "br-other", "vlan": "7", "driver": "user", "antispoof": "false", "mac": MAC}
        nic = pb.NetworkInterface(name="eth", network_id="lan", attributes=said)
        request = pb.AttachNetworkInterfaceRequest(machine_id=machine_id, network_interface=nic)
        provider.stub.AttachNetworkInterface(request, timeout=10)
        provider.wait_console(machine_id, f"mac={names.mac_address(machine_id, 'eth')}")
        xml = live_xml(provider, machine_id)
        assert "network='lan'" in xml
        assert "sri-libvirt-1-any" in xml
        provider.delete(machine_id)
        wait_for("end of the machine", lambda: provider.get(machine_id) is None)
    finally:
        private.remove_network("lan")
