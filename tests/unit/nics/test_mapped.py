"""Drivers that the network map alone can choose: what each needs of its host, and what it hands out."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import Bandwidth, NicBackend
from sri_libvirt.errors import NotReady
from sri_libvirt.host import link
from sri_libvirt.hypervisor.networks import Network, PlannedNetworks
from sri_libvirt.nics.base import NicDriver
from sri_libvirt.nics.bridge import BridgeNics
from sri_libvirt.nics.direct import DirectNics
from sri_libvirt.nics.mapped import MappedNics
from sri_libvirt.nics.network import NetworkNics
from sri_libvirt.nics.ovs import OvsNics
from sri_libvirt.nics.tap import TapNics
from sri_libvirt.nics.user import UserNics

MAC = "52:54:00:00:00:01"
NOWHERE = Path("/nowhere")
FAST = Bandwidth(10 << 20)


def nic(*ips: str) -> pb.NetworkInterface:
    return pb.NetworkInterface(name="eth", network_id="x", ips=ips)


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """A host with a bridge of Linux and one of Open vSwitch, a card, a tap."""
    net = tmp_path / "class/net"
    for name, mtu in (("br0", 9000), ("ovs0", 1500), ("eth1", 9000), ("theirs", 9000)):
        (net / name).mkdir(parents=True)
        (net / name / "mtu").write_text(f"{mtu}\n")
    (net / "br0/bridge").mkdir()
    (net / "theirs/tun_flags").write_text("0x1002\n")
    return tmp_path


def made(driver: NicDriver, *ips: str) -> NicBackend:
    return driver.prepare("id", nic(*ips), MAC, PlannedNetworks())


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (BridgeNics, {"bridge": "br0", "antispoof": False}, {"bridge": "br0", "mtu": 9000}),
        (OvsNics, {"bridge": "ovs0", "vlan": 7, "run": NOWHERE}, {"bridge": "ovs0", "vlan": 7}),
        (OvsNics, {"bridge": "ovs0", "trunk": (7, 8), "run": NOWHERE}, {"bridge": "ovs0", "trunk": (7, 8)}),
        (DirectNics, {"device": "eth1"}, {"device": "eth1", "mode": "bridge"}),
        (DirectNics, {"device": "eth1", "mode": "vepa"}, {"device": "eth1", "mode": "vepa"}),
        (TapNics, {"device": "theirs"}, {"device": "theirs", "mtu": 9000, "queues": 1}),
        (UserNics, {}, {"queues": 1}),
    ],
)
def test_what_each_is_joined_to(
    sysfs: Path, kind: type[MappedNics], values: dict[str, Any], expected: dict[str, Any]
) -> None:
    driver = kind(sysfs).bound(values)
    found = made(driver)  # type: ignore[arg-type]
    wanted = NicBackend(found.handle, found.kind, interface_id=found.interface_id, **expected)
    assert found == wanted
    assert found.handle.startswith(f"{driver.name}://{found.source or 'qemu'}/")  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [NetworkNics, BridgeNics, OvsNics, DirectNics])
def test_the_map_bounds_what_is_carried(kind: type[MappedNics]) -> None:
    driver = kind().bound({"bandwidth": FAST, **({"network": "lan"} if kind is NetworkNics else {})})
    assert made(driver).bandwidth == FAST  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("driver", "words", "advice"),
    [
        (OvsNics(bridge="ovs1"), "no bridge 'ovs1' of Open vSwitch|no bridge \"ovs1\" of Open vSwitch", "ovs-vsctl"),
        (OvsNics(bridge="br0"), "is a bridge of Linux", "driver: bridge"),
        (DirectNics(device="eth7"), "no network device", "ip link"),
        (TapNics(device="tap7"), "no tap", "ip tuntap add tap7"),
        (TapNics(device="eth1"), "no tap", "ip tuntap add eth1"),
    ],
)
def test_what_is_not_there_is_waited_for(sysfs: Path, driver: MappedNics, words: str, advice: str) -> None:
    with pytest.raises(NotReady, match=words) as caught:
        made(driver.bound({"sysfs": sysfs}))  # type: ignore[arg-type]
    assert advice in caught.value.advice
    made(driver)  # type: ignore[arg-type]  # without sysfs nobody looks


def test_open_vswitch_knows_a_port_by_an_id_of_its_own_that_the_handle_tells(sysfs: Path) -> None:
    driver = OvsNics(sysfs, bridge="ovs0", run=NOWHERE)
    found = made(driver)
    other = driver.prepare("other", nic(), MAC, PlannedNetworks())
    assert found.handle == f"ovs://ovs0/{found.interface_id}"
    assert found.interface_id != other.interface_id


def test_a_switch_that_does_not_run_is_waited_for(sysfs: Path, tmp_path: Path) -> None:
    driver = OvsNics(sysfs, bridge="ovs0", run=tmp_path)
    made(driver)  # nothing tells of it
    (tmp_path / "db.sock").touch()
    with pytest.raises(NotReady, match="Open vSwitch does not run"):
        made(driver)
    mark = tmp_path / "ovs-vswitchd.pid"
    mark.write_text("1\n")
    with pytest.raises(NotReady, match="Open vSwitch does not run"):
        made(driver)
    with mark.open("r+b") as file:  # of this process by its open file alone: its own others do not count as it
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        made(driver)
    with pytest.raises(NotReady, match="Open vSwitch does not run"):
        made(driver)


def test_user_networking_gives_no_other_addresses_than_its_own() -> None:
    with pytest.raises(NotReady, match="addresses of its own"):
        made(UserNics(allowed=True), "10.0.0.7")


def test_a_networks_mtu_is_its_bridges(sysfs: Path) -> None:
    class One(PlannedNetworks):
        def network(self, name: str) -> Network:
            return Network(name, active=True, bridge="br0")

    assert NetworkNics(sysfs, network="lan").prepare("id", nic(), MAC, One()).mtu == 9000


@pytest.mark.parametrize(("text", "mtu"), [("1500\n", 0), ("9000\n", 9000), ("", 0), (None, 0)])
def test_an_mtu(tmp_path: Path, text: str | None, mtu: int) -> None:
    (tmp_path / "class/net/eth0").mkdir(parents=True)
    if text is not None:
        (tmp_path / "class/net/eth0/mtu").write_text(text)
    assert link.unusual_mtu(tmp_path, "eth0") == mtu
