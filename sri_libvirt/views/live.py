"""What a guest is at this moment, of libvirt and the kernel: either may hang, and then says so for the rest.

Nothing here is needed to show the rest. How it is printed does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sri_libvirt.clock import boottime
from sri_libvirt.errors import SRIError
from sri_libvirt.host import guests
from sri_libvirt.hypervisor.base import Connection, DomainSnapshot
from sri_libvirt.looks import Looks
from sri_libvirt.records import SECOND

Connect = Callable[[], Connection]
"""Makes a connection to libvirt, which takes a while to load."""


def domain(connect: Connect, looks: Looks, machine_id: str) -> dict[str, Any]:
    """libvirt's state and reason of its domain; `problem` says why that is unknown."""
    found: dict[str, Any] = {"state": None, "reason": None, "managed_save": None, "problem": None}
    try:
        seen = snapshot(connect, looks, machine_id)
    except SRIError as error:
        return {**found, "problem": str(error)}
    if seen is None:
        return {**found, "state": "none"}
    return {
        **found,
        "state": seen.state.value,
        "reason": seen.reason or None,
        "managed_save": seen.managed_save,
    }


def snapshot(connect: Connect, looks: Looks, machine_id: str) -> DomainSnapshot | None:
    """Its domain, None if it has none. Raises HypervisorError, and NotReady when libvirt does not answer in time."""

    def look() -> DomainSnapshot | None:
        connection = connect()
        try:
            return connection.snapshot(machine_id)
        finally:
            connection.close()

    return looks.result("libvirt", machine_id, "asking libvirt for a domain", look)


def process(procfs: Path, looks: Looks, machine_id: str) -> dict[str, Any] | None:
    """Its QEMU, None where there is none. Raises NotReady where the kernel does not say in time."""
    found = looks.result("the processes", "", "looking at the guests' processes", lambda: guests.processes(procfs))
    qemu = found.get(machine_id)
    if qemu is None:
        return None
    return {
        "pid": qemu.pid,
        "cgroup": qemu.cgroup or None,
        "uptime_seconds": round(max(boottime() / SECOND - qemu.started, 0.0), 1),
        "cpu_seconds": round(qemu.cpu, 2),
        "resident_bytes": qemu.resident_bytes,
    }
