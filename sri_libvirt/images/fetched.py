"""Images from elsewhere: artifacts of registries, and files of web servers, by way of the cache.

When one is asked for and fetched does not belong here (`pulling.py`), nor what becomes of it (`overlay.py`).
"""

from __future__ import annotations

import os
from abc import ABC
from pathlib import Path

from sri_libvirt.devices import BackingFile, ImagePin
from sri_libvirt.errors import NotReady
from sri_libvirt.images import formats
from sri_libvirt.images.base import Base, Before
from sri_libvirt.images.cache import Cache
from sri_libvirt.images.identity import identity, same_content, sampled, untouched
from sri_libvirt.images.parts import parts_of
from sri_libvirt.images.pulling import Pulling
from sri_libvirt.images.reference import Reference, WebFile, parse
from sri_libvirt.records import CachedImage


class FetchedImages(ABC):
    """A driver by the kind of its references. Without a cache it only plans: nothing is fetched."""

    name: str
    kind: type[Reference] | type[WebFile]

    def __init__(self, cache: Cache | None = None, pulling: Pulling | None = None) -> None:
        self._cache = cache
        self._pulling = pulling

    def supports(self, image: str) -> bool:
        try:
            return isinstance(parse(image), self.kind)
        except ValueError:
            return False

    def resolve(self, image: str, waiter: str) -> ImagePin:
        """What it means now. Raises NotReady."""
        if self._pulling is None:
            raise NotReady(f"the image {image} is fetched by the daemon alone")
        return self._pulling.means(parse(image), waiter)

    def base(self, image: str, pin: ImagePin | None, waiter: str, before: Before | None) -> Base:
        """Its files in the cache, fetched (again) where one is not there. Raises NotReady."""
        if self._cache is None or self._pulling is None or pin is None:
            raise NotReady(f"the image {image} is fetched by the daemon alone")
        parts = parts_of(pin)
        found = {role: self._cache.find(part.name) for role, part in parts.items()}
        if missing := [part for role, part in parts.items() if found[role] is None]:
            raise self._pulling.fetch(missing, waiter)
        files = {role: self._cache.path(each) for role, each in found.items() if each is not None}
        kernel = files.get("kernel") or files.get("uki")
        disk = found.get("disk")
        if disk is None:
            return Base(None, kernel=kernel, initramfs=files.get("initramfs"))
        base, size, note = _disk(disk, files["disk"], image, before)
        note = "" if kernel else note
        return Base(base, size, kernel, files.get("initramfs"), note)

    def busy_until(self, image: str, pin: ImagePin | None, heard: str) -> int | None:
        """Until when it is of no use to ask again; `heard` is why the machine waits, as it was told last."""
        return self._pulling.busy_until(parse(image), pin, heard) if self._pulling else None


class OciImages(FetchedImages):
    """Artifacts of registries: ironcore-images and containerDisks."""

    name = "oci"
    kind = Reference


class WebImages(FetchedImages):
    """Files of web servers: raw or qcow2, plain or packed."""

    name = "web"
    kind = WebFile


def _disk(image: CachedImage, path: Path, called: str, before: Before | None) -> tuple[BackingFile, int, str]:
    """A file of the cache as a base, its size for a guest, and a note. Raises NotReady if a disk was made of another.

    A file that was fetched again has the same digest, so it is the same base, whatever its inode and time.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        status = os.fstat(fd)
        head = os.pread(fd, formats.HEAD_BYTES, 0)
        kept = before.identity if before and before.path == path else None
        now = identity(status)
        if kept is not None and kept.digest and untouched(kept, now):
            now = kept
        else:
            now = identity(status, sampled(fd, status.st_size))
    finally:
        os.close(fd)
    if before is not None and before.identity is not None and before.path != path:
        raise NotReady(
            f"the machine's disk was made of {before.path}, and its image {called} is {path} now",
            "The store was put back, or edited: delete the machine and create it anew, or put that file back.",
        )
    if kept is not None and not untouched(kept, now) and not same_content(kept, now):
        raise NotReady(
            f"{path} is not the file any more that the machine's disk was made of (image {called})",
            "`sri-libvirt images check` hashes the cache anew and removes what is not as it was.",
        )
    kind, size = formats.look_at(head, status.st_size, f"the image {called}")
    note = formats.note(head) if kind == "raw" else ""
    return BackingFile(str(path), kind, now), size, note if image.format == "raw" else ""
