"""The host's memory. How much of it machines may have does not belong here (capacity/)."""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")


def total_bytes(proc: Path = PROC) -> int:
    """All memory that the kernel manages, in bytes. Raises ValueError or OSError when /proc/meminfo is unreadable."""
    return parse_total((proc / "meminfo").read_text())


def parse_total(meminfo: str) -> int:
    """MemTotal of /proc/meminfo (proc_meminfo(5)), in bytes."""
    for line in meminfo.splitlines():
        name, _, value = line.partition(":")
        if name == "MemTotal":
            number, unit = value.split()
            if unit != "kB":
                break
            return int(number) * 1024
    raise ValueError("/proc/meminfo has no MemTotal in kB")
