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
from sri_libvirt.devices import BackingFile, FileIdentity, ImagePin
from sri_libvirt.errors import NotReady
from sri_libvirt.images import formats
from sri_libvirt.images.base import Base, Before
from sri_libvirt.images.formats import look_at
from sri_libvirt.images.identity import identity, restored, same_content, sampled, untouched
from sri_libvirt.looks import Looks
from sri_libvirt.paths import barred, has_access_list, unspeakable
from sri_libvirt.process import ProcessError
from sri_libvirt.records import SECOND

_PATH_MAX = 4096  # Linux opens no longer one, and each message about it would be as long
_REMEMBERED = 1024
"""Images that need not be checked again as long as they are the same files."""

T = TypeVar("T")


class LocalImages:
    """The image driver for absolute paths and `file://` URLs below `image_dirs`; not below those that are `closed`."""

    name = "local"

    def __init__(
        self,
        image_dirs: Sequence[Path],
        looks: Looks | None = None,
        closed: Sequence[Path] = (),
        qemu_user: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._image_dirs = tuple(image_dirs)
        self._closed = tuple(closed)
        self._qemu_user = qemu_user
        self._looks = looks or Looks()
        self._checked: deque[tuple[Path, FileIdentity]] = deque(maxlen=_REMEMBERED)

    def supports(self, image: str) -> bool:
        return path_of(image) is not None

    def resolve(self, image: str, waiter: str) -> None:
        """A path says it all."""

    def base(self, image: str, pin: ImagePin | None, waiter: str, before: Before | None) -> Base:  # noqa: ARG002 (of the contract)
        """The file below the image directories, or the one that a disk was made of. Raises NotReady."""
        try:
            if before is not None and before.identity is not None:
                return self._kept(image, before, before.identity)
            base = self._anew(image, self._path(image, before))
        except ProcessError as error:
            raise NotReady(f"no disk can be made of the image {image}: {error}", qcow2.CHECK) from error
        return base

    def _anew(self, image: str, path: Path) -> Base:
        base = self._base(image, path)
        assert base.disk is not None
        self._look(image, ("barred", path), lambda: _passed(image, path, self._qemu_user()))
        if base.disk.format == "qcow2":
            self._check(image, path, base.disk.identity)  # safe now: its header names no other file
        return base

    def _path(self, image: str, before: Before | None) -> Path:
        """Which file it is: a disk that is there says so itself, as long as that may be one."""
        if before is not None and self._look(image, ("allowed", before.path), lambda: self._allowed(before.path)):
            return before.path
        return self._look(image, ("resolve",), lambda: self._resolve(image))

    def _kept(self, image: str, before: Before, kept: FileIdentity) -> Base:
        """What a disk was made of must still be there: a changed base makes garbage of an overlay."""
        path = before.path
        seen = self._look(image, ("see", path), lambda: _see(image, path))
        self._look(image, ("barred", path), lambda: _passed(image, path, self._qemu_user()))
        now = seen.identity
        if not kept.digest or not untouched(kept, now):
            now = self._look(image, ("sample", path), lambda: _see(image, path, sample=True)).identity
            if not untouched(kept, now) and not restored(kept, now):
                raise _changed(image, path, kept, now)
            kept = now
        note = formats.note(seen.head) if before.format == "raw" else ""
        return Base(BackingFile(str(path), before.format, kept), note=note, place=self._place(image))

    def _base(self, image: str, path: Path) -> Base:
        return replace(self._look(image, ("base", path), lambda: _base(image, path)), place=self._place(image))

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
        if any(path.is_relative_to(os.path.realpath(directory)) for directory in self._closed):
            return False
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


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one descriptor shows of a file that QEMU can read."""

    identity: FileIdentity
    head: bytes


def _see(image: str, path: Path, *, sample: bool = False) -> _Seen:
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
            digest = sampled(fd, status.st_size) if sample else ""
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise NotReady(f"the file {path} of the image {image} is not there", "Put it back in its place.") from None
    except OSError as error:
        raise NotReady(f"the image {image} cannot be read: {error.strerror}") from error
    if not shared:
        raise NotReady(f"QEMU's user cannot read the image {image}", f"chmod 0444 {shlex.quote(str(path))}")
    return _Seen(identity(status, digest), head)


def _base(image: str, path: Path) -> Base:
    """A file as the base of a disk, and what an operator should know of it. Raises NotReady for one that is unfit."""
    seen = _see(image, path, sample=True)
    kind, size = look_at(seen.head, seen.identity.size, f"the image {image}", path.name)
    note = formats.note(seen.head) if kind == "raw" else ""
    return Base(BackingFile(path=str(path), format=kind, identity=seen.identity), size, note=note)


def _passed(image: str, path: Path, qemu_user: int | None) -> None:
    """Raise NotReady unless QEMU gets as far as the file."""
    try:
        directory = barred(path, qemu_user)
    except OSError as error:
        raise NotReady(f"the way to the image {image} cannot be looked at: {error.strerror}") from error
    if directory is not None:
        words = f"QEMU's user ({qemu_user}) cannot pass the directory {directory} of the image {image}"
        raise NotReady(words, f"chmod o+x {shlex.quote(str(directory))}, or put the image elsewhere.")


def _readable_by_others(fd: int, status: os.stat_result) -> bool:
    if status.st_mode & stat.S_IROTH:
        return True
    return has_access_list(fd)  # which may let QEMU's user in


def _changed(image: str, path: Path, kept: FileIdentity, now: FileIdentity) -> NotReady:
    advice = (
        "Put that file back in its place, with its time (cp -p), or delete the machine and create it anew. "
        "Publish new versions of an image under new names."
    )
    if same_content(kept, now):
        seconds, rest = divmod(kept.mtime_ns, SECOND)
        advice = (
            f"Its size and what was sampled of it are the same. If you know that nothing wrote to it: "
            f"touch --date=@{seconds}.{rest:09} {shlex.quote(str(path))}. Else: {advice[0].lower()}{advice[1:]}"
        )
    return NotReady(f"{path} is not the file any more that the machine's disk was made of (image {image})", advice)
