"""Disks of a running guest as its QEMU has them: which of them it could not write or read, and how large they are.

A disk is meant by its target ("vda"). Its backend is asked nothing here, and what follows from an error does not belong
here.
"""

from __future__ import annotations

import libvirt

from sri_libvirt.hypervisor.base import DiskError

_ERRORS = {libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE: DiskError.NO_SPACE}


def errors(domain: libvirt.virDomain) -> dict[str, DiskError]:
    """By target, the disks of an active domain that have failed since it was started. Raises libvirtError.

    QEMU keeps the first error of each: a resume does not make it forget (seen on 7.2).
    """
    found: dict[str, int] = domain.diskErrors(0) or {}
    return {target: _ERRORS.get(error, DiskError.OTHER) for target, error in found.items()}


def grow(domain: libvirt.virDomain, target: str, size: int) -> None:
    """Let a disk of an active domain have `size` bytes; one that has them, or more: nothing. Raises libvirtError.

    QEMU is asked first how large it is: a blockResize to less cuts the storage behind it, without a question. It takes
    a block device's own size as well (RESIZE_CAPACITY, which libvirt has for those since 10.0, says no more than that).
    """
    capacity: int = domain.blockInfo(target, 0)[0]
    if size > capacity:
        domain.blockResize(target, size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
