"""What a host gives to machines: what the hardware has, less what the host keeps, times what may be promised. Pure.

Reading the hardware does not belong here (host/), nor who has what of it (`placement.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from sri_libvirt.host.inventory import Inventory
from sri_libvirt.records import GIB
from sri_libvirt.resources import ANYWHERE, CPU, DISK, MACHINES, MEMORY, Place, hugepages, virtual_functions

UNLIMITED = 2**63 - 1
"""The budget of what nobody limits."""

LEAST_RESERVE = GIB
RESERVED_PART = 50
"""The host keeps a fiftieth of its memory, and at least 1 GiB, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What there is of each resource, of one NUMA node or of a whole host.

    `cpus` are logical CPUs that are online; `memory_bytes` counts pages of every size; `hugepages` are bytes set aside
    for pages of a size in kB; `vfs` are virtual functions that guests can have, by the name of their card; `pci` are
    devices that can be passed through.
    """

    cpus: int
    memory_bytes: int
    hugepages: Mapping[int, int] = field(default_factory=dict)
    vfs: Mapping[str, int] = field(default_factory=dict)
    pci: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hardware:
    """A host: in all, by NUMA node, and the file system behind the state directory.

    `disk_bytes` is its size, `disk_others_bytes` what others than our machines hold of it or cannot be had.
    """

    total: Resources
    nodes: Mapping[int, Resources] = field(default_factory=dict)
    disk_bytes: int = 0
    disk_others_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Reserves:
    """What the operator keeps back and how much may be promised twice.

    `memory_bytes` None is the default, max(1 GiB, 2 %); `cpu_millis` are thousandths of a CPU; `machines` 0 is no
    limit.
    """

    memory_bytes: int | None = None
    cpu_millis: int = 0
    cpu_overcommit: Fraction = Fraction(1)
    disk_overcommit: Fraction = Fraction(1)
    machines: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """How one resource's budget comes about: `total` - `reserved`, times `ratio`, is `budget`; `why` of the reserve."""

    resource: str
    total: int
    reserved: int
    ratio: Fraction
    budget: int
    why: str


@dataclass(frozen=True, slots=True)
class Budget:
    """What machines can have, by place; what is not in it there is none of. `lines` tell how the host's came about."""

    amounts: Mapping[Place, int]
    lines: tuple[Line, ...] = ()

    def of(self, resource: str, node: int = ANYWHERE) -> int:
        return self.amounts.get((resource, node), 0)


def reserved_memory(total: int, reserves: Reserves) -> int:
    """The memory that the host keeps for itself, in bytes."""
    if reserves.memory_bytes is not None:
        return reserves.memory_bytes
    return max(LEAST_RESERVE, total // RESERVED_PART)


def budget(hardware: Hardware, reserves: Reserves) -> Budget:
    """The budget of a host. Never negative.

    The reserves are taken off the whole host: a node gives all that it has as long as the host keeps enough in all.
    """
    lines = _lines(hardware, reserves)
    amounts: dict[Place, int] = {(line.resource, ANYWHERE): line.budget for line in lines}
    _devices(amounts, ANYWHERE, hardware.total)
    for number, node in hardware.nodes.items():
        amounts[CPU, number] = _times(node.cpus * 1000, reserves.cpu_overcommit)
        amounts[MEMORY, number] = max(0, node.memory_bytes - sum(node.hugepages.values()))
        _devices(amounts, number, node)
    return Budget(amounts, lines)


def _lines(hardware: Hardware, reserves: Reserves) -> tuple[Line, ...]:
    total = hardware.total
    pages = sum(total.hugepages.values())
    kept = reserved_memory(total.memory_bytes, reserves)
    told = "--reserved-memory" if reserves.memory_bytes is not None else "the host's own, max(1 GiB, 2 %)"
    return (
        _line(CPU, total.cpus * 1000, reserves.cpu_millis, reserves.cpu_overcommit, "--reserved-cpus"),
        _line(MEMORY, total.memory_bytes, kept + pages, Fraction(1), f"{told}{' and huge pages' if pages else ''}"),
        _line(
            DISK,
            hardware.disk_bytes,
            hardware.disk_others_bytes,
            reserves.disk_overcommit,
            "what others hold of the file system",
        ),
        _line(MACHINES, reserves.machines or UNLIMITED, 0, Fraction(1), ""),
    )


def _line(resource: str, total: int, reserved: int, ratio: Fraction, why: str) -> Line:
    return Line(resource, total, reserved, ratio, _times(max(0, total - reserved), ratio), why if reserved else "")


def _times(amount: int, ratio: Fraction) -> int:
    return min(UNLIMITED, amount * ratio.numerator // ratio.denominator)


def _devices(amounts: dict[Place, int], node: int, resources: Resources) -> None:
    for kilobytes, size in resources.hugepages.items():
        amounts[hugepages(kilobytes), node] = size
    for card, count in resources.vfs.items():
        amounts[virtual_functions(card), node] = count
    for address in resources.pci:
        amounts[f"pci/{address}", node] = 1


def of_inventory(inventory: Inventory) -> Hardware:
    """The hardware that an inventory tells of; what it does not know there is none of.

    CPUs that the kernel's scheduler leaves alone (isolcpus=) are none of a guest's, which nobody pins to them.
    """
    isolated = frozenset(inventory.cpu.isolated)
    cards = {nic.name: (nic.numa, nic.sriov.configured) for nic in inventory.nics if nic.sriov}
    nodes = {
        node.id: Resources(
            cpus=len(frozenset(node.cpus) - isolated),
            memory_bytes=node.memory_bytes or 0,
            hugepages={size: pages.total * size * 1024 for size, pages in node.hugepages.items()},
            vfs={name: count for name, (numa, count) in cards.items() if numa == node.id},
        )
        for node in inventory.nodes
    }
    total = Resources(
        cpus=len(frozenset(inventory.cpu.online) - isolated),
        memory_bytes=inventory.memory.total_bytes or 0,
        hugepages={size: pages.total * size * 1024 for size, pages in inventory.memory.hugepages.items()},
        vfs={name: count for name, (_, count) in cards.items()},
    )
    return Hardware(total, nodes)
