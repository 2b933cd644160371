"""Network interfaces and PCI devices."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from sri_libvirt.host import nic, pci
from sri_libvirt.host.nic import Nic, VirtualFunction
from sri_libvirt.host.pci import PciDevice
from tests.unit.host import devices
from tests.unit.host.trees import Tree

ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
{name}\t00000000\t0101A8C0\t{flags}\t0\t0\t0\t{mask}\t0\t0\t0
eth9\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "host")


def read(tree: Tree) -> dict[str, Nic]:
    return {found.name: found for found in nic.read(tree.sysfs, tree.procfs)}


def card(tree: Tree) -> str:
    """A card with three VFs: a guest's, one with an interface of the host, one without a driver."""
    where = devices.pci(
        tree,
        "0000:3b:00.0",
        ids="8086:10fb",
        device_class="020000",
        links={"driver": "ixgbe", "iommu_group": 17},
        facts={"numa_node": 1, "sriov_totalvfs": 63, "sriov_numvfs": 3},
    )
    devices.functions(tree, where, "0000:3b:10.0", "0000:3b:10.2", "0000:3b:10.4")
    function(tree, "0000:3b:10.0", {"driver": "vfio-pci", "iommu_group": 40})
    tree.link("proc/4711/fd/33", "/dev/vfio/40")
    own = function(tree, "0000:3b:10.2", {"driver": "ixgbevf"})
    function(tree, "0000:3b:10.4", {})
    facts = {"address": "a0:36:9f:00:00:01", "speed": 10000, "carrier": 1, "mtu": 9000}
    devices.interface(tree, "ens1f0", device=where, facts=facts)
    devices.interface(tree, "ens1f0v1", device=own)
    return where


def function(tree: Tree, address: str, links: Mapping[str, object]) -> str:
    links = {"physfn": "0000:3b:00.0", **links}
    return devices.pci(tree, address, ids="8086:10ed", device_class="020000", links=links)


def test_a_card(tree: Tree) -> None:
    card(tree)
    found = read(tree)["ens1f0"]
    assert (found.kind, found.mac, found.mtu, found.speed_mbps) == ("ethernet", "a0:36:9f:00:00:01", 9000, 10000)
    assert (found.carrier, found.driver, found.pci, found.numa) == (True, "ixgbe", "0000:3b:00.0", 1)
    assert (found.physical_function, read(tree)["ens1f0v1"].physical_function) == (None, "0000:3b:00.0")


def test_virtual_functions(tree: Tree) -> None:
    card(tree)
    found = read(tree)["ens1f0"].sriov
    assert found is not None
    assert (found.total, found.configured, found.free) == (63, 3, 2)
    assert found.functions == (
        VirtualFunction(0, "0000:3b:10.0", "vfio-pci", None, 40, free=False),
        VirtualFunction(1, "0000:3b:10.2", "ixgbevf", "ens1f0v1", None, free=True),
        VirtualFunction(2, "0000:3b:10.4", None, None, None, free=True),
    )
    assert read(tree)["ens1f0v1"].sriov is None


@pytest.mark.parametrize("use", ["port", "vlan", "route"])
def test_a_virtual_function_that_the_host_uses_is_not_free(use: str, tree: Tree) -> None:
    card(tree)
    if use == "port":
        tree.link("sys/class/net/ens1f0v1/master", "../../../../virtual/net/br0")
    elif use == "vlan":
        devices.interface(tree, "ens1f0v1.5", below="ens1f0v1")
    else:
        tree.write("proc/net/route", ROUTES.format(name="ens1f0v1", flags="0003", mask="00000000"))
    found = read(tree)["ens1f0"].sriov
    assert found is not None
    assert [each.free for each in found.functions] == [False, False, True]


def test_a_card_that_can_but_has_none(tree: Tree) -> None:
    facts = {"sriov_totalvfs": 8, "sriov_numvfs": 0}
    where = devices.pci(tree, "0000:3b:00.0", ids="8086:10fb", device_class="020000", facts=facts)
    devices.interface(tree, "ens1f0", device=where)
    found = read(tree)["ens1f0"].sriov
    assert found is not None
    assert (found.total, found.configured, found.free) == (8, 0, 0)


def test_a_virtio_interface_is_on_the_pci_device_below_it(tree: Tree) -> None:
    where = devices.pci(tree, "0000:00:03.0", ids="1af4:1041", device_class="020000", facts={"numa_node": 0})
    devices.interface(tree, "eth0", device=f"{where}/virtio1")
    tree.link(f"sys/{where}/virtio1/driver", "../../../../bus/virtio/drivers/virtio_net")
    found = read(tree)["eth0"]
    assert (found.pci, found.driver, found.numa) == ("0000:00:03.0", "virtio_net", 0)


def test_bond_bridge_and_vlan(tree: Tree) -> None:
    devices.interface(tree, "bond0", facts={"bonding/mode": "802.3ad 4"})
    for number in (0, 1):
        where = devices.pci(tree, f"0000:00:0{number + 3}.0", ids="8086:100e", device_class="020000")
        devices.interface(tree, f"eth{number}", device=where, master="bond0")
    devices.interface(tree, "bond0.7", below="bond0", master="br7", facts={"uevent": "DEVTYPE=vlan\nIFINDEX=9"})
    devices.interface(tree, "br7", facts={"bridge/stp_state": 0})
    devices.interface(tree, "vnet0", master="br7", facts={"tun_flags": "0x1002"})
    devices.interface(tree, "ovs-system")
    devices.interface(tree, "eth2", master="ovs-system")
    tree.write("proc/net/vlan/bond0.7", "bond0.7  VID: 7\t REORDER_HDR: 1  dev->priv_flags: 1")
    found = read(tree)
    kinds = {name: each.kind for name, each in found.items()}
    assert kinds == {
        "bond0": "bond",
        "bond0.7": "vlan",
        "br7": "bridge",
        "eth0": "ethernet",
        "eth1": "ethernet",
        "eth2": "virtual",
        "ovs-system": "ovs",
        "vnet0": "tap",
    }
    assert (found["bond0"].ports, found["eth0"].master) == (("eth0", "eth1"), "bond0")
    assert (found["bond0.7"].lower, found["bond0.7"].vlan, found["bond0.7"].master) == (("bond0",), 7, "br7")
    assert (found["br7"].ports, found["br7"].vlan) == (("bond0.7", "vnet0"), None)
    assert found["eth2"].master == "ovs-system"


def test_what_an_interface_does_not_tell(tree: Tree) -> None:
    devices.interface(tree, "eth0", facts={"speed": -1, "flags": "0x1002", "carrier": 0})
    found = read(tree)["eth0"]
    assert (found.speed_mbps, found.carrier, found.mac, found.driver, found.pci) == (None, None, None, None, None)


@pytest.mark.parametrize("speed", [0, 4294967295, -1, "fast"])
def test_no_speed(speed: object, tree: Tree) -> None:
    devices.interface(tree, "eth0", facts={"speed": speed})
    assert read(tree)["eth0"].speed_mbps is None


def test_neither_loopback_nor_files_are_interfaces(tree: Tree) -> None:
    devices.interface(tree, "lo", facts={"type": 772})
    tree.write("sys/class/net/bonding_masters", "bond0")
    assert read(tree) == {}


@pytest.mark.parametrize(
    ("flags", "mask", "leads"),
    [("0003", "00000000", True), ("0002", "00000000", False), ("0203", "00000000", False), ("0003", "000000FF", False)],
)
def test_default_route(flags: str, mask: str, leads: bool) -> None:
    found = nic.parse_routes(ROUTES.format(name="eth0", flags=flags, mask=mask))
    assert found == ({"eth0"} if leads else set())


def test_default_route_of_ipv6() -> None:
    zeros, rest = "0" * 32, "00000400 00000001 00000000"
    text = (
        f"{zeros} 00 {zeros} 00 {zeros} {rest} 00000003     eth0\n"
        f"{zeros} 00 {zeros} 00 {zeros} {rest} 00200200       lo\n"
        f"fd{zeros[2:]} 40 {zeros} 00 {zeros} {rest} 00000001     eth1\n"
        "odd\n"
    )
    assert nic.parse_routes6(text) == {"eth0"}


def test_under_another_root_the_first_process_is_in_the_hosts_namespace(tree: Tree) -> None:
    tree.write("proc/net/route", ROUTES.format(name="eth0", flags="0003", mask="00000000"))
    assert nic.default_routes(tree.procfs) == {"eth0"}
    tree.write("proc/1/net/route", ROUTES.format(name="eth1", flags="0003", mask="00000000"))
    assert nic.default_routes(tree.procfs) == {"eth1"}


def test_pci_devices(tree: Tree) -> None:
    devices.pci(tree, "0000:00:01.0", ids="8086:3420", device_class="060400")
    links = {"driver": "nvidia", "iommu_group": 7}
    devices.pci(tree, "10000:e1:00.0", ids="10de:2330", device_class="030200", links=links, facts={"numa_node": -1})
    where = function(tree, "0000:3b:10.0", {})
    tree.write(f"sys/{where}/numa_node", 1)
    vf, gpu = pci.read(tree.sysfs)
    assert gpu == PciDevice("10000:e1:00.0", "10de", "2330", "030200", None, None, "nvidia", 7, None, None)
    assert (gpu.gpu, vf.gpu) == (True, False)
    assert (vf.address, vf.driver, vf.numa, vf.physical_function) == ("0000:3b:10.0", None, 1, "0000:3b:00.0")


def test_events_tell_what_a_tree_lost(tree: Tree) -> None:
    tree.write("sys/bus/pci/devices/0000:03:00.0/uevent", "DRIVER=nvme\nPCI_CLASS=10802\nPCI_ID=144D:A808")
    (found,) = pci.read(tree.sysfs)
    assert (found.vendor, found.device, found.device_class, found.driver) == ("144d", "a808", "010802", "nvme")


@pytest.mark.parametrize("event", ["", "PCI_ID=144D:A808", "PCI_CLASS=10802", "PCI_ID=144D:FFFFF\nPCI_CLASS=10802"])
def test_a_device_that_does_not_say_what_it_is_is_left_out(event: str, tree: Tree) -> None:
    tree.write("sys/bus/pci/devices/0000:03:00.0/uevent", event)
    assert pci.read(tree.sysfs) == ()


def test_a_function_that_waits_for_a_guest_is_free_and_one_that_a_process_has_is_not(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the operator has bound all of them to vfio."""
    where = devices.pci(tree, "0000:3b:00.0", ids="8086:10fb", device_class="020000", facts={"sriov_totalvfs": 4})
    devices.functions(tree, where, "0000:3b:10.0", "0000:3b:10.2")
    for number, address in enumerate(("0000:3b:10.0", "0000:3b:10.2")):
        function(tree, address, {"driver": "vfio-pci", "iommu_group": 40 + number})
    devices.interface(tree, "ens1f0", device=where)
    tree.link("proc/4711/fd/33", "/dev/vfio/41")
    tree.link("proc/4711/fd/34", "/dev/vfio/vfio")
    found = read(tree)["ens1f0"].sriov
    assert found is not None
    assert [each.free for each in found.functions] == [True, False]
    tree.write("proc/1/fd/0", "")
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = read(tree)["ens1f0"].sriov
    assert found is not None
    assert found.free == 0, "who may not see what others have open does not know"


def test_a_card_has_its_functions_once_however_many_interfaces_are_on_it(tree: Tree) -> None:
    """A switch in a card has a representor for each VF, an old card two ports on one function, InfiniBand children."""
    facts = {"sriov_totalvfs": 8, "sriov_numvfs": 4}
    switch = devices.pci(tree, "0000:3b:00.0", ids="15b3:1019", device_class="020000", facts=facts)
    devices.interface(tree, "ens1f0np0", device=switch, facts={"phys_port_name": "p0", "dev_port": 0})
    for number in range(4):
        port = {"phys_port_name": f"pf0vf{number}", "dev_port": 0}
        devices.interface(tree, f"ens1f0npf0vf{number}", device=switch, facts=port)
    devices.interface(tree, "ens1f0npf0sf88", device=switch, facts={"phys_port_name": "c1pf0sf88"})
    old = devices.pci(tree, "0000:5e:00.0", ids="15b3:1003", device_class="028000", facts=facts)
    devices.interface(tree, "ens2d1", device=old, facts={"dev_port": 1})
    devices.interface(tree, "ens2", device=old, facts={"dev_port": 0})
    fabric = devices.pci(tree, "0000:86:00.0", ids="15b3:1017", device_class="020700", facts=facts)
    devices.interface(tree, "ib0", device=fabric, facts={"type": 32})
    devices.interface(tree, "ib0.8001", device=fabric, facts={"type": 32, "parent": "ib0"})
    found = read(tree)
    assert len(found) == 10
    assert {name: each.sriov.configured for name, each in found.items() if each.sriov} == {
        "ens1f0np0": 4, "ens2": 4, "ib0": 4,
    }  # fmt: skip


def test_a_containers_cable_is_no_ethernet_card(tree: Tree) -> None:
    devices.interface(tree, "veth1234", below="eth0")
    devices.interface(tree, "dummy0")
    devices.interface(tree, "vlan7", facts={"uevent": "DEVTYPE=vlan"})
    where = devices.pci(tree, "0000:00:03.0", ids="1af4:1000", device_class="020000")
    devices.interface(tree, "eth0", device=f"{where}/virtio1")
    kinds = {name: each.kind for name, each in read(tree).items()}
    assert kinds == {"veth1234": "virtual", "dummy0": "virtual", "vlan7": "vlan", "eth0": "ethernet"}
