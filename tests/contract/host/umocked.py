"""Runs inside umockdev, which shows this process the devices of a description instead of the host's.

    umocked.py read DESCRIPTION DEVICE PROPERTY  prints the inventory as JSON; that property has bytes that are no text
    umocked.py watch DESCRIPTION DEVICE SUBSYSTEM
        prints what changed while DEVICE announced itself until it was heard, twice, as JSON

umockdev preloads a library, so this has to be a process of its own.
"""

from __future__ import annotations

import ctypes
import json
import sys
import threading
from dataclasses import asdict

from sri_libvirt.host import inventory, live

DEADLINE = 60
BAD = b"H100 \xff\xfe"


class Testbed:
    """The devices that this process sees."""

    def __init__(self, description: str) -> None:
        self._library = ctypes.CDLL("libumockdev.so.0")
        self._library.umockdev_testbed_new.restype = ctypes.c_void_p
        self._testbed = ctypes.c_void_p(self._library.umockdev_testbed_new())
        if not self._library.umockdev_testbed_add_from_file(self._testbed, description.encode(), None):
            raise ValueError(f"umockdev does not read {description}")

    def set_property(self, device: str, name: str, value: bytes) -> None:
        self._library.umockdev_testbed_set_property(self._testbed, device.encode(), name.encode(), value)

    def announce(self, device: str) -> None:
        self._library.umockdev_testbed_uevent(self._testbed, device.encode(), b"change")


def read(testbed: Testbed, device: str, name: str) -> object:
    testbed.set_property(device, name, BAD)
    return asdict(live.enrich(inventory.read()))


def watch(testbed: Testbed, device: str, subsystem: str) -> object:
    told: list[frozenset[str]] = []
    heard = threading.Event()

    def changed(subsystems: frozenset[str]) -> None:
        told.append(subsystems)
        if subsystem in subsystems:  # and not only in a link of the host's
            heard.set()
        raise RuntimeError("the watcher goes on all the same")

    hotplug = live.Hotplug(changed, quiet=0.05)
    hotplug.start()
    try:
        for _ in range(2):
            heard.clear()
            testbed.announce(device)
            if not heard.wait(DEADLINE):
                break
    finally:
        hotplug.stop(DEADLINE)
    return {"told": [sorted(each) for each in told], "threads": [thread.name for thread in threading.enumerate()]}


if __name__ == "__main__":
    what, description, *arguments = sys.argv[1:]
    testbed = Testbed(description)
    result = read(testbed, *arguments) if what == "read" else watch(testbed, *arguments)
    print(json.dumps(result, default=sorted))
