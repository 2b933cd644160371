"""What udev does for macvtap, in a /dev of one's own: makes the node of each one that comes, and removes it again.

usage: python macvtap_nodes.py
libvirt waits a fifth of a second for it, so it follows the kernel's messages. devtmpfs has the nodes of all network
namespaces under the same names, and is none of ours. Runs in the namespaces of a private libvirtd, until it is ended.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

_LINKS = 1  # RTMGRP_LINK


def mend() -> None:
    """Have the nodes of those that are there, and no others."""
    there = {}
    for link in Path("/sys/class/net").iterdir():
        with suppress(OSError):  # it is going
            for path in link.glob("tap*/dev"):
                major, minor = map(int, path.read_text().split(":"))
                there[path.parent.name] = os.makedev(major, minor)
    for path in Path("/dev").glob("tap*"):
        if path.stat().st_rdev != there.get(path.name):
            path.unlink()
    for name, device in there.items():
        if not (node := Path("/dev", name)).exists():
            os.mknod(node, stat.S_IFCHR | 0o600, device)


def main() -> None:
    messages = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    messages.bind((0, _LINKS))
    print("ready", flush=True)
    while messages.recv(65536):
        mend()


if __name__ == "__main__":
    main()
