"""The processes of guests, as the kernel tells: which QEMU is whose, since when, and what it has used.

Found by libvirt's `-name guest=<id>` in the process's arguments; procfs may be the host's, mounted elsewhere. What
libvirt and QEMU themselves say does not belong here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sri_libvirt.host import files

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_GUEST = re.compile(rb"(?:^|,)guest=([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:,|$)")
_UTIME, _STIME, _START = 11, 12, 19
"""Fields of /proc/PID/stat (proc(5)), counted from behind the command, which may hold anything."""


@dataclass(frozen=True, slots=True)
class GuestProcess:
    """A QEMU. `started` and `cpu` are seconds since the host's boot and of CPU time; `cgroup` is "" if not known."""

    pid: int
    started: float
    cpu: float
    resident_bytes: int
    cgroup: str


def processes(procfs: Path) -> dict[str, GuestProcess]:
    """By machine id; one that ends while it is looked at is left out."""
    found: dict[str, GuestProcess] = {}
    for directory, machine_id in _qemus(procfs):
        if process := _process(directory):
            found[machine_id] = process
    return found


def _qemus(procfs: Path) -> Iterator[tuple[Path, str]]:
    for directory in procfs.iterdir():
        if not directory.name.isdecimal():
            continue
        arguments = files.content(directory / "cmdline")
        for word in arguments.split(b"\0") if arguments and b"guest=" in arguments else ():
            if match := _GUEST.search(word):
                yield directory, match[1].decode()
                break


def _process(directory: Path) -> GuestProcess | None:
    stat, memory = files.content(directory / "stat"), files.content(directory / "statm")
    if stat is None or memory is None:
        return None
    try:
        command, _, rest = stat.rpartition(b")")
        if b"(qemu" not in command:
            return None
        fields = rest.split()
        return GuestProcess(
            pid=int(directory.name),
            started=int(fields[_START]) / _TICKS,
            cpu=(int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS,
            resident_bytes=int(memory.split()[1]) * _PAGE,
            cgroup=_cgroup(files.text(directory / "cgroup") or ""),
        )
    except (ValueError, IndexError):
        return None


def _cgroup(text: str) -> str:
    """The group by version 2, or else that which counts its CPU time."""
    groups = {controllers: path for _, controllers, path in (line.split(":", 2) for line in text.splitlines() if line)}
    return groups.get("") or next((path for names, path in groups.items() if "cpuacct" in names.split(",")), "")
