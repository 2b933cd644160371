"""Room kept for what makes room: stops, deletes and detaches go on when guests have filled the file system.

One file beside the database, whose blocks are really there. It is given up slice by slice, no more than a write needs,
for others may take what is free first; and it is made whole again, before anything else may grow, once there is room.
Which works may have it does not belong here (that is whoever submits them, and `writer.py`).
"""

from __future__ import annotations

import os
from pathlib import Path

import structlog

from sri_libvirt.store.room import BYTES, held

log = structlog.get_logger(__name__)

SLICE = 1 << 20


class Reserve:
    """The file. Used by one thread at a time, who owns the database."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._whole = True  # until `refill` finds out otherwise, once

    def refill(self) -> bool:
        """Take what is free, up to the whole. Returns whether it is whole; says so in the log when that changes."""
        try:
            whole, problem = self._refilled(), ""
        except OSError as error:
            whole, problem = False, str(error.strerror)
        if whole != self._whole:
            self._whole = whole
            if whole:
                log.info("the state directory has its reserve again: everything is taken")
            else:
                log.warning(
                    "no room for the state directory's reserve: only deletes, stops and detaches are taken until there "
                    "is", file=str(self._path), problem=problem,
                )  # fmt: skip
        return whole

    def give(self) -> bool:
        """Give a slice back to the file system; False when nothing is left of it."""
        try:
            with self._path.open("r+b") as file:
                left = max(os.fstat(file.fileno()).st_size - SLICE, 0)
                os.ftruncate(file.fileno(), left)
                os.fsync(file.fileno())  # some file systems hold back what is free until then
        except OSError:
            return False
        log.info("the state directory's file system is full: a part of the reserve is given up", left=left)
        return True

    def _refilled(self) -> bool:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            before = held(fd)
            for at in range(before // SLICE * SLICE, BYTES, SLICE):
                os.posix_fallocate(fd, at, SLICE)
                if held(fd) < at + SLICE:  # a file system that compresses, and knows no other way
                    os.pwrite(fd, os.urandom(SLICE), at)
            if before < BYTES:
                os.fsync(fd)
            return True
        finally:
            os.close(fd)
