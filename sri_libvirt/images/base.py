"""The contract of an image driver: from `spec.image.image` to what a machine's boot disk is an overlay of.

1. `supports(image)` is a pure look at the string. Exactly one registered driver must say yes; the RPC refuses an image
   that none supports.
2. `resolve(...)` says what a reference means now, once for each machine: the answer is kept with it (`ImagePin`) and
   given to all that follows, so that neither a restart nor a tag that moves changes a machine. None where the reference
   says it all. It raises `NotReady` while that is being asked.
3. `base(...)` gives the files that such content is on this host, whole and checked. It is called before every cold
   start, and raises `NotReady` when they are not there (yet), are not usable, or are not any more what the machine's
   disk was made of; nothing half-made stays behind. It knows nothing of machines but whom to wake (`waiter`).
4. Both begin what takes long as a job and answer at once. A driver that does so has `busy_until(image, pin, heard)`:
   until when it is of no use to ask again for one who heard last why it waits, None where there is news.

Drivers hand out plain data and no domain XML, and keep no state of their own about machines. What becomes of a base
does not belong here (`overlay.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sri_libvirt.devices import BackingFile, DiskFormat, FileIdentity, ImagePin


@dataclass(frozen=True, slots=True)
class Base:
    """What an image is on this host. `disk` is None of one that has no disk, `size` are the bytes of it that a guest
    sees; `kernel` and `initramfs` are files that are booted, of an image that has such. `note` as of a disk. `place` is
    where its files may hang (`looks.py`), "" for nowhere.
    """

    disk: BackingFile | None
    size: int = 0
    kernel: Path | None = None
    initramfs: Path | None = None
    note: str = ""
    place: str = ""


@dataclass(frozen=True, slots=True)
class Before:
    """What a disk was made of. `identity` is None where nobody has recorded more than what the disk itself says."""

    path: Path
    format: DiskFormat
    identity: FileIdentity | None


class ImageDriver(Protocol):
    """One kind of image reference."""

    name: str

    def supports(self, image: str) -> bool:
        """Whether this driver is for such a reference. Pure."""

    def resolve(self, image: str, waiter: str) -> ImagePin | None:
        """What the reference means now; None where it says so itself. Raises NotReady."""

    def base(self, image: str, pin: ImagePin | None, waiter: str, before: Before | None) -> Base:
        """Its files. `before` is what its disk was made of: what is returned has the same content. Raises NotReady."""
