"""Where the host's end of a guest's NIC is: in which bridge, and whether it is up. From sysfs, so of one namespace.

What should be so does not belong here.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
from pathlib import Path

VHOST_NET = Path("/dev/vhost-net")

OPEN_VSWITCH = Path("/run/openvswitch")
"""Where its programs keep their sockets, and the files that tell their process ids."""

_UP = 0x1
_LOCK = struct.Struct("hhqqi4x")
"""`struct flock` (fcntl(2)), as 64-bit Linux has it."""

_OF_GUESTS = re.compile(r"(vnet|macvtap|macvlan)\d+\Z")
"""libvirt names no other device so, and takes no such name from anybody."""
_ETHERNET_MTU = 1500


def joined(sysfs: Path, device: str, bridge: str) -> bool | None:
    """Whether a device is a port of this bridge, or, where that is "", down; None where sysfs does not tell.

    A device that is not there may be in another namespace; what is in no Linux bridge is Open vSwitch's business.
    """
    if not device:
        return None
    flags = _flags(sysfs, device)
    if flags is None:
        return None
    if not bridge:
        return not flags & _UP
    try:
        master = os.path.basename(os.readlink(f"{sysfs}/class/net/{device}/master"))
    except FileNotFoundError:
        master = ""
    except OSError:
        return None
    if master == bridge:
        return True
    if master and not (is_bridge(sysfs, master) and is_bridge(sysfs, bridge)):
        return None
    return None if is_there(sysfs, bridge) and not is_bridge(sysfs, bridge) else False


def is_there(sysfs: Path, name: str) -> bool:
    """Whether there is a network device of this name."""
    return os.path.exists(f"{sysfs}/class/net/{name}")


def up(sysfs: Path) -> frozenset[str]:
    """Names of the network devices that are up, without those that libvirt has made and named for guests; none where
    sysfs does not tell.
    """
    try:
        names = os.listdir(f"{sysfs}/class/net")
    except OSError:
        return frozenset()
    return frozenset(name for name in names if not _OF_GUESTS.match(name) and (_flags(sysfs, name) or 0) & _UP)


def is_tap(sysfs: Path, name: str) -> bool:
    """Whether there is a tap of this name."""
    return os.path.exists(f"{sysfs}/class/net/{name}/tun_flags")


def runs_open_vswitch(run: Path = OPEN_VSWITCH) -> bool | None:
    """Whether Open vSwitch's switch runs, by the lock on its file that ends with it; None where that is not told."""
    try:
        with open(run / "ovs-vswitchd.pid", "rb") as file:
            found = fcntl.fcntl(file, fcntl.F_GETLK, _LOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))
    except FileNotFoundError:  # it takes the file away when it is stopped; the database may go on
        return False if (run / "db.sock").exists() else None
    except OSError:
        return None
    return bool(_LOCK.unpack(found)[0] != fcntl.F_UNLCK)


def has_vhost_net() -> bool:
    """Whether the kernel can carry the queues of guests' NICs. Its module is loaded when the node is opened."""
    return VHOST_NET.exists()


def unusual_mtu(sysfs: Path | None, name: str) -> int:
    """The MTU of a device; 0 where it is Ethernet's own, or is not told."""
    if sysfs is None or not name:
        return 0
    try:
        with open(f"{sysfs}/class/net/{name}/mtu", encoding="ascii") as file:
            mtu = int(file.read())
    except (OSError, ValueError):
        return 0
    return 0 if mtu == _ETHERNET_MTU else mtu


def is_bridge(sysfs: Path, name: str) -> bool:
    """Whether there is a Linux bridge of this name in the namespace that sysfs tells of."""
    return os.path.isdir(f"{sysfs}/class/net/{name}/bridge")


def _flags(sysfs: Path, name: str) -> int | None:
    try:
        with open(f"{sysfs}/class/net/{name}/flags", encoding="ascii") as file:
            return int(file.read(), 16)
    except (OSError, ValueError):
        return None
