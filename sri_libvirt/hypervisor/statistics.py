"""What guests use, by one bulk call of libvirt: counters that only grow, and sizes.

Only the groups that are needed, for some ask QEMU, and without waiting for what else is done to a domain; even so a
QEMU that hangs can hold the call up. So it has a connection of its own, and a thread that may be left behind; an RPC, a
lane and a scrape have no business here.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import libvirt

from sri_libvirt.hypervisor import faults

_GROUPS = (
    libvirt.VIR_DOMAIN_STATS_STATE
    | libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_VCPU
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
    | libvirt.VIR_DOMAIN_STATS_BLOCK
)
_FLAGS = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
_DELAY = re.compile(r"vcpu\.\d+\.delay")


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one guest, at `at` (seconds of the monotonic clock). None: libvirt did not say.

    `cpu` and `steal` are seconds: of CPU time that its QEMU has used, and that its vCPUs have waited for a CPU of the
    host. The others are bytes: resident memory, what its disks have read and written, what its network interfaces have
    received and sent, as the guest sees it.
    """

    at: float
    cpu: float | None
    steal: float | None
    resident: int | None
    read: int | None
    written: int | None
    received: int | None
    sent: int | None


def read(connection: libvirt.virConnect) -> dict[str, Figures]:
    """Of all guests that run, by id. Raises Unreachable, HypervisorError."""
    try:
        found = connection.getAllDomainStats(_GROUPS, _FLAGS)
        return {str(uuid.UUID(bytes=domain.UUID())): figures(values, time.monotonic()) for domain, values in found}
    except libvirt.libvirtError as error:
        raise faults.translate(error, "ask what guests use", alive=faults.is_alive(connection)) from error


def figures(values: Mapping[str, Any], at: float) -> Figures:
    """Of libvirt's typed parameters (virConnectGetAllDomainStats)."""
    resident = values.get("balloon.rss")
    return Figures(
        at=at,
        cpu=_seconds(values.get("cpu.time")),
        steal=_seconds(_sum(value for name, value in values.items() if _DELAY.fullmatch(name))),
        resident=None if resident is None else int(resident) * 1024,
        read=_of_devices(values, "block", "rd.bytes"),
        written=_of_devices(values, "block", "wr.bytes"),
        received=_of_devices(values, "net", "rx.bytes"),  # libvirt takes the guest's side of a tap
        sent=_of_devices(values, "net", "tx.bytes"),
    )


def _of_devices(values: Mapping[str, Any], kind: str, counter: str) -> int | None:
    """The sum over all devices of a kind; 0 where there is none."""
    if f"{kind}.count" not in values:
        return None
    return _sum(_each(values, kind, counter)) or 0


def _each(values: Mapping[str, Any], kind: str, counter: str) -> Iterator[int]:
    for number in range(int(values[f"{kind}.count"])):
        value = values.get(f"{kind}.{number}.{counter}")
        if value is not None:
            yield int(value)


def _sum(values: Iterator[int]) -> int | None:
    found = list(values)
    return sum(found) if found else None


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e9
