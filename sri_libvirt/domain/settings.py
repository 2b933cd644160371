"""How QEMU reads and writes a disk: by what it is, what its machine's class asks for, and what can be had. Pure.

Why so. Past the host's page cache a large write costs a third to half the CPU, and takes none of the memory that guests
are sold; a read of what the page cache holds would be faster. io_uring and Linux AIO cost the same, a third to three
quarters of the CPU of QEMU's threads with several requests at a time and no less with one; but of Linux AIO a host has
65,536 requests for all guests (`fs.aio-max-nr`), and each takes 1,024. To look for zeroes is no gain but for guests
that write many: "unmap" then costs more CPU and twice the time. librbd's own cache would be memory that nobody is
charged for; NBD and iSCSI have nothing of the kind. An iothread for the disks made less than a tenth of a difference,
either way (emulated guests; KVM could not be measured), so machines have none.

A class's word is a wish: a disk for which it cannot be had is read and written in the next best way, since no guest
sees a difference. What can be had is found out elsewhere (`host/diskio.py`), nor does when it is asked belong here.
"""

from __future__ import annotations

from typing import Protocol

from sri_libvirt.devices import DiskCache, DiskIo, DiskKind, DiskSettings
from sri_libvirt.records import ClassPolicy


class Possible(Protocol):
    """What can be had for one disk; asked in this order, and no more than is needed."""

    def direct(self) -> bool:
        """Whether its files can be opened past the page cache."""

    def io_uring(self) -> bool: ...

    def native(self) -> bool:
        """Linux AIO; asked of a disk that is opened past the page cache."""


class Everything:
    """All of it, for a disk that is only planned."""

    def direct(self) -> bool:
        return True

    def io_uring(self) -> bool:
        return True

    def native(self) -> bool:
        return True


def choose(kind: DiskKind, policy: ClassPolicy, possible: Possible) -> DiskSettings:
    """The settings of a disk of that kind in a machine of a class with that policy."""
    cache: DiskCache = "none" if policy.disk_cache == "auto" else policy.disk_cache
    if kind != "network" and cache == "none" and not possible.direct():
        cache = "writeback"
    return DiskSettings(
        cache=cache,
        io="" if kind == "network" else _io(policy, cache, possible),
        discard=policy.disk_discard,
        detect_zeroes=policy.disk_detect_zeroes,
    )


def _io(policy: ClassPolicy, cache: DiskCache, possible: Possible) -> DiskIo:
    wished = policy.disk_io
    if wished in ("auto", "io_uring") and possible.io_uring():
        return "io_uring"
    # libvirt refuses Linux AIO through the page cache, where it would wait for every request.
    if wished != "threads" and cache == "none" and possible.native():
        return "native"
    return "threads"
