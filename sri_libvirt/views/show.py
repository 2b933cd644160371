"""What people and scripts are shown of a machine: an allow-list of fields, as plain data.

Ignition data, secret and encryption data and a connection's attributes are not in it (what of them says where a volume
is, its `backend` tells), and nothing is copied whole out of a message: a field that a later version adds stays hidden
until it is named here. How it is printed does not belong here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.clock import SteadyClock
from sri_libvirt.devices import DiskSource, NicBackend
from sri_libvirt.domain import layout
from sri_libvirt.reconcile.reasons import STOP_WORDS, advice, notes
from sri_libvirt.records import SECOND, Attachment, Departed, Event, Machine, Measure, Run, StopCause, class_name

_MICRO = 1000

BACKEND_PROBLEMS = frozenset({"backend-silent", "volume-refused", "in-use"})
"""Codes of what a backend was last heard to say of a volume that waits for it."""


def timestamp(nanoseconds: int) -> str | None:
    """RFC 3339 in UTC to the microsecond; None for 0, "never"."""
    if not nanoseconds:
        return None
    seconds, rest = divmod(nanoseconds, SECOND)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // _MICRO).isoformat().replace("+00:00", "Z")


def moment(shown: str) -> int:
    """The nanoseconds of such a timestamp."""
    return round(datetime.fromisoformat(shown).timestamp() * 1_000_000) * _MICRO


def ago(then: int, now: int) -> str:
    """A span as people say it: `8s`, `12m`, `3h`, `4d`."""
    seconds = max(0, now - then) // SECOND
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


_MEASURED: Mapping[Measure, str] = {
    "": "{}",
    "work": "{}",
    "ran": "ran {}",
    "waited": "waited {}",
    "open": "open {}",
    "create": "{} after create",
    "power": "{} after power",
    "delete": "{} after delete",
    "attach": "{} after attach",
    "detach": "{} after detach",
    "stop": "{} after stop",
    "behind": "{} behind",
}
"""A duration in a timeline, with what it is of."""


def took(nanoseconds: int, measure: Measure = "") -> str:
    """A duration, `430 ms`, `8.4 s after stop`; "" for 0."""
    if not nanoseconds:
        return ""
    span = f"{nanoseconds / 1e6:.0f} ms" if nanoseconds < SECOND else f"{nanoseconds / SECOND:.1f} s"
    return _MEASURED[measure].format(span)


def name(machine: Machine) -> str:
    """`namespace/name`, the name alone, or "" when it has none."""
    return full_name(machine.namespace, machine.name)


def full_name(namespace: str, name: str) -> str:
    """The same of its parts."""
    return f"{namespace}/{name}" if namespace else name


def state(machine: Machine) -> str:
    """The SRI state without its prefix."""
    return enum_name(pb.MachineState, machine.status.state, "MACHINE_")


def power(machine: Machine) -> str:
    """`ON` or `OFF`, as asked for."""
    return enum_name(pb.Power, machine.spec.power, "POWER_")


def enum_name(enum: Any, number: int, prefix: str) -> str:
    """The enum value's name without its prefix, or the number of a value that this version does not know."""
    value = enum.DESCRIPTOR.values_by_number.get(number)
    return value.name.removeprefix(prefix) if value else str(number)


def brief(machine: Machine, clock: SteadyClock) -> dict[str, Any]:
    """A machine in a list. `clock` is the one that stored times are of."""
    return {
        "id": machine.id,
        "namespace": machine.namespace,
        "name": machine.name,
        "class": class_name(machine.spec),
        "power": power(machine),
        "state": state(machine),
        "created": timestamp(machine.created_at),
        "deleted": timestamp(clock.to_wall(machine.deleted_at)),
        "reasons": reasons(machine, clock),
    }


def listed(machine: Machine, clock: SteadyClock) -> dict[str, Any]:
    """The same, with what else a list has a column for."""
    spec, status = machine.spec, machine.status
    return {
        **brief(machine, clock),
        "generation": machine.generation,
        "observed_generation": machine.observed_generation,
        "image": spec.image.image,
        "volumes": _attached(status.volumes, pb.VOLUME_ATTACHED, spec.volumes),
        "network_interfaces": _attached(
            status.network_interfaces, pb.NETWORK_INTERFACE_ATTACHED, spec.network_interfaces
        ),
    }


def _attached(there: Iterable[Any], attached: int, wanted: Sized) -> dict[str, int]:
    """How many devices are attached, and of how many."""
    return {"attached": sum(each.state == attached for each in there), "wanted": len(wanted)}


def departed(each: Departed, clock: SteadyClock) -> dict[str, Any]:
    """A machine that is no more, as far as anything of it is kept."""
    return {
        "id": each.id,
        "namespace": each.namespace,
        "name": each.name,
        "class": each.machine_class or None,
        "created": timestamp(each.created_at),
        "gone": timestamp(clock.to_wall(each.gone_at)),
        "run": run(each.run, clock) if each.run else None,
    }


def ended(latest: Mapping[str, Any] | None) -> str:
    """How the guest of a run, as `run` shows it, came to its end; "" of one that never ran or is not known to have."""
    if latest is None or latest["stopped_by"] is None:
        return ""
    return STOP_WORDS[StopCause(latest["stopped_by"])]


def run(latest: Run, clock: SteadyClock) -> dict[str, Any]:
    """The latest run of a guest."""
    return {
        "started": timestamp(clock.to_wall(latest.started_at)),
        "stopped": timestamp(clock.to_wall(latest.stopped_at)),
        "stopped_by": latest.stopped.value if latest.stopped else None,
        "failures": latest.failures,
        "not_before": timestamp(clock.to_wall(latest.not_before)),
    }


_LISTED = (
    *("id", "namespace", "name", "class", "power", "state", "created", "deleted", "reasons"),
    *("generation", "observed_generation", "image", "volumes", "network_interfaces"),
)
"""What `listed` has."""


def unreadable(machine_id: str, problem: str) -> dict[str, Any]:
    """A machine in a list whose record cannot be read: nothing of it is known, and that is said."""
    damaged = {"code": "record-damaged", "device": None, "message": problem, "advice": "", "since": None}
    return {**dict.fromkeys(_LISTED), "id": machine_id, "reasons": [damaged]}


def full(
    machine: Machine, clock: SteadyClock, heard: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
) -> dict[str, Any]:
    """A machine by itself: its wish, its hardware, its devices, its latest run.

    `heard` is what the daemon has heard of its volumes' backends, by name.
    """
    return {
        **brief(machine, clock),
        "uid": machine.uid,
        "labels": dict(machine.labels),
        "annotations": dict(machine.annotations),
        "generation": machine.generation,
        "observed_generation": machine.observed_generation,
        "cpu_millis": machine.machine_class.cpu_millis,
        "memory_bytes": machine.machine_class.memory_bytes,
        "image": machine.spec.image.image,
        "image_ref": machine.image.reference if machine.image else machine.spec.image.image,
        "ignition_bytes": len(machine.spec.ignition_data),
        "hardware": _hardware(machine),
        "devices": [_device(row, machine.status, heard) for row in sorted(machine.attachments, key=_order)],
        "run": run(machine.run, clock),
        "notes": notes(machine),
    }


def explained(machine: Machine, latest: Event | None, clock: SteadyClock) -> dict[str, Any]:
    """Why a machine is not what it should be; `latest` is the last line of its timeline."""
    settled = not machine.reasons and not machine.deleted_at and machine.observed_generation >= machine.generation
    return {
        **brief(machine, clock),
        # Whether the latest pass looked at the latest wish and found nothing missing.
        "as_it_should_be": settled,
        "generation": machine.generation,
        "observed_generation": machine.observed_generation,
        "notes": notes(machine),
        "latest": event(latest, clock) if latest else None,
    }


def reasons(machine: Machine, clock: SteadyClock) -> list[dict[str, Any]]:
    """Why a machine is not what it should be."""
    return [
        {
            "code": each.code,
            "device": each.device or None,
            "message": each.message,
            "advice": advice(each, machine.id),
            "since": timestamp(clock.to_wall(each.since)),
        }
        for each in machine.reasons
    ]


def event(each: Event, clock: SteadyClock) -> dict[str, Any]:
    """One line of a timeline. `took_seconds` is None where it means nothing; `took_of` says what it is of, and is None
    where an older version has not said.
    """
    return {
        "time": timestamp(clock.to_wall(each.time)),
        "kind": each.kind,
        "reason": each.reason,
        "message": each.message,
        "took_seconds": round(each.took / SECOND, 6) if each.took else None,
        "took_of": each.measure or None,
        "count": each.count,
        "last": timestamp(clock.to_wall(each.latest)),
    }


def _hardware(machine: Machine) -> dict[str, Any] | None:
    profile = machine.profile
    if profile is None:
        return None
    return {
        "domain_type": profile.domain_type,
        "machine_type": profile.machine_type,
        "firmware": profile.firmware,
        "cpu_mode": profile.cpu_mode,
        "vcpus": profile.vcpus,
        "pcie_ports": profile.ports,
    }


def _order(row: Attachment) -> tuple[int, str, int]:
    return ("image", "seed", "volume", "nic").index(row.kind), row.name, row.incarnation


def answers(device: Mapping[str, Any]) -> str:
    """Whether a volume's backend answers, as told to people."""
    if device.get("answers") is None:
        return str(device.get("backend_problem") or "not asked")
    return "yes" if device["answers"] else f"no: {device['backend_problem']}"


def _device(row: Attachment, status: pb.MachineStatus, heard: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "kind": row.kind,
        "name": row.name,
        "wanted": row.wanted,
        "alias": row.alias,
        "port": row.port or None,
        "pci_address": layout.guest_address(row.port) if row.port else None,
        "handle": row.backing.handle if row.backing else None,
        "problem": row.problem or None,
    }
    if row.kind == "nic":
        nic = row.nic()
        found = next((each.state for each in status.network_interfaces if each.name == row.name), 0)
        told = enum_name(pb.NetworkInterfaceState, found, "NETWORK_INTERFACE_") if row.wanted else None
        shown |= {"mac": row.mac, "network_id": nic.network_id, "ips": list(nic.ips), "state": told}
        return shown | _link(row)
    shown |= {"target": row.target, "serial": row.serial}
    if row.kind == "volume":
        volume = row.volume()
        found = next((each.state for each in status.volumes if each.name == row.name), 0)
        shown["device"] = volume.device
        shown["driver"] = volume.connection.driver if volume.HasField("connection") else "empty_disk"
        shown["state"] = enum_name(pb.VolumeState, found, "VOLUME_") if row.wanted else None
        shown |= _backend(row, heard.get(row.name, {}) if row.wanted else {})
    return shown


def _link(row: Attachment) -> dict[str, Any]:
    """What a network interface is joined to, once it is prepared: DHCP gives it the `address`, the `filter` keeps its
    guest from lying.
    """
    link = row.backing if isinstance(row.backing, NicBackend) else None
    return {
        "driver": (link.driver or link.kind) if link else None,
        "joined_to": link.source if link else None,
        "vlan": (link.vlan or None) if link else None,
        "address": (" ".join(filter(None, (link.address, link.address6))) or None) if link else None,
        "filter": (link.filter or None) if link else None,
    }


def _backend(row: Attachment, heard: Mapping[str, Any]) -> dict[str, Any]:
    """What holds a volume's data: `source` names no secret, and no user."""
    disk = row.backing if isinstance(row.backing, DiskSource) else None
    if row.problem_code in BACKEND_PROBLEMS:
        heard = {"answers": False, "problem": row.problem, **heard}
    return {
        "backend": disk.source if disk else None,
        "size_bytes": disk.size if disk else None,
        "answers": heard.get("answers"),
        "backend_problem": heard.get("problem"),
    }
