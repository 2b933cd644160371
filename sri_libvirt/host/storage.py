"""Disks, and the file system behind a directory. Where a machine's disk is put does not belong here (volumes/)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from sri_libvirt.host import files

SYS = Path("/sys")
PROC = Path("/proc")

SECTOR = 512
"""The unit of `size`, whatever the device's own sectors are."""

_NOT_DISKS = re.compile(r"(loop|ram|zram)[0-9]+", re.ASCII)
_MOST_MOUNTS = 1 << 22


@dataclass(frozen=True, slots=True)
class Filesystem:
    """The file system that a path is on. `free_bytes` is what a process without privileges could still write."""

    path: str
    mount_point: str | None
    kind: str | None
    source: str | None
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class BlockDevice:
    """One whole block device with something in it; no loop devices and RAM disks."""

    name: str
    size_bytes: int
    rotational: bool | None
    removable: bool | None
    read_only: bool | None
    model: str | None
    numa: int | None
    built: bool
    """Made of other devices, or of nothing that the kernel knows: device mapper, RAID, network block devices."""


@dataclass(frozen=True, slots=True)
class Storage:
    """`filesystem` is None unless it was asked for."""

    filesystem: Filesystem | None
    devices: tuple[BlockDevice, ...]


def read(sysfs: Path = SYS, procfs: Path = PROC, state_dir: Path | None = None) -> Storage:
    """The block devices of these roots, and the file system of a directory of this process."""
    return Storage(
        filesystem=filesystem(state_dir, procfs) if state_dir else None,
        devices=tuple(device for name in files.names(sysfs / "block") if (device := _device(sysfs / "block" / name))),
    )


def filesystem(path: Path, procfs: Path = PROC) -> Filesystem | None:
    """What a directory is on; of one that does not exist yet, what its nearest parent is on. None when unreadable."""
    try:
        there = Path(os.path.realpath(path))
        while not there.exists():
            there = there.parent
        found = os.statvfs(there)
    except (OSError, ValueError):
        return None
    mount_point, kind, source = parse_mounts(mounts(procfs), str(there))
    return Filesystem(
        path=str(path),
        mount_point=mount_point,
        kind=kind,
        source=source,
        total_bytes=found.f_blocks * found.f_frsize,
        free_bytes=found.f_bavail * found.f_frsize,
    )


def mounts(procfs: Path = PROC) -> str:
    """The mounts that this process sees, as the kernel tells them; "" when unreadable."""
    return files.text(procfs / "self/mountinfo", _MOST_MOUNTS) or ""


def parse_mounts(mountinfo: str, path: str) -> tuple[str | None, str | None, str | None]:
    """Mount point, type and source of where a path is (proc_pid_mountinfo(5)); of several mounts the last."""
    fields, described = _mount_of(mountinfo, path) or ([], [])
    return (_unescaped(fields[4]), described[0], _unescaped(described[1])) if fields else (None, None, None)


def is_private(mountinfo: str, path: str) -> bool:
    """Whether a path lies in a directory that systemd gave to this service alone (PrivateTmp=): elsewhere that name is
    another file."""
    fields, _ = _mount_of(mountinfo, path) or ([], [])
    return bool(fields) and "/systemd-private-" in fields[3]


def _mount_of(mountinfo: str, path: str) -> tuple[list[str], list[str]] | None:
    """The fields before and after the dash of the mount that a path is on."""
    best: tuple[list[str], list[str]] | None = None
    for line in mountinfo.splitlines():
        mount, _, rest = line.partition(" - ")
        fields, described = mount.split(" "), rest.split(" ")
        if len(fields) < 6 or len(described) < 2:
            continue
        point = _unescaped(fields[4])
        longest = len(_unescaped(best[0][4])) if best else 0
        if (path == point or path.startswith(point.rstrip("/") + "/")) and len(point) >= longest:
            best = fields, described
    return best


def _unescaped(text: str) -> str:
    """Space, tab, newline and backslash stand as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _device(path: Path) -> BlockDevice | None:
    sectors = files.count(path / "size")
    if not sectors or _NOT_DISKS.fullmatch(path.name):
        return None
    return BlockDevice(
        name=path.name.replace("!", "/"),  # as in cciss!c0d0, which is /dev/cciss/c0d0
        size_bytes=sectors * SECTOR,
        rotational=files.flag(path / "queue/rotational"),
        removable=files.flag(path / "removable"),
        read_only=files.flag(path / "ro"),
        model=files.text(path / "device/model"),
        numa=_numa(path / "device"),
        built=not files.is_directory(path / "device"),
    )


def _numa(device: Path) -> int | None:
    """That of the device, or of the controller that it is behind."""
    for up in (".", "..", "../..", "../../..", "../../../.."):
        node = files.number(device / up / "numa_node")
        if node is not None:
            return node if node >= 0 else None
    return None
