"""Block devices of this host as volumes: disks by their ids, LVM volumes, whatever the operator's patterns match.

A device is known by the name that is given, which stays the same over reboots; the kernel's name behind it does not,
and a guest that was saved must find its own disk again. One that the host itself uses (a mounted file system, a part
of LVM, RAID or multipath) is not given out. The unit's sandbox lets the provider open a device only where a drop-in
says so. By whatever name, it is known to be the same one by the kernel's number for it, until the next boot. Making
devices does not belong here.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DiskSource
from sri_libvirt.errors import NotReady
from sri_libvirt.looks import Looks
from sri_libvirt.volumes import allowed, connection
from sri_libvirt.volumes.base import Asking
from sri_libvirt.volumes.connected import ConnectedVolumes

DEVICES = "/dev/"

SANDBOX_ADVICE = (
    "The service may open the devices that its unit lists: systemctl edit sri-libvirt, with `DeviceAllow=` of the "
    "device or its kind (`DeviceAllow=block-device-mapper r`), and restart it."
)


class BlockVolumes(ConnectedVolumes):
    """The volume driver for `block`. `patterns` are those of `--block-device`, `boot_id` tells of which boot a device's
    number is."""

    name = "block"

    def __init__(
        self, patterns: Sequence[str], looks: Looks, boot_id: Callable[[], str], asking: Asking | None = None
    ) -> None:
        super().__init__(asking)
        self._patterns = tuple(patterns)
        self._looks = looks
        self._boot_id = boot_id

    def source(self, machine_id: str, volume: pb.Volume) -> DiskSource:
        path = connection.absolute_path(volume, "path")
        if not path.startswith(DEVICES):
            raise connection.wrong("path", path, f"is not below {DEVICES}")
        return replace(self._blank(machine_id, volume), kind="block", path=path)

    def _settle(self, source: DiskSource) -> DiskSource:
        path = source.path
        if not any(allowed.matches(path, each) for each in self._patterns):
            raise NotReady(
                f"the device {path} is none that volumes may name",
                f"The operator lists patterns with --block-device (now: {', '.join(self._patterns) or 'none'}).",
            )
        what = f"looking at the device {path}"
        number = self._looks.result(f"the device {path}", path, what, lambda: _check(path))
        return replace(source, device=f"block:{number}@{self._boot_id()}")


def _check(path: str) -> str:
    """The number of a block device that nobody on this host holds. Raises NotReady."""
    try:
        device = Path(os.path.realpath(path))
        if not device.is_relative_to(DEVICES) or not stat.S_ISBLK(device.stat().st_mode):
            raise NotReady(f"{path} is no block device")
        opened = os.open(device, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_EXCL)
        number = os.fstat(opened).st_rdev
        os.close(opened)
    except FileNotFoundError:
        raise NotReady(f"the device {path} is not there (yet)", allowed.LATER) from None
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise NotReady(
                f"the device {path} is used by this host itself",
                "It is mounted, or a part of LVM, RAID or multipath: see lsblk.",
            ) from None
        advice = SANDBOX_ADVICE if error.errno in (errno.EPERM, errno.EACCES) else ""
        raise NotReady(f"the device {path} cannot be opened: {error.strerror}", advice) from error
    return f"{os.major(number)}:{os.minor(number)}"
