"""The host's CPUs. How many of them machines may have does not belong here (capacity/)."""

from __future__ import annotations

from pathlib import Path

SYS = Path("/sys")


def online(sys: Path = SYS) -> int:
    """The number of logical CPUs that the host runs on. Raises ValueError or OSError when sysfs is unreadable."""
    return len(parse_list((sys / "devices/system/cpu/online").read_text()))


def parse_list(text: str) -> frozenset[int]:
    """CPU numbers of the kernel's list format, as in `0-3,8` (cpuset(7)). Raises ValueError."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        first, dash, last = part.partition("-")
        numbers.update(range(int(first), int(last if dash else first) + 1))
    return frozenset(numbers)
