"""What this host lets QEMU open a disk with: O_DIRECT by file, io_uring and Linux AIO by kernel and by QEMU's build.

Found out by doing it, never by names and versions of file systems and kernels. `qemu-img`, of one build with QEMU, is
the one that tries io_uring and Linux AIO. It runs as root and QEMU does not, so what the kernel keeps from others is
read, too. Every look may hang with the disk's file system: who looks sees to that. What follows for a disk does not
belong here.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

from sri_libvirt import process
from sri_libvirt.host import files
from sri_libvirt.process import ProcessError

AIO_MARGIN = 16 << 10
"""Requests of Linux AIO that are left to starts under way and to others; each QEMU that uses it takes 1,024."""

_SECONDS = 10.0


def takes_direct(path: Path) -> bool:
    """Whether a file or block device can be opened past the page cache; no for one that cannot be opened at all.

    The file itself is opened, for reading: what its file system, its layer or its attributes make of it, another file
    in its directory might not tell, and there need be no room for one.
    """
    try:
        # Not blocking: whatever may lie there, this is no way to be stopped.
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_DIRECT))
    except OSError:
        return False
    return True


def allows_io_uring(procfs: Path) -> bool:
    """Whether the kernel leaves io_uring to a process like QEMU, which has no privilege; those before 6.6 always do."""
    return files.text(procfs / "sys/kernel/io_uring_disabled") in (None, "0")


def has_room_for_aio(procfs: Path) -> bool:
    """Whether one more QEMU gets its requests of Linux AIO: without them it does not start."""
    taken, most = (files.count(procfs / "sys/fs" / name) for name in ("aio-nr", "aio-max-nr"))
    return taken is not None and most is not None and taken + AIO_MARGIN <= most


def works(io: Literal["io_uring", "native"], path: Path, *, block: bool) -> bool:
    """Whether QEMU can open a file or block device with it; with Linux AIO past the page cache, as it must.

    Raises ProcessError when it does not say so in time.
    """
    driver = "host_device" if block else "file"
    node = {"driver": driver, "filename": str(path), "aio": io, "cache": {"direct": io == "native"}}
    try:
        process.run(["qemu-img", "info", "--force-share", f"json:{json.dumps(node)}"], deadline=_SECONDS)
    except ProcessError as error:
        if error.late:
            raise
        return False
    return True
