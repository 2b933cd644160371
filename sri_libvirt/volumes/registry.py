"""Which volume drivers there are: ours, literally, and third parties' entry points.

What a driver does does not belong here (see `base.py` for its contract).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import cast

from sri_libvirt import names, printable
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.config import Settings
from sri_libvirt.errors import ConfigError, InvalidSpec
from sri_libvirt.host.boot import Host
from sri_libvirt.looks import Looks
from sri_libvirt.paths import StatePaths
from sri_libvirt.volumes.allowed import AllowedDirectories
from sri_libvirt.volumes.base import Asking, VolumeDriver
from sri_libvirt.volumes.block import BlockVolumes
from sri_libvirt.volumes.ceph import CephVolumes
from sri_libvirt.volumes.empty_disk import EmptyDisks
from sri_libvirt.volumes.file import FileVolumes
from sri_libvirt.volumes.iscsi import IscsiVolumes
from sri_libvirt.volumes.nbd import NbdVolumes

GROUP = "sri_libvirt.volumes"

_METHODS = ("supports", "validate", "handle", "prepare", "release")


@dataclass(frozen=True, slots=True)
class HostAccess:
    """What of this host volumes may name, and what their drivers need of it. By default nothing may be named.

    Without `asking` no connected volume is prepared: for machines that are only planned. `initiator` is the host's
    iSCSI name; `libvirt_version` gives libvirt's number (9.2.0 is 9_002_000), 0 while it is not known. `closed` are
    directories of the provider's own, in which no file is a volume. `qemu_user` tells the number of the user as whom
    QEMU runs, None while it is not known.
    """

    file_dirs: tuple[Path, ...] = ()
    socket_dirs: tuple[Path, ...] = ()
    block_devices: tuple[str, ...] = ()
    ceph_conf: Path | None = None
    initiator: str = names.initiator("")
    closed: tuple[Path, ...] = ()
    machines: Path | None = None
    libvirt_version: Callable[[], int] = lambda: 0
    boot_id: Callable[[], str] = lambda: ""
    looks: Looks = field(default_factory=Looks)
    asking: Asking | None = None
    qemu_user: Callable[[], int | None] = lambda: None

    @classmethod
    def of(
        cls,
        settings: Settings,
        instance: str,
        libvirt_version: Callable[[], int],
        looks: Looks | None = None,
        asking: Asking | None = None,
        qemu_user: Callable[[], int | None] = lambda: None,
    ) -> HostAccess:
        """As the settings and the store's instance have it."""
        paths = StatePaths(settings.state_dir)
        return cls(
            file_dirs=settings.file_dir,
            socket_dirs=settings.nbd_socket_dir,
            block_devices=settings.block_device,
            ceph_conf=settings.ceph_conf,
            initiator=names.initiator(instance),
            closed=(paths.root, *settings.image_dirs),
            machines=paths.machines,
            libvirt_version=libvirt_version,
            boot_id=Host(proc=settings.procfs).boot_id,
            looks=looks or Looks(),
            asking=asking,
            qemu_user=qemu_user,
        )


class VolumeRegistry:
    """All volume drivers of this process."""

    def __init__(self, drivers: Sequence[VolumeDriver]) -> None:
        called = [driver.name for driver in drivers]
        if twice := {name for name in called if called.count(name) > 1}:
            raise ConfigError(f"two volume drivers are called {', '.join(sorted(twice))}")
        self._drivers = tuple(drivers)

    @classmethod
    def load(cls, found: Iterable[EntryPoint] | None = None, access: HostAccess | None = None) -> VolumeRegistry:
        """Ours and the installed ones. Raises ConfigError, naming the entry point, when one cannot be used."""
        points = entry_points(group=GROUP) if found is None else found
        return cls([*_ours(access or HostAccess()), *(_load(point) for point in points)])

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


def _ours(access: HostAccess) -> list[VolumeDriver]:
    asking, version = access.asking, access.libvirt_version
    common = (access.looks, access.closed, access.qemu_user)
    files = AllowedDirectories("file", "--file-dir", access.file_dirs, *common)
    sockets = AllowedDirectories("socket", "--nbd-socket-dir", access.socket_dirs, *common)
    return [
        EmptyDisks(),
        CephVolumes(asking, access.ceph_conf, version),
        NbdVolumes(sockets, asking, version),
        IscsiVolumes(access.initiator, asking),
        FileVolumes(files, access.machines, asking),
        BlockVolumes(access.block_devices, access.looks, access.boot_id, asking),
    ]


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
