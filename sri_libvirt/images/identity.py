"""Which file it is: by its inode, time and size, and by a digest of samples of its content.

An overlay is useless on any other file than the one that it was made of. What follows where one has changed does not
belong here.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from sri_libvirt.devices import FileIdentity
from sri_libvirt.records import SECOND

_MIB = 1 << 20
_SAMPLES, _SAMPLE_BYTES = 64, 16 << 10


def identity(status: os.stat_result, digest: str = "") -> FileIdentity:
    """That of a file by its status, and what `sampled` says of its content."""
    return FileIdentity(status.st_ino, status.st_mtime_ns, status.st_size, digest)


def sampled(fd: int, size: int) -> str:
    """A digest of both ends and of samples between them: 3 MiB of any file are read, and no more."""
    step = max(size // _SAMPLES, 1)
    pieces = [(0, _MIB), (max(size - _MIB, 0), _MIB), *((at, _SAMPLE_BYTES) for at in range(0, size, step))]
    whole = hashlib.sha256()
    for at, length in pieces:
        whole.update(os.pread(fd, length, at))
    return whole.hexdigest()


def untouched(kept: FileIdentity, now: FileIdentity) -> bool:
    """The very file, not written to since."""
    return (kept.inode, kept.mtime_ns, kept.size) == (now.inode, now.mtime_ns, now.size)


def same_content(kept: FileIdentity, now: FileIdentity) -> bool:
    """As large, and the same as far as it was sampled."""
    return kept.size == now.size and kept.digest in ("", now.digest)  # "": kept by an older version


def restored(kept: FileIdentity, now: FileIdentity) -> bool:
    """Another file of the same content and time, as a backup puts one back; some keep whole seconds only."""
    whole_second = bool(kept.digest) and now.inode != kept.inode and now.mtime_ns == kept.mtime_ns // SECOND * SECOND
    return same_content(kept, now) and (now.mtime_ns == kept.mtime_ns or whole_second)


def digest_of(path: Path) -> str:
    """The digest of all of a file, `sha256:…`. Raises OSError."""
    found = hashlib.sha256()
    with path.open("rb") as reading:
        while piece := reading.read(_MIB):
            found.update(piece)
    return f"sha256:{found.hexdigest()}"
