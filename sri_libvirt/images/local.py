"""Images that are files of this host: the boot disk is an overlay on one, never a copy.

The reference is a tenant's string and names a file of the host. So: only regular files below the operator's image
directories, after resolving links; nothing that would make QEMU open another file (backing or external data file); the
format is read from the first bytes by us and pinned, so that QEMU never probes. Which file it was is kept with the
overlay, which is useless on any other: from then on the file that the overlay names is looked at, wherever links of the
reference and the settings have gone.
Their file system is an operator's and may hang: every look at it can be left behind (`looks.py`), so that
machines on one that hangs wait, and say so, and no lane does. Fetching images from elsewhere does not belong here.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import stat
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from sri_libvirt import qcow2
from sri_libvirt.devices import BackingFile, DiskFormat, DiskSource, FileIdentity
from sri_libvirt.errors import NotReady
from sri_libvirt.images import formats
from sri_libvirt.looks import Looks
from sri_libvirt.paths import MachinePaths, unspeakable
from sri_libvirt.process import ProcessError
from sri_libvirt.records import SECOND

HANDLE = "image"

_SECTOR = 512
_PATH_MAX = 4096  # Linux opens no longer one, and each message about it would be as long
_MIB = 1 << 20
_SAMPLES, _SAMPLE_BYTES = 64, 16 << 10
_REMEMBERED = 1024
"""Images that need not be checked again as long as they are the same files."""

T = TypeVar("T")


class LocalImages:
    """The image driver for absolute paths and `file://` URLs below `image_dirs`."""

    name = "local"

    def __init__(self, image_dirs: Sequence[Path], looks: Looks | None = None) -> None:
        self._image_dirs = tuple(image_dirs)
        self._looks = looks or Looks()
        self._checked: deque[tuple[Path, FileIdentity]] = deque(maxlen=_REMEMBERED)

    def supports(self, image: str) -> bool:
        return path_of(image) is not None

    def prepare(self, image: str, paths: MachinePaths, disk_bytes: int, made: DiskSource | None) -> DiskSource:
        """The overlay at `paths.image_disk`, made on the image unless it is there. Raises NotReady."""
        overlay = paths.image_disk
        disk_bytes = -(-disk_bytes // _SECTOR) * _SECTOR
        try:
            if made is not None:
                return self._check_made(image, made, overlay)
            if overlay.exists():
                return self._adopt(image, overlay, disk_bytes)
            return self._make(image, overlay, disk_bytes)
        except ProcessError as error:
            raise NotReady(f"no disk can be made of the image {image}: {error}", qcow2.CHECK) from error
        except OSError as error:
            raise NotReady(f"{overlay} cannot be made or read: {error.strerror}") from error

    def release(self, paths: MachinePaths) -> None:
        paths.image_disk.unlink(missing_ok=True)

    def _make(self, image: str, overlay: Path, disk_bytes: int) -> DiskSource:
        path = self._look(image, ("resolve",), lambda: self._resolve(image))
        base, note = self._base(image, path, disk_bytes)
        if base.format == "qcow2":
            self._check(image, path, base.identity)  # safe now: its header names no other file
        made = self._look(image, ("make", overlay), lambda: qcow2.make_unfinished(overlay, disk_bytes, base))
        qcow2.finish(made, overlay)
        # qemu-img opened the base by its name: it must still be the file that was looked at.
        if not _untouched(base.identity, self._look(image, ("stat", path), lambda: _identity(path.stat()))):
            overlay.unlink()
            raise NotReady(f"the image {image} changed while a disk was made of it", "It is tried again.")
        return DiskSource(HANDLE, str(overlay), "qcow2", disk_bytes, backing=base, note=note)

    def _adopt(self, image: str, overlay: Path, disk_bytes: int) -> DiskSource:
        """A disk that was made and not recorded: it may hold data of a run that the store does not remember."""
        found = qcow2.inspect(overlay)
        path = Path(found.backing)
        allowed = found.backing and self._look(image, ("allowed", path), lambda: self._allowed(path))
        if allowed and not found.corrupt:
            base, note = self._base(image, path, disk_bytes)
            whole = (found.backing_format, found.size) == (base.format, disk_bytes)
            if whole and base.identity.mtime_ns <= overlay.stat().st_mtime_ns:
                return DiskSource(HANDLE, str(overlay), "qcow2", disk_bytes, backing=base, note=note)
        raise NotReady(
            f"{overlay} is there and is not a disk of its image as that is now", "Move it away if nobody needs it."
        )

    def _check_made(self, image: str, made: DiskSource, overlay: Path) -> DiskSource:
        """What an earlier prepare returned must still be true: a changed base makes garbage of an overlay."""
        base = made.backing
        assert base is not None
        kept, path = base.identity, Path(base.path)
        now = self._look(image, ("see", path), lambda: _see(image, path)).identity
        if not kept.digest or not _untouched(kept, now):
            now = self._look(image, ("sample", path), lambda: _see(image, path, sampled=True)).identity
            if not _untouched(kept, now) and not _restored(kept, now):
                raise _changed(image, path, kept, now)
            made = replace(made, backing=replace(base, identity=now))
        if not overlay.exists():
            advice = "Restore it, or delete the machine and create it anew."
            raise NotReady(f"the machine's disk {overlay} is gone", advice)
        if (size := qcow2.inspect(overlay).size) != made.size:
            raise NotReady(f"the machine's disk {overlay} has {size} bytes, not {made.size}", qcow2.CHECK)
        return made

    def _base(self, image: str, path: Path, disk_bytes: int) -> tuple[BackingFile, str]:
        return self._look(image, ("base", path, disk_bytes), lambda: _base(image, path, disk_bytes))

    def _check(self, image: str, path: Path, identity: FileIdentity) -> None:
        """Check an image once; that takes long of a large one, so it is a place of its own."""
        if (path, identity) in self._checked:
            return
        what = f"checking the image {image} (qemu-img check)"
        self._looks.result(f"this image ({path})", identity, what, lambda: qcow2.check(path))
        self._checked.append((path, identity))

    def _look(self, image: str, key: tuple[Hashable, ...], work: Callable[[], T]) -> T:
        """The result of a work on the image's file system. Raises NotReady while that hangs."""
        return self._looks.result(self._place(image), (image, *key), f"looking at the image {image}", work)

    def _place(self, image: str) -> str:
        """Whose file system that is, by the words of the reference alone: to ask the file system might hang."""
        path = Path(os.path.normpath(path_of(image) or "/"))
        found = next((each for each in self._image_dirs if path.is_relative_to(each)), None)
        return f"the image directory {found}" if found else "paths outside the image directories"

    def _resolve(self, image: str) -> Path:
        path = path_of(image)
        if path is None:
            raise NotReady(f"{image} is not a path")
        # What lies elsewhere is not told apart from what does not exist: tenants do not explore the host.
        resolved = Path(os.path.realpath(path))
        if not self._allowed(resolved):
            allowed = ", ".join(map(str, self._image_dirs)) or "none"
            raise NotReady(
                f"the image {image} is not below an image directory (--image-dir: {allowed})",
                "Put the image there, or add its directory with --image-dir.",
            )
        if found := unspeakable(resolved):
            raise NotReady(f"the path of the image {image} holds {found}, which libvirt cannot be told", "Rename it.")
        if not resolved.exists():
            raise NotReady(f"the image {image} is not there (yet)", f"Put it at {path}; the machine starts then.")
        return resolved

    def _allowed(self, path: Path) -> bool:
        return any(path.is_relative_to(os.path.realpath(directory)) for directory in self._image_dirs)


def path_of(image: str) -> Path | None:
    """The absolute path that a reference means; None for any other form. Pure."""
    text = image
    if image.lower().startswith("file:"):
        try:
            parts = urlsplit(image)
        except ValueError:
            return None
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            return None
        text = unquote(parts.path)
    if not text.startswith("/") or "\0" in text or len(os.fsencode(text)) >= _PATH_MAX:
        return None
    return Path(text)


def look_at(head: bytes, file_bytes: int, image: str) -> tuple[DiskFormat, int]:
    """Format and guest-visible size of an image, from its first bytes; NotReady for one that cannot be a base."""
    if found := formats.foreign(head):
        raise NotReady(f"the image {image} is {found.name}, not raw or qcow2", found.advice)
    if not head.startswith(qcow2.MAGIC):
        if not file_bytes:
            raise NotReady(f"the image {image} is empty")
        return "raw", -(-file_bytes // _SECTOR) * _SECTOR
    return "qcow2", qcow2.check_alone(head, f"the image {image}").size


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one descriptor shows of a file that QEMU can read."""

    identity: FileIdentity
    head: bytes


def _see(image: str, path: Path, *, sampled: bool = False) -> _Seen:
    """Look at a file that may be a base, and at samples of its content. Raises NotReady."""
    try:
        # Not blocking: a pipe must not stop the lane. No link: the path is resolved already.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise NotReady(f"the image {image} is not a regular file")
            shared = _readable_by_others(fd, status)
            head = os.pread(fd, formats.HEAD_BYTES, 0)
            digest = _digest(fd, status.st_size) if sampled else ""
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise NotReady(f"the file {path} of the image {image} is not there", "Put it back in its place.") from None
    except OSError as error:
        raise NotReady(f"the image {image} cannot be read: {error.strerror}") from error
    if not shared:
        raise NotReady(f"QEMU's user cannot read the image {image}", f"chmod 0444 {shlex.quote(str(path))}")
    return _Seen(_identity(status, digest), head)


def _base(image: str, path: Path, disk_bytes: int) -> tuple[BackingFile, str]:
    """A file as the base of a disk, and what an operator should know of it. Raises NotReady for one that is unfit."""
    seen = _see(image, path, sampled=True)
    kind, size = look_at(seen.head, seen.identity.size, image)
    if size > disk_bytes:
        raise NotReady(
            f"the image {image} has {size} bytes, more than the class's root disk of {disk_bytes}",
            "Use a class with a larger root disk, or a smaller image.",
        )
    note = formats.note(seen.head) if kind == "raw" else ""
    return BackingFile(path=str(path), format=kind, identity=seen.identity), note


def _readable_by_others(fd: int, status: os.stat_result) -> bool:
    if status.st_mode & stat.S_IROTH:
        return True
    try:
        return "system.posix_acl_access" in os.listxattr(fd)  # which may let QEMU's user in
    except OSError:
        return False


def _identity(status: os.stat_result, digest: str = "") -> FileIdentity:
    return FileIdentity(status.st_ino, status.st_mtime_ns, status.st_size, digest)


def _digest(fd: int, size: int) -> str:
    """A digest of both ends and of samples between them: 3 MiB of any file are read, and no more."""
    step = max(size // _SAMPLES, 1)
    pieces = [(0, _MIB), (max(size - _MIB, 0), _MIB), *((at, _SAMPLE_BYTES) for at in range(0, size, step))]
    whole = hashlib.sha256()
    for at, length in pieces:
        whole.update(os.pread(fd, length, at))
    return whole.hexdigest()


def _untouched(kept: FileIdentity, now: FileIdentity) -> bool:
    """The very file, not written to since."""
    return (kept.inode, kept.mtime_ns, kept.size) == (now.inode, now.mtime_ns, now.size)


def _same_content(kept: FileIdentity, now: FileIdentity) -> bool:
    return kept.size == now.size and kept.digest in ("", now.digest)  # "": kept by an older version


def _restored(kept: FileIdentity, now: FileIdentity) -> bool:
    """Another file of the same content and time, as a backup puts one back; some keep whole seconds only."""
    whole_second = bool(kept.digest) and now.inode != kept.inode and now.mtime_ns == kept.mtime_ns // SECOND * SECOND
    return _same_content(kept, now) and (now.mtime_ns == kept.mtime_ns or whole_second)


def _changed(image: str, path: Path, kept: FileIdentity, now: FileIdentity) -> NotReady:
    advice = (
        "Put that file back in its place, with its time (cp -p), or delete the machine and create it anew. "
        "Publish new versions of an image under new names."
    )
    if _same_content(kept, now):
        seconds, rest = divmod(kept.mtime_ns, SECOND)
        advice = (
            f"Its size and what was sampled of it are the same. If you know that nothing wrote to it: "
            f"touch --date=@{seconds}.{rest:09} {shlex.quote(str(path))}. Else: {advice[0].lower()}{advice[1:]}"
        )
    return NotReady(f"{path} is not the file any more that the machine's disk was made of (image {image})", advice)
