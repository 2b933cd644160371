"""What only a live host tells, and not its files: names of udev's hardware database, IP addresses, and changes.

libudev and the network's ioctls cannot be given another root, so this is for the host's own only. pyudev and psutil
are imported where they are used: a short command does not wait for them.
What a change means does not belong here.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from sri_libvirt.host.inventory import PROCFS, SYSFS, Inventory
from sri_libvirt.host.nic import Nic
from sri_libvirt.host.pci import PciDevice

if TYPE_CHECKING:
    import pyudev

log = structlog.get_logger(__name__)

SUBSYSTEMS = frozenset({"cpu", "memory", "node", "pci", "misc", "net", "block"})
"""Whose devices the inventory holds; /dev/kvm is one of `misc`."""

_FOR_MACHINES = frozenset({"cpu", "memory", "node", "pci", "misc"})

QUIET_SECONDS = 1.0
"""How long nothing has to happen before a change is told: a card announces each of its 64 VFs."""

LONGEST_SECONDS = 10.0
"""How long a change waits for quiet."""

_UDEV_RUNS = Path("/run/udev/control")
_LINK_GROUP = 1
"""RTMGRP_LINK (rtnetlink(7)): udev says nothing when a carrier comes or goes, or a port changes its bridge."""

_MOST_EVENTS = 4096
"""Read at one go, so that a storm cannot keep the thread from its end."""


def is_own(sysfs: Path, procfs: Path) -> bool:
    """Whether these are the roots of the host that this process runs on."""
    return (sysfs, procfs) == (SYSFS, PROCFS)


def enrich(inventory: Inventory) -> Inventory:
    """Add names, drivers of virtual interfaces and IP addresses to what was read from the host's own roots."""
    import psutil
    import pyudev

    context = pyudev.Context()
    known = psutil.net_if_addrs()
    addresses = {
        name: tuple(each.address for each in found if each.family in (socket.AF_INET, socket.AF_INET6))
        for name, found in known.items()
    }
    return replace(
        inventory,
        nics=tuple(_nic(context, nic, addresses.get(nic.name, ())) for nic in inventory.nics),
        pci=tuple(_pci(context, device) for device in inventory.pci),
    )


def _nic(context: pyudev.Context, nic: Nic, addresses: tuple[str, ...]) -> Nic:
    driver = nic.driver or properties(context, "net", nic.name, ("ID_NET_DRIVER",)).get("ID_NET_DRIVER")
    kind = "ovs" if driver == "openvswitch" else nic.kind
    return replace(nic, driver=driver, kind=kind, addresses=addresses)


def _pci(context: pyudev.Context, device: PciDevice) -> PciDevice:
    vendor, model = "ID_VENDOR_FROM_DATABASE", "ID_MODEL_FROM_DATABASE"
    found = properties(context, "pci", device.address, (vendor, model))
    return replace(device, vendor_name=found.get(vendor), device_name=found.get(model))


def properties(context: pyudev.Context, subsystem: str, name: str, wanted: tuple[str, ...]) -> Mapping[str, str]:
    """Properties of a device, read one by one: one with bytes that are no text raises, and is left out."""
    import pyudev

    try:
        held = pyudev.Devices.from_name(context, subsystem, name).properties
    except (pyudev.DeviceNotFoundError, OSError, ValueError):
        return {}
    found: dict[str, str] = {}
    for key in wanted:
        try:
            found[key] = held[key]
        except (KeyError, OSError, ValueError):  # UnicodeDecodeError is a ValueError
            continue
    return found


def follow(changed: Callable[[], None], linked: Callable[[], None]) -> Callable[[], None]:
    """Call `changed` when CPUs, memory, PCI devices or KVM may have come or gone, until what is returned is called;
    and `linked` when network devices have, or have changed.

    Disks are left out: those of guests come and go all the time. Where the kernel tells nobody of changes, the log says
    so, and neither is ever called.
    """

    def told(subsystems: frozenset[str]) -> None:
        if "net" in subsystems:
            linked()
        if subsystems & _FOR_MACHINES:
            changed()

    hotplug = Hotplug(told)
    try:
        hotplug.start()
    except (OSError, ImportError) as error:  # pyudev finds no libudev
        log.warning("changes of the hardware are only seen from time to time", error=str(error))
    return hotplug.stop


class Hotplug:
    """Tells when the hardware changed: CPUs, memory, PCI devices and VFs, /dev/kvm, interfaces and their links, disks.

    `changed` gets the subsystems, on a thread of its own, once for many changes; what it raises is logged. It says
    nothing of what changed, because events can be lost: read the inventory again.
    """

    def __init__(
        self,
        changed: Callable[[frozenset[str]], None],
        *,
        quiet: float = QUIET_SECONDS,
        longest: float = LONGEST_SECONDS,
    ) -> None:
        self._changed = changed
        self._quiet = quiet
        self._longest = longest
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._wake = -1

    def start(self) -> None:
        """Watch from now on. Raises OSError where the kernel gives no netlink socket."""
        import pyudev

        # without udevd the kernel's own events are all there is
        source = "udev" if _UDEV_RUNS.exists() else "kernel"
        monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source=source)
        for subsystem in sorted(SUBSYSTEMS):
            monitor.filter_by(subsystem)
        monitor.start()
        links = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        try:
            links.bind((0, _LINK_GROUP))
        except OSError:
            links.close()
            raise
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, args=(monitor, links), name="hotplug", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Tell no more; a call of `changed` that runs ends first, within `timeout` seconds."""
        if self._thread is None:
            return
        self._stopping.set()
        os.eventfd_write(self._wake, 1)
        self._thread.join(timeout)
        if not self._thread.is_alive():
            os.close(self._wake)
            self._thread = None

    def _run(self, monitor: Any, links: socket.socket) -> None:
        poller = select.poll()
        for fd in (monitor.fileno(), links.fileno(), self._wake):
            poller.register(fd, select.POLLIN)
        pending: set[str] = set()
        latest = 0.0
        with links:
            while True:
                quiet = max(0.0, min(self._quiet, latest - time.monotonic())) * 1000 if pending else None
                ready = {fd for fd, _ in poller.poll(quiet)}
                if self._stopping.is_set():
                    return
                found = _events(monitor) if monitor.fileno() in ready else set()
                if links.fileno() in ready:
                    found |= _drained(links)
                if found and not pending:
                    latest = time.monotonic() + self._longest
                pending |= found
                if pending and (not found or time.monotonic() >= latest):
                    self._tell(frozenset(pending))
                    pending.clear()

    def _tell(self, subsystems: frozenset[str]) -> None:
        try:
            self._changed(subsystems)
        except Exception:
            log.exception("the inventory could not follow a change of the hardware", subsystems=sorted(subsystems))


def _events(monitor: Any) -> set[str]:
    """The subsystems of what happened; all of them when the kernel had to drop events."""
    found: set[str] = set()
    try:
        for _ in range(_MOST_EVENTS):
            device = monitor.poll(timeout=0)
            if device is None:
                break
            found.add(device.subsystem)
    except (OSError, ValueError):
        return set(SUBSYSTEMS)
    return found & SUBSYSTEMS


def _drained(links: socket.socket) -> set[str]:
    for _ in range(_MOST_EVENTS):
        try:
            links.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            break
        except OSError:  # events were lost: as good as one
            break
    return {"net"}
