"""Whether there is room to write things down, as those see it who only read: the reserve's file tells (`reserve.py`).

Nothing is written here, and nothing that is slow to load is needed.
"""

from __future__ import annotations

import os
from pathlib import Path

BYTES = 16 << 20
"""Of the reserve: some times what the log takes between two checkpoints (4 MiB) and the largest machine's row (1.3 MiB)
together. It is used over and over: a log that was folded into the database begins anew in the same blocks."""

_BLOCK = 512


def lacks(path: Path) -> bool:
    """Whether a reserve has been given up in part, or could not be made. One that never was lacks not."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return held(fd) < BYTES
    finally:
        os.close(fd)


def unwritable(path: Path) -> str:
    """Why nothing new may be on record beside this reserve, "" where nothing speaks for that."""
    if lacks(path):
        return "full"
    try:
        read_only = os.statvfs(path.parent).f_flag & os.ST_RDONLY
    except OSError:
        return ""
    return "read-only" if read_only else ""


def held(fd: int) -> int:
    """Bytes that the file really has."""
    found = os.fstat(fd)
    return min(found.st_size, found.st_blocks * _BLOCK)
