"""What a guest is at this moment, of libvirt and the kernel: asked within a deadline, for either may hang.

Nothing here is needed to show the rest. How it is printed does not belong here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from sri_libvirt.clock import boottime
from sri_libvirt.config import Settings
from sri_libvirt.errors import HypervisorError, SRIError
from sri_libvirt.host import guests
from sri_libvirt.hypervisor.base import DomainSnapshot
from sri_libvirt.records import SECOND

T = TypeVar("T")

SECONDS = 3.0
"""How long libvirt may take to answer."""


def domain(settings: Settings, machine_id: str) -> dict[str, Any]:
    """libvirt's state and reason of its domain, and its XML both ways; `problem` says why that is unknown."""
    found: dict[str, Any] = {"state": None, "reason": None, "managed_save": None, "problem": None}
    try:
        seen = snapshot(settings, machine_id)
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


def snapshot(settings: Settings, machine_id: str) -> DomainSnapshot | None:
    """Its domain, None if it has none. Raises HypervisorError, also when libvirt does not answer in time."""
    try:
        return within(SECONDS, lambda: _snapshot(settings, machine_id))
    except TimeoutError:
        raise HypervisorError(f"libvirt has not answered within {SECONDS:g} s") from None


def process(settings: Settings, machine_id: str) -> dict[str, Any] | None:
    """Its QEMU; None where there is none."""
    found = guests.processes(settings.procfs).get(machine_id)
    if found is None:
        return None
    return {
        "pid": found.pid,
        "cgroup": found.cgroup or None,
        "uptime_seconds": round(max(boottime() / SECOND - found.started, 0.0), 1),
        "cpu_seconds": round(found.cpu, 2),
        "resident_bytes": found.resident_bytes,
    }


def within(seconds: float, work: Callable[[], T]) -> T:
    """The result of a work on a thread of its own, which is left behind when it is late. Raises TimeoutError then."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="libvirt", daemon=True).start()
    return done.result(seconds)


def _snapshot(settings: Settings, machine_id: str) -> DomainSnapshot | None:
    from sri_libvirt.hypervisor.libvirt import LibvirtHypervisor  # libvirt takes a while to load

    connection = LibvirtHypervisor(settings.libvirt_uri).connect()
    try:
        return connection.snapshot(machine_id)
    finally:
        connection.close()
