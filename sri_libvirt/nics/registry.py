"""Which NIC drivers there are: ours, literally, and third parties' entry points; and which is for a NIC.

What a driver does does not belong here (see `base.py` for its contract).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import cast

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import NicBackend
from sri_libvirt.errors import ConfigError, InvalidSpec
from sri_libvirt.hypervisor.base import NoTaps, Taps
from sri_libvirt.nics import attributes
from sri_libvirt.nics.attributes import Attributes
from sri_libvirt.nics.base import Entry, NicDriver
from sri_libvirt.nics.bridge import BridgeNics
from sri_libvirt.nics.direct import DirectNics
from sri_libvirt.nics.isolated import IsolatedNics
from sri_libvirt.nics.network import NetworkNics
from sri_libvirt.nics.ovs import OvsNics
from sri_libvirt.nics.reserving import Reserving
from sri_libvirt.nics.tap import TapNics
from sri_libvirt.nics.unknown import UnknownNics
from sri_libvirt.nics.user import UserNics

GROUP = "sri_libvirt.nics"

_METHODS = ("supports", "validate", "handle", "prepare", "release")


@dataclass(frozen=True, slots=True)
class LinkAccess:
    """What of this host NICs are joined to, and what their drivers need of it. By default nothing is made.

    `map` is the operator's network map, `libvirt_version` gives libvirt's number, 0 while it is not known. Without
    `sysfs` nobody looks whether a bridge is there: for machines that are only planned. `user_net`: the map may name
    user networking.
    """

    taps: Taps = field(default_factory=NoTaps)
    reserving: Reserving = field(default_factory=Reserving)
    map: Path | None = None
    sysfs: Path | None = None
    libvirt_version: Callable[[], int] = lambda: 0
    user_net: bool = False


class NicRegistry:
    """All NIC drivers of this process, and the entries of the operator's network map that choose among them."""

    def __init__(self, drivers: Sequence[NicDriver], entries: Sequence[Entry] = ()) -> None:
        names = [driver.name for driver in drivers]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigError(f"two NIC drivers are called {', '.join(sorted(twice))}")
        self._drivers = tuple(drivers)
        self._entries = tuple(entries)

    @classmethod
    def load(cls, found: Iterable[EntryPoint] | None = None, access: LinkAccess | None = None) -> NicRegistry:
        """Ours and the installed ones. Raises ConfigError, naming the entry point, when one cannot be used, and with
        all mistakes of the network map.
        """
        points = entry_points(group=GROUP) if found is None else found
        access = access or LinkAccess()
        drivers = [*_ours(access), *(_load(point) for point in points)]
        if access.map is None:
            return cls(drivers)
        from sri_libvirt.nics import network_map  # YAML is slow to import

        return cls(drivers, network_map.load(access.map, drivers))

    @property
    def drivers(self) -> tuple[NicDriver, ...]:
        return self._drivers

    def entry(self, network_id: str) -> Entry | None:
        """The entry of the network map that decides about a network id, if one does."""
        return next((entry for entry in self._entries if fnmatchcase(network_id, entry.network_id)), None)

    def select(self, nic: pb.NetworkInterface) -> NicDriver:
        """The one driver for this NIC: the map's, or of whose own ids this is; one that waits for a driver, if nobody
        takes it. Raises InvalidSpec, relative to the NIC, when several do.
        """
        if (entry := self.entry(nic.network_id)) is not None:
            return entry.driver
        matching = [driver for driver in self._drivers if driver.supports(nic)]
        if len(matching) > 1:
            raise InvalidSpec("network_id", f"several drivers take it: {', '.join(each.name for each in matching)}")
        return matching[0] if matching else UnknownNics()

    def attributes(self, nic: pb.NetworkInterface) -> Attributes:
        """What a NIC's attributes say of what the map lets tenants say. Raises InvalidSpec."""
        return attributes.of(nic, getattr(self.select(nic), "allow", ()))

    def of(self, nic: pb.NetworkInterface, made: NicBackend | None) -> NicDriver:
        """The driver that has prepared a NIC, which may be another one by now. Raises InvalidSpec when it is gone."""
        now = self.select(nic)
        if made is None or made.driver in ("", now.name):
            return now
        found = next((driver for driver in self._drivers if driver.name == made.driver), None)
        if found is None:
            raise InvalidSpec("network_id", f"the NIC driver {made.driver} is not installed any more")
        return found


def _ours(access: LinkAccess) -> list[NicDriver]:
    return [
        NetworkNics(access.sysfs, reserving=access.reserving),
        IsolatedNics(taps=access.taps),
        BridgeNics(access.sysfs, libvirt_version=access.libvirt_version),
        OvsNics(access.sysfs),
        DirectNics(access.sysfs),
        TapNics(access.sysfs),
        UserNics(allowed=access.user_net),
    ]


def _load(point: EntryPoint) -> NicDriver:
    try:
        driver = point.load()()
    except Exception as error:  # somebody else's code: anything can come
        raise ConfigError(f"NIC driver {point.name} ({point.value}) cannot be loaded: {error!r}") from error
    missing = [name for name in _METHODS if not callable(getattr(driver, name, None))]
    if missing or not isinstance(getattr(driver, "name", None), str):
        raise ConfigError(f"NIC driver {point.name} ({point.value}) is none: it lacks {', '.join(missing) or 'a name'}")
    return cast(NicDriver, driver)
