"""From a base to a disk: an overlay of exactly the size that is asked for, made, found made, or adopted.

It knows no machine: where the disk goes is the caller's to say. Which file a disk is made of is written down beside it
before the disk has its name, so that one whose making nobody has recorded is judged by that, and not by the times of
files, which a clock that jumps makes worthless. What a base is, and whether it is the one that a disk was made of, does
not belong here (`base.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar, cast

from sri_libvirt import paths, qcow2
from sri_libvirt.devices import BackingFile, DiskFormat, DiskSource, FileIdentity
from sri_libvirt.errors import NotReady
from sri_libvirt.images.base import Base, Before
from sri_libvirt.images.identity import identity, untouched
from sri_libvirt.looks import Looks
from sri_libvirt.process import ProcessError

HANDLE = "image"

_SECTOR = 512

T = TypeVar("T")


class Overlays:
    """Makes disks of bases. What a base's file system may hold up is done by `looks`."""

    def __init__(self, looks: Looks | None = None) -> None:
        self._looks = looks or Looks()

    def before(self, path: Path, made: DiskSource | None) -> Before | None:
        """What the disk at `path` was made of, by what an earlier `prepare` returned or by itself; None without one."""
        if made is not None:
            base = made.backing
            return Before(Path(base.path), base.format, base.identity) if base else None
        with suppress(ProcessError):
            if path.exists() and (found := qcow2.inspect(path)).backing:
                noted = _noted(path, found)
                base_format = cast(DiskFormat, found.backing_format)
                return Before(Path(found.backing), base_format, noted.identity if noted else None)
        return None

    def remove(self, path: Path) -> None:
        """Neither the disk nor what was written down of its base is there then. Raises OSError."""
        path.unlink(missing_ok=True)
        _note(path).unlink(missing_ok=True)

    def prepare(self, base: Base, image: str, path: Path, disk_bytes: int, made: DiskSource | None) -> DiskSource:
        """The disk at `path` with `disk_bytes` bytes, made on the base unless it is there. Raises NotReady.

        `made` is what an earlier call returned; `image` is what people call the base.
        """
        disk_bytes = -(-disk_bytes // _SECTOR) * _SECTOR
        try:
            if made is not None:
                return _still_there(replace(made, backing=base.disk), path)
            if base.size > disk_bytes:
                raise NotReady(
                    f"the image {image} has {base.size} bytes, more than the class's root disk of {disk_bytes}",
                    "Use a class with a larger root disk, or a smaller image.",
                )
            disk = DiskSource(HANDLE, str(path), "qcow2", disk_bytes, backing=base.disk, note=base.note)
            return _adopted(disk, path) if path.exists() else self._made(disk, base, image, path)
        except ProcessError as error:
            raise NotReady(f"no disk can be made of the image {image}: {error}", qcow2.CHECK) from error
        except OSError as error:
            raise NotReady(f"{path} cannot be made or read: {error.strerror}") from error

    def _made(self, disk: DiskSource, base: Base, image: str, path: Path) -> DiskSource:
        made = self._look(base, image, "make", path, lambda: qcow2.make_unfinished(path, disk.size, base.disk))
        if base.disk is not None:
            _write_down(base.disk, path)
        qcow2.finish(made, path)
        # qemu-img opened the base by its name: it must still be the file that was looked at.
        if base.disk is not None:
            file = Path(base.disk.path)
            if not untouched(base.disk.identity, self._look(base, image, "stat", file, lambda: identity(file.stat()))):
                self.remove(path)
                raise NotReady(f"the image {image} changed while a disk was made of it", "It is tried again.")
        return disk

    def _look(self, base: Base, image: str, what: str, path: Path, work: Callable[[], T]) -> T:
        if not base.place:
            return work()
        return self._looks.result(base.place, (image, what, path), f"looking at the image {image}", work)


def _still_there(made: DiskSource, path: Path) -> DiskSource:
    """What was made before must be there, and be of its size."""
    if not path.exists():
        raise NotReady(f"the machine's disk {path} is gone", "Restore it, or delete the machine and create it anew.")
    if (size := qcow2.inspect(path).size) != made.size:
        raise NotReady(f"the machine's disk {path} has {size} bytes, not {made.size}", qcow2.CHECK)
    return made


def _adopted(disk: DiskSource, path: Path) -> DiskSource:
    """A disk that was made and not recorded: it may hold data of a run that the store does not remember."""
    found, base = qcow2.inspect(path), disk.backing
    asked = (base.path, base.format, disk.size) if base else ("", "", disk.size)
    # That the base is the file that was written down is the driver's to see: it was told (`before`).
    known = base is None or _noted(path, found) is not None
    if not found.corrupt and (found.backing, found.backing_format, found.size) == asked and known:
        return disk
    raise NotReady(f"{path} is there and is not a disk of its image as that is now", "Move it away if nobody needs it.")


def _note(path: Path) -> Path:
    """Where it is written down which file the disk `path` was made of; hidden, for it is no disk."""
    return path.with_name(f".{path.name}.base")


def _write_down(base: BackingFile, path: Path) -> None:
    """Durable when this returns: it is there before the disk is. Raises OSError."""
    unfinished = paths.unfinished(_note(path))
    unfinished.write_text(json.dumps(asdict(base)))
    paths.install(unfinished, _note(path))


def _noted(path: Path, found: qcow2.Info) -> BackingFile | None:
    """What is written down of the base of the disk `path`, if it is of the base that the disk itself names."""
    try:
        written = json.loads(_note(path).read_text())
        noted = BackingFile(written["path"], written["format"], FileIdentity(**written["identity"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return noted if (noted.path, noted.format) == (found.backing, found.backing_format) else None
