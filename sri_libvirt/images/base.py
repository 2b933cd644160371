"""The contract of an image driver: from `spec.image.image` to a boot disk.

1. `supports(image)` is a pure look at the string. Exactly one registered driver must say yes; the RPC refuses an image
   that none supports.
2. `prepare(...)` is idempotent and called before every cold start. It makes the machine's boot disk (an overlay, never
   a full copy) or finds it made, and verifies that its base is still the file it was made of. It raises `NotReady`
   when the image is not there (yet), is not usable, or has changed; nothing half-made stays behind.
3. `release(...)` removes what prepare made for this machine. Idempotent; safe when prepare never ran.

Drivers hand out plain data (`DiskSource`) and no domain XML, and keep no state of their own about machines.
"""

from __future__ import annotations

from typing import Protocol

from sri_libvirt.devices import DiskSource
from sri_libvirt.paths import MachinePaths


class ImageDriver(Protocol):
    """One kind of image reference."""

    name: str

    def supports(self, image: str) -> bool:
        """Whether this driver is for such a reference. Pure."""

    def prepare(self, image: str, paths: MachinePaths, disk_bytes: int, made: DiskSource | None) -> DiskSource:
        """The machine's boot disk of `disk_bytes` bytes. `made` is what an earlier prepare returned.

        Raises NotReady.
        """

    def release(self, paths: MachinePaths) -> None:
        """Remove the machine's boot disk."""
