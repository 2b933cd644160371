"""Which NIC drivers there are: ours, literally, and third parties' entry points.

What a driver does does not belong here (see `base.py` for its contract).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from sri_libvirt import printable
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import ConfigError, InvalidSpec
from sri_libvirt.hypervisor.base import Taps
from sri_libvirt.nics.base import NicDriver
from sri_libvirt.nics.isolated import IsolatedNics
from sri_libvirt.nics.network import NetworkNics
from sri_libvirt.nics.reserving import Reserving

GROUP = "sri_libvirt.nics"

_METHODS = ("supports", "validate", "handle", "prepare", "release")


class NicRegistry:
    """All NIC drivers of this process."""

    def __init__(self, drivers: Sequence[NicDriver]) -> None:
        names = [driver.name for driver in drivers]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigError(f"two NIC drivers are called {', '.join(sorted(twice))}")
        self._drivers = tuple(drivers)

    @classmethod
    def load(
        cls, found: Iterable[EntryPoint] | None = None, taps: Taps | None = None, reserving: Reserving | None = None
    ) -> NicRegistry:
        """Ours and the installed ones. Raises ConfigError, naming the entry point, when one cannot be used.

        Without `taps` none is made: for machines that are only planned.
        """
        points = entry_points(group=GROUP) if found is None else found
        return cls([NetworkNics(reserving), IsolatedNics(taps), *(_load(point) for point in points)])

    @property
    def drivers(self) -> tuple[NicDriver, ...]:
        return self._drivers

    def select(self, nic: pb.NetworkInterface) -> NicDriver:
        """The one driver for this NIC. Raises InvalidSpec, relative to it, unless there is exactly one."""
        matching = [driver for driver in self._drivers if driver.supports(nic)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            raise InvalidSpec("network_id", f"several drivers take it: {', '.join(each.name for each in matching)}")
        supported = ", ".join(sorted(driver.name for driver in self._drivers))
        asked = printable.quote(nic.network_id)
        raise InvalidSpec("network_id", f"there is no NIC driver for {asked}; supported: {supported}")


def _load(point: EntryPoint) -> NicDriver:
    try:
        driver = point.load()()
    except Exception as error:  # somebody else's code: anything can come
        raise ConfigError(f"NIC driver {point.name} ({point.value}) cannot be loaded: {error!r}") from error
    missing = [name for name in _METHODS if not callable(getattr(driver, name, None))]
    if missing or not isinstance(getattr(driver, "name", None), str):
        raise ConfigError(f"NIC driver {point.name} ({point.value}) is none: it lacks {', '.join(missing) or 'a name'}")
    return cast(NicDriver, driver)
