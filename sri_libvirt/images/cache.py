"""The image cache: files that were fetched, each once on this host, and never taken from a machine that needs it.

A file has its name, which is the digest of its bytes, once it is whole, synced and looked at; before that it is a part.
The store says what is there (`image`) and who needs it; delete and need are decided in one of its transactions, and a
file is named and removed under one lock. One that an overlay of any machine's directory names stays too, whatever the
store says: that may be a backup that was put back. Fetching does not belong here (`pulling.py`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import structlog

from sri_libvirt import failpoints, qcow2
from sri_libvirt.devices import ImagePin
from sri_libvirt.errors import NotReady, SRIError, Unavailable
from sri_libvirt.images import formats
from sri_libvirt.images.identity import digest_of
from sri_libvirt.images.idle import idle
from sri_libvirt.paths import install
from sri_libvirt.process import ProcessError
from sri_libvirt.records import CachedImage

log = structlog.get_logger(__name__)

MODE = 0o444
PART = ".part"
PARTS_KEPT, PARTS_LEFT = 24 * 3600.0, 600.0
"""Seconds after which a part goes to which nothing is written any more: as a rule, and where room lacks."""

Kind = Literal["disk", "file"]
"""Whether a file is to be the base of a disk; of a kernel or initramfs nothing is asked."""

T = TypeVar("T")


class Ledger(Protocol):
    """What is asked of a transaction of the store."""

    def keep_image(self, image: CachedImage) -> None: ...

    def keep_reference(self, name: str, pin: ImagePin) -> None: ...

    def forget_image(self, name: str) -> None: ...

    def drop_images(self, choose: Callable[[Sequence[CachedImage]], Sequence[CachedImage]]) -> list[CachedImage]: ...

    def meta(self, key: str) -> str | None: ...

    def set_meta(self, key: str, value: str) -> None: ...


class Books(Protocol):
    """What is asked of the store."""

    def image(self, name: str) -> CachedImage | None: ...

    def images(self) -> list[tuple[CachedImage, int]]: ...

    def reference(self, name: str) -> ImagePin | None: ...

    def write(self, work: Callable[[Ledger], T]) -> T: ...

    @property
    def clock(self) -> Callable[[], int]: ...


@dataclass(frozen=True, slots=True)
class Checked:
    """What hashing a file anew has shown: `problem` is "" of one that is as it was."""

    image: CachedImage
    problem: str = ""


class Cache:
    """The files in `directory`. Thread-safe; one process per state directory. `machines` is where overlays lie."""

    def __init__(self, directory: Path, machines: Path, books: Books) -> None:
        self.directory = directory
        self._machines = machines
        self._books = books
        self._lock = threading.Lock()

    def path(self, image: CachedImage) -> Path:
        """Where a file is. Disks end in what they are: Debian's AppArmor helper knows those."""
        name = image.digest.rpartition(":")[2]
        return self.directory / (name if image.format == "file" else f"{name}.{image.format}")

    def find(self, name: str) -> CachedImage | None:
        """What was fetched by that name; None if it is not there (any more). Raises NotReady if it was changed."""
        image = self._books.image(name)
        if image is None:
            return None
        path = self.path(image)
        try:
            status = path.stat(follow_symlinks=False)
        except FileNotFoundError:
            log.warning("a file of the image cache is gone; it is fetched again", file=str(path), source=image.source)
            self._books.write(lambda tx: tx.forget_image(name))
            return None
        if (status.st_size, status.st_mtime_ns) != (image.size, image.mtime_ns):
            raise NotReady(
                f"{path}, which was fetched from {image.source}, was changed since",
                "`sri-libvirt images check` hashes it anew: one that is the same is used again, another is removed and "
                "fetched again.",
            )
        return image

    def reference(self, name: str) -> ImagePin | None:
        """What a reference by content holds; None where that is not known."""
        return self._books.reference(name)

    def keep_reference(self, name: str, pin: ImagePin) -> None:
        """Remember what it holds, as long as anything of that is here."""
        self._books.write(lambda tx: tx.keep_reference(name, pin))

    def keep(self, name: str, part: Path, digest: str, source: str, kind: Kind) -> CachedImage:
        """Give a whole and synced part its name, if it is fit for a base. Raises NotReady for one that is not, which is
        gone then, and ProcessError where it could not be checked."""
        try:
            size = part.stat().st_size
            form = self._fit(part, size, source) if kind == "disk" else "file"
            image = CachedImage(name, digest, form, size, 0, source)
            with self._lock:
                path = self.path(image)
                if self._has(path, digest):
                    part.unlink()  # the same bytes, by another name
                else:
                    with failpoints.around("images.install", Unavailable):
                        install(part, path, MODE)
                image = replace(image, mtime_ns=path.stat().st_mtime_ns)
                self._books.write(lambda tx: tx.keep_image(image))
        except (NotReady, ProcessError) as error:
            # Of a blob that could not be looked at the next try is spared the fetching.
            if isinstance(error, NotReady) or error.returncode == qcow2.CORRUPT or not name.startswith("sha256:"):
                part.unlink(missing_ok=True)
            raise
        return image

    def collect(self, overdue: Callable[[CachedImage], bool], lack: Callable[[], int]) -> int:
        """Remove what no machine needs: all that is overdue, and beyond that the longest unused while room lacks.

        `lack` gives the bytes that lack. Returns the bytes that came free.
        """
        with self._lock:
            named = self._named_by_overlays()
            if named is None:
                return 0
            lacking = lack()

            def choose(free: Sequence[CachedImage]) -> list[CachedImage]:
                chosen, won = [], 0
                for image in free:
                    if self.path(image).name in named:
                        continue
                    if overdue(image) or won < lacking:
                        chosen.append(image)
                        won += self._bytes(self.path(image))
                return chosen

            for image in self._books.write(lambda tx: tx.drop_images(choose)):
                log.info("an image goes from the cache", source=image.source, file=self.path(image).name)
            freed = self._drop_unknown(named)
            self._drop_parts(PARTS_LEFT if lacking - freed > 0 else PARTS_KEPT)
        return freed

    def tidy(self) -> None:
        """Remove parts that nobody goes on with, and files of which the store knows nothing, unless a disk needs one.

        For the start of the provider, before anything is fetched.
        """
        with self._lock:
            self._drop_parts(PARTS_KEPT)
            named = self._named_by_overlays()
            if named is not None:
                self._drop_unknown(named)

    def check(self) -> Iterator[Checked]:
        """Hash all files anew, one after the other. One that is not what it was is removed, to be fetched again."""
        for image, _ in self._books.images():
            path = self.path(image)
            problem = ""
            with suppress(FileNotFoundError):
                found, mtime_ns = digest_of(path), path.stat().st_mtime_ns
                if found == image.digest:
                    now = replace(image, mtime_ns=mtime_ns)
                    self._books.write(lambda tx, now=now: tx.keep_image(now))  # type: ignore[misc]
                    yield Checked(now)
                    continue
                problem = f"its bytes have the digest {found}"
            with self._lock:
                self._books.write(lambda tx, image=image: tx.forget_image(image.name))  # type: ignore[misc]
                path.unlink(missing_ok=True)
            yield Checked(image, problem or "its file is gone")

    def held(self) -> int:
        """Bytes that its files take, of sparse ones what is written."""
        return sum(self._bytes(path) for path in self._files())

    def part_bytes(self, file: str) -> int:
        """Those of what has come of a part so far."""
        return sum(self._bytes(path) for path in self._files() if path.suffix == PART and path.name.startswith(file))

    def drop_parts_of(self, file: str, kept: Sequence[str]) -> None:
        """Remove what has come of a part so far, but for files that are called like these. Nobody may be writing it."""
        for path in self._files():
            if path.suffix == PART and path.name.startswith(file) and path.stem not in kept:
                path.unlink(missing_ok=True)

    def _has(self, path: Path, digest: str) -> bool:
        """Whether a file is there that the store knows, and that nobody has written to since."""
        with suppress(FileNotFoundError):
            status = path.stat(follow_symlinks=False)
            known = [(image.size, image.mtime_ns) for image, _ in self._books.images() if image.digest == digest]
            return (status.st_size, status.st_mtime_ns) in known
        return False

    def _drop_unknown(self, named: set[str]) -> int:
        """Remove files of which the store knows nothing (any more), an earlier try's that failed too, but for those
        that disks name. Returns their bytes."""
        freed = 0
        known = {self.path(image).name for image, _ in self._books.images()} | named
        for path in self._files():
            if path.suffix != PART and path.name not in known:
                size = self._bytes(path)
                with failpoints.around("images.remove", Unavailable):
                    path.unlink(missing_ok=True)
                freed += size
                log.info("a file is removed from the image cache", file=path.name, bytes=size)
        return freed

    def _drop_parts(self, age: float) -> None:
        """Remove parts that nothing was written to for so many seconds: one that is being fetched is written to."""
        parts = [path for path in self._files() if path.suffix == PART]
        now = self._books.clock()
        for path, seconds in self._books.write(lambda tx: idle(tx, parts, now)).items():
            if seconds >= age:
                log.info("a part of an image is removed", file=path.name)
                path.unlink(missing_ok=True)

    def _fit(self, part: Path, size: int, source: str) -> Literal["raw", "qcow2"]:
        """What a file is as a base. Raises NotReady, ProcessError."""
        with part.open("rb") as reading:
            name = source.partition("#")[0].partition("?")[0].rpartition("/")[2]
            kind, _ = formats.look_at(reading.read(formats.HEAD_BYTES), size, f"the image {source}", name)
        if kind == "qcow2":
            qcow2.check(part)  # safe now: its header names no other file
        return kind

    def _files(self) -> list[Path]:
        try:
            return sorted(path for path in self.directory.iterdir() if path.is_file() and not path.is_symlink())
        except OSError:
            return []

    def _named_by_overlays(self) -> set[str] | None:
        """Names of files of ours that a disk in a machine's directory names as its base; None where that cannot be
        told, and nothing may be removed."""
        found: set[str] = set()
        if not self._files():
            return found  # a start with a thousand machines does not wait for it
        try:
            for disk in self._disks():
                with suppress(FileNotFoundError, ValueError, SRIError):  # gone since, or none that could be booted
                    base = Path(qcow2.backing_name(disk))
                    if base.parent == self.directory:
                        found.add(base.name)
        except OSError as error:
            log.warning("no image is removed: what disks are made of cannot be read", error=str(error))
            return None
        return found

    def _disks(self) -> Iterator[Path]:
        """Of all machines that there are while it looks. Raises OSError."""
        for machine in os.scandir(self._machines):
            with suppress(FileNotFoundError, NotADirectoryError):  # deleted since; somebody else's
                yield from (Path(each.path) for each in os.scandir(machine.path) if each.name.endswith(".qcow2"))

    def _bytes(self, path: Path) -> int:
        try:
            return path.stat().st_blocks * 512
        except OSError:
            return 0
