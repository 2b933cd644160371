"""Which image drivers there are, literally.

What a driver does does not belong here (see `base.py` for its contract).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sri_libvirt import printable
from sri_libvirt.errors import InvalidSpec
from sri_libvirt.images.base import ImageDriver
from sri_libvirt.images.cache import Cache
from sri_libvirt.images.fetched import OciImages, WebImages
from sri_libvirt.images.local import LocalImages
from sri_libvirt.images.pulling import Pulling
from sri_libvirt.images.reference import parse
from sri_libvirt.looks import Looks

_FORMS = "registry/repository:tag, an https:// URL, and an absolute path or file:// URL of a file on the host"


@dataclass(frozen=True, slots=True)
class ImageAccess:
    """What image drivers need of this host: `directories` are where local images may lie, `closed` those in which none
    does. Without a cache nothing is fetched: for machines that are only planned."""

    directories: Sequence[Path] = ()
    closed: Sequence[Path] = ()
    looks: Looks = field(default_factory=Looks)
    cache: Cache | None = None
    pulling: Pulling | None = None
    qemu_user: Callable[[], int | None] = lambda: None


class ImageRegistry:
    """All image drivers of this process."""

    def __init__(self, drivers: Sequence[ImageDriver]) -> None:
        self._drivers = tuple(drivers)

    @classmethod
    def load(cls, access: ImageAccess) -> ImageRegistry:
        """Ours."""
        return cls(
            [
                LocalImages(access.directories, access.looks, access.closed, access.qemu_user),
                OciImages(access.cache, access.pulling),
                WebImages(access.cache, access.pulling),
            ]
        )

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
        try:
            parse(image)
            why = "no driver takes it"
        except ValueError as error:
            why = str(error)
        raise InvalidSpec("", f"{printable.quote(image)} is not an image: {why}; supported: {_FORMS}")
