"""Where the host's end of a guest's NIC is: in which bridge, and whether it is up. From sysfs, so of one namespace.

What should be so does not belong here.
"""

from __future__ import annotations

import os
from pathlib import Path

VHOST_NET = Path("/dev/vhost-net")

_UP = 0x1
_ETHERNET_MTU = 1500


def joined(sysfs: Path, device: str, bridge: str) -> bool | None:
    """Whether a device is a port of this bridge, or, where that is "", down; None where sysfs does not tell.

    A device that is not there may be in another namespace; what is in no Linux bridge is Open vSwitch's business.
    """
    if not device:
        return None
    net = f"{sysfs}/class/net"
    try:
        with open(f"{net}/{device}/flags", encoding="ascii") as file:
            flags = int(file.read(), 16)
    except (OSError, ValueError):
        return None
    if not bridge:
        return not flags & _UP
    try:
        master = os.path.basename(os.readlink(f"{net}/{device}/master"))
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


def is_tap(sysfs: Path, name: str) -> bool:
    """Whether there is a tap of this name."""
    return os.path.exists(f"{sysfs}/class/net/{name}/tun_flags")


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
