"""How much of a file system machines could fill. Which machine may fill how much does not belong here (capacity/)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DISKS = (".qcow2", ".raw")
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Space:
    """A file system: its size, and what of it others than us hold or nobody can have. Bytes."""

    total_bytes: int
    others_bytes: int


def space(root: Path, ours: Path) -> Space:
    """The file system that `root` is on. What lies in the directories of `ours` is not others'. Raises OSError.

    What of ours cannot be read counts as others': less is for sale then, never more.
    """
    found = os.statvfs(root)
    total, available = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    return Space(total, max(0, total - available - held(ours)))


def available(path: Path) -> int:
    """Bytes that a file system still takes of root. Raises OSError."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def held(directory: Path) -> int:
    """Bytes that the disks in the directories of a directory really take; of sparse ones what is written.

    Other files there (a machine's console log, its copy of a kernel) are nothing that anybody was promised.
    """
    machines = (each.path for each in _entries(directory) if each.is_dir(follow_symlinks=False))
    files = (file for machine in machines for file in _entries(machine) if file.name.endswith(DISKS))
    return sum(map(_blocks, files)) * _BLOCK


def _entries(directory: Path | str) -> Iterator[os.DirEntry[str]]:
    """What is in a directory. A start waits for it, and pathlib would take ten times as long for a thousand."""
    try:
        with os.scandir(directory) as entries:
            yield from entries
    except OSError:
        return  # gone meanwhile


def _blocks(file: os.DirEntry[str]) -> int:
    try:
        return file.stat(follow_symlinks=False).st_blocks
    except OSError:
        return 0  # gone meanwhile
