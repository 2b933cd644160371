"""What the affinity and the cgroup of this process leave it of the host.

They say nothing about guests, which libvirt puts into cgroups of their own; they explain surprises.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sri_libvirt.host import files
from sri_libvirt.host.files import ascending

SYS = Path("/sys")
PROC = Path("/proc")

_NO_LIMIT = 1 << 60
"""Version 1 writes the largest number of pages where there is no limit."""

_MEMORY = ("memory.max", "memory.limit_in_bytes")


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no limit, or unknown."""

    cpus: tuple[int, ...] | None
    nodes: tuple[int, ...] | None
    """NUMA nodes that memory may come from."""
    cpu_millis: int | None
    """The least quota of the cgroup and those above it."""
    memory_bytes: int | None
    cgroup: str | None
    """Its path as /proc/self/cgroup has it: of the unified hierarchy, else of version 1's memory controller."""


def read(sysfs: Path = SYS, procfs: Path = PROC) -> Limits:
    """The limits of this process, if procfs shows it."""
    status = files.text(procfs / "self/status") or ""
    groups = parse_cgroups(files.text(procfs / "self/cgroup") or "")
    mount = sysfs / "fs/cgroup"
    unified = mount if (mount / "cgroup.controllers").exists() else mount / "unified"
    directories = [*_upwards(unified, groups.get(""))]
    for controller in ("memory", "cpu"):
        directories += _upwards(mount / controller, groups.get(controller))
    return Limits(
        cpus=_allowed(status, "Cpus_allowed_list"),
        nodes=_allowed(status, "Mems_allowed_list"),
        cpu_millis=min(filter(None, (_quota(directory) for directory in directories)), default=None),
        memory_bytes=min(filter(None, (_memory(directory) for directory in directories)), default=None),
        cgroup=groups.get("") or groups.get("memory"),
    )


def parse_cgroups(text: str) -> Mapping[str, str]:
    """Path by controller (cgroups(7)); "" is the unified hierarchy."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        _, colon, rest = line.partition(":")
        controllers, second, path = rest.partition(":")
        if colon and second and path.startswith("/"):
            found.update(dict.fromkeys(controllers.split(","), path))
    return found


def _upwards(mount: Path, path: str | None) -> Iterator[Path]:
    """A cgroup and those above it. Of one outside our cgroup namespace (`/..`) only the mount itself is seen."""
    parts = [part for part in (path or "").split("/") if part]
    if path is None or ".." in parts:
        parts = []
    for depth in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:depth])


def _allowed(status: str, name: str) -> tuple[int, ...] | None:
    found = re.search(rf"^{name}:\s*(\S+)$", status, re.M)
    try:
        return ascending(files.parse_list(found[1])) if found else None
    except ValueError:
        return None


def _quota(directory: Path) -> int | None:
    """In thousandths of a CPU."""
    quota, _, period = (files.text(directory / "cpu.max") or "").partition(" ")
    most, length = files.parse_number(quota), files.parse_number(period)
    if most is None or length is None:
        most, length = files.count(directory / "cpu.cfs_quota_us"), files.count(directory / "cpu.cfs_period_us")
    return most * 1000 // length if most and length and most > 0 and length > 0 else None


def _memory(directory: Path) -> int | None:
    found = (files.count(directory / name) for name in _MEMORY)
    return next((limit for limit in found if limit is not None and limit < _NO_LIMIT), None)
