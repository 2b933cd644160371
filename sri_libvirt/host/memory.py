"""The host's memory. How much of it machines may have does not belong here (capacity/).

Huge pages are those of sysfs: /proc/meminfo knows one size only, and lstopo does not look there either.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sri_libvirt.host import files

PROC = Path("/proc")
SYS = Path("/sys")

_LINE = re.compile(r"^(?:Node\s+[0-9]+\s+)?(\w+):\s+([0-9]{1,15})\s*kB\s*$", re.M | re.ASCII)
_SIZE = re.compile(r"hugepages-([0-9]{1,12})kB", re.ASCII)


@dataclass(frozen=True, slots=True)
class HugePages:
    """Pages of one size."""

    total: int
    free: int | None


@dataclass(frozen=True, slots=True)
class Memory:
    """The host's memory as a whole."""

    total_bytes: int | None
    available_bytes: int | None
    """What could be used without swapping, by the kernel's estimate."""
    swap_bytes: int | None
    hugepages: Mapping[int, HugePages]
    """By size in kB, over all nodes; empty where the kernel has none."""


def read(sysfs: Path = SYS, procfs: Path = PROC) -> Memory:
    """The memory of these roots."""
    found = parse(files.text(procfs / "meminfo") or "")
    return Memory(
        total_bytes=found.get("MemTotal"),
        available_bytes=found.get("MemAvailable"),
        swap_bytes=found.get("SwapTotal"),
        hugepages=hugepages(sysfs / "kernel/mm/hugepages"),
    )


def parse(meminfo: str) -> Mapping[str, int]:
    """The amounts of /proc/meminfo or of a node's meminfo, in bytes; lines that are no amount in kB are left out."""
    return {name: int(amount) * 1024 for name, amount in _LINE.findall(meminfo)}


def summed(parts: Iterable[Mapping[int, HugePages]]) -> Mapping[int, HugePages]:
    """The pages of all parts, by size; how many are free where all of them tell."""
    found: dict[int, HugePages] = {}
    for part in parts:
        for size, pages in part.items():
            before = found.get(size, HugePages(0, 0))
            free = None if before.free is None or pages.free is None else before.free + pages.free
            found[size] = HugePages(before.total + pages.total, free)
    return dict(sorted(found.items()))


def hugepages(directory: Path) -> Mapping[int, HugePages]:
    """The pages of a directory of the kernel, by size in kB; a size whose number cannot be read is left out."""
    found: dict[int, HugePages] = {}
    for name in files.names(directory):
        size = _SIZE.fullmatch(name)
        total = files.count(directory / name / "nr_hugepages") if size else None
        if size and total is not None:
            found[int(size[1])] = HugePages(total, files.count(directory / name / "free_hugepages"))
    return dict(sorted(found.items()))
