"""The host as the kernel shows it under two roots: everything that is for sale or limits what is.

`read` never raises and never guesses: what a tree does not say, or says in a broken way, is None or an empty tuple.
All numbers are those of the hardware; what the cgroup of this process leaves of them stands beside, in `limits`.
What libvirt and QEMU offer does not belong here (hypervisor/), nor how much of the host is sold (capacity/).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from sri_libvirt.host import cpu, limits, memory, nic, numa, pci, storage, virtualisation
from sri_libvirt.host.cpu import Cache, Core, Cpu, Kind, Package
from sri_libvirt.host.limits import Limits
from sri_libvirt.host.memory import HugePages, Memory
from sri_libvirt.host.nic import Nic, Sriov, VirtualFunction
from sri_libvirt.host.numa import Node
from sri_libvirt.host.pci import PciDevice
from sri_libvirt.host.storage import BlockDevice, Filesystem, Storage
from sri_libvirt.host.virtualisation import Virtualisation

__all__ = [
    "BlockDevice",
    "Cache",
    "Core",
    "Cpu",
    "Filesystem",
    "HugePages",
    "Inventory",
    "Kind",
    "Limits",
    "Memory",
    "Nic",
    "Node",
    "Package",
    "PciDevice",
    "Sriov",
    "Storage",
    "VirtualFunction",
    "Virtualisation",
    "read",
]

SYSFS = Path("/sys")
PROCFS = Path("/proc")


@dataclass(frozen=True, slots=True)
class Inventory:
    """One look at one host. Nodes, NICs, PCI and block devices are in the order of their numbers, names, addresses."""

    cpu: Cpu
    memory: Memory
    nodes: tuple[Node, ...]
    """Never empty: a host without NUMA files has one node 0."""
    nics: tuple[Nic, ...]
    pci: tuple[PciDevice, ...]
    storage: Storage
    virtualisation: Virtualisation
    limits: Limits


def read(sysfs: Path = SYSFS, procfs: Path = PROCFS, *, state_dir: Path | None = None) -> Inventory:
    """Look at the host of these roots, in some tens of milliseconds. `state_dir` asks for the file system behind it."""
    found, whole = cpu.read(sysfs, procfs), memory.read(sysfs, procfs)
    nodes = numa.read(found, whole, sysfs, procfs)
    return Inventory(
        cpu=found,
        memory=_whole(whole, nodes),
        nodes=nodes,
        nics=nic.read(sysfs, procfs),
        pci=pci.read(sysfs),
        storage=storage.read(sysfs, procfs, state_dir),
        virtualisation=virtualisation.read(found, sysfs, procfs),
        limits=limits.read(sysfs, procfs),
    )


def _whole(whole: Memory, nodes: tuple[Node, ...]) -> Memory:
    """With the sum of the nodes' memory where /proc/meminfo does not tell and all of them do, and of their huge pages
    where the kernel does not tell of its own.
    """
    amounts = [node.memory_bytes for node in nodes if node.memory_bytes is not None]
    if whole.total_bytes is None and len(amounts) == len(nodes):
        whole = replace(whole, total_bytes=sum(amounts))
    return whole if whole.hugepages else replace(whole, hugepages=memory.summed(node.hugepages for node in nodes))
