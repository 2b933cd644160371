"""Which image drivers there are, literally.

What a driver does does not belong here (see `base.py` for its contract).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sri_libvirt import printable
from sri_libvirt.errors import InvalidSpec
from sri_libvirt.images.base import ImageDriver
from sri_libvirt.images.local import LocalImages
from sri_libvirt.looks import Looks

_FORMS = "an absolute path or file:// URL of a file on the host"


class ImageRegistry:
    """All image drivers of this process."""

    def __init__(self, drivers: Sequence[ImageDriver]) -> None:
        self._drivers = tuple(drivers)

    @classmethod
    def load(cls, image_dirs: Sequence[Path], looks: Looks | None = None) -> ImageRegistry:
        """Ours. `image_dirs` are where images on the host may lie; `looks` does what may hang."""
        return cls([LocalImages(image_dirs, looks)])

    @property
    def drivers(self) -> tuple[ImageDriver, ...]:
        return self._drivers

    def select(self, image: str) -> ImageDriver:
        """The one driver for this reference. Raises InvalidSpec, its path "", unless there is exactly one."""
        matching = [driver for driver in self._drivers if driver.supports(image)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            raise InvalidSpec("", f"several drivers take it: {', '.join(driver.name for driver in matching)}")
        raise InvalidSpec("", f"{printable.quote(image)} is not an image; supported: {_FORMS}")
