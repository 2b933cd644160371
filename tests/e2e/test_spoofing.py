"""What a guest can say on a bridge, by real frames from a real guest: its own, and nothing that it is not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from sri_libvirt import names
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests.e2e import frames
from tests.e2e.libvirtd import PrivateLibvirt
from tests.e2e.provider import Provider, asked, spec, wait_for

pytestmark = pytest.mark.e2e

BRIDGE, LISTENER, PEER = "br-spoof", "spoof0", "spoof1"
MAP = f"""networks:
  - {{network_id: "net://open/*", driver: bridge, bridge: {BRIDGE}, antispoof: false}}
  - {{network_id: "net://*", driver: bridge, bridge: {BRIDGE}}}
"""

NICS = {
    "none": ("net://open/a", []),
    "any": ("net://guarded/a", []),
    "ipv4": ("net://guarded/a", [str(frames.OWN4), "10.98.0.8"]),
    "ipv6": ("net://guarded/a", [str(frames.OWN6), "2001:db8::8"]),
    "ipv4-ipv6": ("net://guarded/a", [str(frames.OWN4), str(frames.OWN6)]),
}
"""Interfaces by the kind of their filter."""

HONEST4, HONEST6 = {"own-ipv4", "own-arp", "arp-probe", "dhcp-request"}, {"own-ipv6"}
ALWAYS = {"link-local", "duplicate-detection", "forged-neighbour", frames.LAST}
WITHOUT_ADDRESSES = {
    "foreign-ipv4", "foreign-arp", "arp-of-another-mac", "foreign-ipv6", "nobody-ipv6", "nobody-ipv4",
}  # fmt: skip
PASSES = {
    "none": set(frames.frames()),
    "any": ALWAYS | HONEST4 | HONEST6 | WITHOUT_ADDRESSES,
    "ipv4": ALWAYS | HONEST4,
    "ipv6": ALWAYS | HONEST6,
    "ipv4-ipv6": ALWAYS | HONEST4 | HONEST6,
}

LISTENING = """
import socket, sys
heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
heard.bind((sys.argv[1], 0))
print("ready", flush=True)
while True:
    print(heard.recv(2048).hex(), flush=True)
"""


@pytest.fixture
def bridge(private_libvirt: PrivateLibvirt) -> Iterator[str]:
    """A bridge with a neighbour on it."""
    private_libvirt.run(["ip", "link", "add", BRIDGE, "type", "bridge", "forward_delay", "0"])
    private_libvirt.run(["ip", "link", "add", LISTENER, "type", "veth", "peer", "name", PEER])
    private_libvirt.run(["ip", "link", "set", PEER, "master", BRIDGE])
    for each in (BRIDGE, LISTENER, PEER):
        private_libvirt.run(["ip", "link", "set", each, "up"])
    yield BRIDGE
    for each in (LISTENER, BRIDGE):
        private_libvirt.run(["ip", "link", "delete", each])


@pytest.fixture
def log(private_libvirt: PrivateLibvirt, bridge: str, tmp_path: Path) -> Iterator[Path]:
    """What the neighbour hears, a frame a line."""
    log = tmp_path / "heard"
    with log.open("wb") as output:
        child = private_libvirt.popen([sys.executable, "-c", LISTENING, LISTENER], stdout=output)
    wait_for("the listener", lambda: b"ready" in log.read_bytes())
    yield log
    child.terminate()
    child.wait(10)


def heard(log: Path, before: int) -> set[str]:
    """The names of the frames that came since the log was so long."""
    text = log.read_text()[before:]
    return {name for number, name in enumerate(frames.frames()) if frames.mark_of(number).hex() in text}


def left(private: PrivateLibvirt) -> tuple[int, str]:
    """What libvirt has put up for filters: their bindings, and the chains of the kernel."""
    connection = libvirt.open(private.uri)
    try:
        return len(connection.listAllNWFilterBindings()), private.run(["ebtables", "-t", "nat", "-L"])
    finally:
        connection.close()


def test_what_guests_can_say(provider: Provider, tiny_image: Path, bridge: str, log: Path, tmp_path: Path) -> None:
    private, networks = provider.libvirt, provider.root / "networks.yaml"
    networks.write_text(MAP)
    provider.start("--firmware", "bios", "--network-map", str(networks), "--detach-settle", "0s")
    nothing = left(private)
    machine_id = provider.create(spec(image=tiny_image, ignition=frames.ignition(tmp_path))).metadata.id
    provider.wait_console(machine_id, "tiny: up")
    asked(provider, machine_id, frames.SETUP, 0)
    for number, (kind, (network, ips)) in enumerate(NICS.items()):  # one at a time: they share addresses
        nic = pb.NetworkInterface(name=kind, network_id=network, ips=ips)
        request = pb.AttachNetworkInterfaceRequest(machine_id=machine_id, network_interface=nic)
        provider.stub.AttachNetworkInterface(request, timeout=10)
        provider.wait_console(machine_id, f"mac={names.mac_address(machine_id, kind)}")
        assert left(private)[0] == (kind != "none")
        before = len(log.read_text())
        asked(provider, machine_id, frames.sending("eth0"), number + 1)
        wait_for("the last frame", lambda before=before: frames.LAST in heard(log, before))  # type: ignore[misc]
        came = heard(log, before)
        assert came == PASSES[kind], f"{kind}: {sorted(came ^ PASSES[kind])}"
        gone = pb.DetachNetworkInterfaceRequest(machine_id=machine_id, name=kind)
        provider.stub.DetachNetworkInterface(gone, timeout=10)
        wait_for("all rules gone with the interface", lambda: left(private) == nothing)
        provider.wait_console(machine_id, "nic eth0 gone", count=number + 1)
    provider.delete(machine_id)
