"""What the report's JSON promises (README, "What this host can sell"), and a host with something of everything.

What a report says of which host does not belong here.
"""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import Any

from tests.unit.host import devices, trees
from tests.unit.host.trees import Tree

Shape = Any
"""A type, a tuple of types, a list of one shape, or a dict: by name, or with the one key "*" for any string."""

NUMBER = (int, NoneType)
TEXT = (str, NoneType)
FLAG = (bool, NoneType)

PAGES: Shape = {"*": {"total": int, "free": NUMBER}}
SHAPE: Shape = {
    "schema": int,
    "host": {
        "cpu": {
            "architecture": TEXT,
            "model": TEXT,
            "packages": int,
            "cores": int,
            "threads": int,
            "online": [int],
        },
        "memory_bytes": NUMBER,
        "numa": [
            {"id": int, "cpus": [int], "memory_bytes": NUMBER, "hugepages": PAGES, "distances": {"*": int}},
        ],
        "nics": [
            {
                "name": str,
                "mac": TEXT,
                "speed_mbps": NUMBER,
                "driver": TEXT,
                "pci": TEXT,
                "numa": NUMBER,
                "carrier": FLAG,
                "sriov": ({"total": int, "configured": int, "free": int}, NoneType),
            }
        ],
        "pci": [
            {
                "address": str,
                "vendor": str,
                "device": str,
                "class": str,
                "driver": TEXT,
                "iommu_group": NUMBER,
                "numa": NUMBER,
            }
        ],
        "virtualisation": {
            "kvm": FLAG,
            "libvirt": TEXT,
            "qemu": TEXT,
            "machine_type": TEXT,
            "machine_types": ([str], NoneType),
            "firmware": ([{"loader": str, "nvram_template": str, "secure_boot": bool}], NoneType),
        },
        "filesystem": ({"total_bytes": int, "free_bytes": int}, NoneType),
    },
    "resources": [{"resource": str, "unit": str, "node": NUMBER, "budget": NUMBER, "claimed": NUMBER, "free": NUMBER}],
    "classes": (
        [
            {
                "name": str,
                "cpu_millis": int,
                "memory_bytes": int,
                "quantity": int,
                "used": int,
                "free": int,
                "limited_by": str,
            }
        ],
        NoneType,
    ),
    "closed": TEXT,
    "warnings": [str],
}


def faults(value: Any, shape: Shape, where: str = "") -> list[str]:
    """Where a value is not of a shape. More keys than promised are right; fewer are not."""
    if isinstance(shape, tuple):
        tried = [faults(value, each, where) for each in shape]
        return [] if [] in tried else [f"{where}: {value!r} is none of {shape}"]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{where}: {value!r} is no list"]
        return [fault for index, each in enumerate(value) for fault in faults(each, shape[0], f"{where}[{index}]")]
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return [f"{where}: {value!r} is no object"]
        keys = value if "*" in shape else shape
        missing = [f"{where}.{key}: is missing" for key in keys if key not in value]
        return missing + [
            fault
            for key in keys
            if key in value
            for fault in faults(value[key], shape.get(key, shape.get("*")), f"{where}.{key}")
        ]
    right = type(value) is shape  # a bool is no number here
    return [] if right else [f"{where}: {value!r} is no {shape.__name__}"]


def server(root: Path) -> Tree:
    """A host of two nodes with huge pages, a card with functions, a bridge, a bond's VLAN, a tap, a GPU and a disk."""
    tree = trees.build("x86_smt", root)
    tree.cpuinfo([{"vendor_id": "GenuineIntel", "model name": "A Xeon [bold]CPU[/bold]", "flags": "fpu lm vmx"}])
    tree.memory(64 << 20)
    tree.huge("sys/kernel/mm/hugepages", {2048: (96, 60), 1048576: (1, 1)})
    for node in (0, 1):
        tree.write(f"{trees.NODES}/node{node}/meminfo", f"Node {node} MemTotal: {32 << 20} kB")
    card = devices.pci(
        tree,
        "0000:3b:00.0",
        ids="8086:1592",
        device_class="020000",
        links={"driver": "ice", "iommu_group": 11},
        facts={"numa_node": 0, "sriov_totalvfs": 64, "sriov_numvfs": 2},
    )
    function = {"physfn": "0000:3b:00.0", "iommu_group": 12}
    devices.pci(tree, "0000:3b:01.0", ids="8086:1889", device_class="020000", links={**function, "driver": "vfio-pci"})
    devices.pci(tree, "0000:3b:01.1", ids="8086:1889", device_class="020000", links={**function, "driver": "iavf"})
    devices.functions(tree, card, "0000:3b:01.0", "0000:3b:01.1")
    tree.link("proc/4711/fd/33", "/dev/vfio/12")
    gpu = {"driver": "vfio-pci", "iommu_group": 40}
    devices.pci(tree, "0000:af:00.0", ids="10de:2235", device_class="030200", links=gpu, facts={"numa_node": 1})
    link = {"speed": 100000, "carrier": 1, "address": "02:00:00:00:00:01", "mtu": 9000}
    devices.interface(tree, "ens1f0", device=card, master="br0", facts=link)
    devices.interface(tree, "br0", facts={"bridge/stp_state": 0, "carrier": 1})
    devices.interface(tree, "br0.7", below="br0", facts={"uevent": "DEVTYPE=vlan"})
    devices.interface(tree, "vnet3", master="br0", facts={"tun_flags": "0x1002"})
    tree.write("proc/net/route", "Iface\tDestination\nbr0 00000000 0 0003 0 0 0 00000000")
    tree.write("sys/block/nvme0n1/size", 2 << 30)
    tree.write("sys/block/nvme0n1/queue/rotational", 0)
    tree.write("sys/block/nvme0n1/device/uevent", "")
    tree.write("sys/class/misc/kvm/dev", "10:232")
    return tree
