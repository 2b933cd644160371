"""Tap devices that are never up: the host's end of a NIC behind which there is nothing.

A tap that libvirt makes it also brings up, and the kernel then gives it an address, answers on it, and believes router
advertisements from it. Of one that is down the kernel drops every frame before any protocol sees it, and sends none;
the guest's link is up all the same. libvirt takes such a device as it is (`managed='no'`). Which guests have one does
not belong here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from pathlib import Path

from sri_libvirt.errors import NotReady

TUN = Path("/dev/net/tun")

# linux/if_tun.h, linux/sockios.h, linux/if.h
_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_TAP, _NO_PACKET_INFO, _VNET_HEADER = 0x0002, 0x1000, 0x4000
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_UP = 0x1
_IFREQ = struct.Struct("16sH22x")


class LinuxTaps:
    """The taps of this process's network namespace, which must be the one of libvirt's daemon."""

    def make(self, name: str) -> None:
        """Make the tap, or take down the one that is there. Raises NotReady where the host does not let us."""
        try:
            flags = _flags(name)
            if flags is None:
                _persist(name, 1)
            elif flags & _UP:
                _take_down(name, flags)
        except OSError as error:
            raise NotReady(
                f"the network device {name} cannot be made: {error.strerror}",
                f"The provider needs the capability CAP_NET_ADMIN and the device {TUN}: compare the unit's sandbox "
                "with the one that is shipped, and load the kernel module tun.",
            ) from error

    def remove(self, name: str) -> None:
        """Remove the tap; of one that is not there nothing. Raises OSError, EBUSY while a guest has it."""
        if _flags(name) is not None:
            _persist(name, 0)


def _flags(name: str) -> int | None:
    """The device's flags, None if there is none of that name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            answer = fcntl.ioctl(asking, _SIOCGIFFLAGS, _IFREQ.pack(name.encode(), 0))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
    flags: int = _IFREQ.unpack(answer)[1]
    return flags


def _take_down(name: str, flags: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        fcntl.ioctl(asking, _SIOCSIFFLAGS, _IFREQ.pack(name.encode(), flags & ~_UP))


def _persist(name: str, persistent: int) -> None:
    """Open the tap, made by that if it is not there, and let it stay or go when it is closed."""
    tun = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(tun, _TUNSETIFF, _IFREQ.pack(name.encode(), _TAP | _NO_PACKET_INFO | _VNET_HEADER))
        fcntl.ioctl(tun, _TUNSETPERSIST, persistent)
    finally:
        os.close(tun)
