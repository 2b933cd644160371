"""Which volume drivers there are: ours, literally, and third parties' entry points.

What a driver does does not belong here (see `base.py` for its contract).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from sri_libvirt import printable
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import ConfigError, InvalidSpec
from sri_libvirt.volumes.base import VolumeDriver
from sri_libvirt.volumes.empty_disk import EmptyDisks

GROUP = "sri_libvirt.volumes"

_METHODS = ("supports", "validate", "handle", "prepare", "release")


class VolumeRegistry:
    """All volume drivers of this process."""

    def __init__(self, drivers: Sequence[VolumeDriver]) -> None:
        names = [driver.name for driver in drivers]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigError(f"two volume drivers are called {', '.join(sorted(twice))}")
        self._drivers = tuple(drivers)

    @classmethod
    def load(cls, found: Iterable[EntryPoint] | None = None) -> VolumeRegistry:
        """Ours and the installed ones. Raises ConfigError, naming the entry point, when one cannot be used."""
        points = entry_points(group=GROUP) if found is None else found
        return cls([EmptyDisks(), *(_load(point) for point in points)])

    @property
    def drivers(self) -> tuple[VolumeDriver, ...]:
        return self._drivers

    def select(self, volume: pb.Volume) -> VolumeDriver:
        """The one driver for this volume. Raises InvalidSpec, relative to it, unless there is exactly one."""
        matching = [driver for driver in self._drivers if driver.supports(volume)]
        if len(matching) == 1:
            return matching[0]
        field = "connection.driver" if volume.HasField("connection") else ""
        if matching:
            raise InvalidSpec(field, f"several drivers take it: {', '.join(driver.name for driver in matching)}")
        asked = printable.quote(volume.connection.driver) if field else "such a volume"
        supported = ", ".join(sorted(driver.name for driver in self._drivers))
        raise InvalidSpec(field, f"there is no volume driver for {asked}; supported: {supported}")


def _load(point: EntryPoint) -> VolumeDriver:
    try:
        driver = point.load()()
    except Exception as error:  # somebody else's code: anything can come
        raise ConfigError(f"volume driver {point.name} ({point.value}) cannot be loaded: {error!r}") from error
    missing = [name for name in _METHODS if not callable(getattr(driver, name, None))]
    if missing or not isinstance(getattr(driver, "name", None), str):
        raise ConfigError(
            f"volume driver {point.name} ({point.value}) is none: it lacks {', '.join(missing) or 'a name'}"
        )
    return cast(VolumeDriver, driver)
