"""What each RPC writes, as functions of a Transaction: only what should be, decided on what the store says.

They return whether the loop has something to do: a call that asks for what is so already bumps no generation and wakes
nobody (contract G.8). Checks of a request by itself are `validate.py`'s; how a wish comes true is the loop's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from sri_libvirt import names, printable, userdata
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.capacity import claims
from sri_libvirt.errors import AlreadyExists, FailedPrecondition, InvalidSpec, NotFound, Unavailable
from sri_libvirt.records import (
    GIB,
    LABEL_NAME,
    LABEL_NAMESPACE,
    LABEL_UID,
    MOST_DEVICES,
    Attachment,
    Event,
    Machine,
    MachineClass,
    class_name,
)
from sri_libvirt.server import bounds, lost, validate
from sri_libvirt.store import Transaction

Entry = TypeVar("Entry", pb.Volume, pb.NetworkInterface)

Take = Callable[[Transaction, Attachment], object]
"""Lets a machine have what a device claims, if there is room."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A machine to be created: its id to be, what the request said, the time, and the time as people tell it."""

    id: str
    labels: dict[str, str]
    annotations: dict[str, str]
    spec: pb.MachineSpec
    now: int
    created_at: int


AskedMac = Callable[[pb.NetworkInterface], str]
"""The MAC that a network interface asks for, and may; "" for one that is derived."""


def _take_nothing(_tx: Transaction, _row: Attachment) -> None: ...


def _no_mac(_nic: pb.NetworkInterface) -> str:
    return ""


def create(
    tx: Transaction,
    draft: Draft,
    admit: Callable[[], MachineClass],
    take: Take = _take_nothing,
    asked_mac: AskedMac = _no_mac,
) -> tuple[Machine, bool]:
    """The machine of this draft, and whether it is new.

    With the poollet's three labels the call is idempotent by uid (contract G.1). `admit` gives the class, or raises
    when it does not fit; it is asked for new machines only, because neither a class that is gone nor a full host
    touches a machine that exists. The machine is charged by its class (contract G.7), its devices as far as they fit.
    """
    if {LABEL_UID, LABEL_NAMESPACE, LABEL_NAME} <= draft.labels.keys():
        existing = tx.find_uid(draft.labels[LABEL_UID])
        if existing is not None:
            return _same(existing, draft), False
    machine_class = admit()
    machine = Machine(
        id=draft.id,
        labels=draft.labels,
        annotations=draft.annotations,
        spec=draft.spec,
        status=pb.MachineStatus(),
        generation=1,
        observed_generation=0,
        created_at=draft.created_at,
        deleted_at=0,
        power_at=draft.now,
        machine_class=machine_class,
        attachments=tuple(_first_attachments(tx, draft, asked_mac)),
    )
    tx.insert(machine)
    tx.claim(machine.id, claims.of_class(machine_class))
    for row in machine.attachments:
        take(tx, row)
    bounds.check_create(tx)
    _note(tx, draft.id, draft.now, "created", f"created with class {class_name(draft.spec)}")
    if note := userdata.note(draft.spec.ignition_data, seeded=machine.seeded):
        _note(tx, draft.id, draft.now, "user-data", note)
    return machine, True


def delete(tx: Transaction, machine_id: str, now: int) -> bool:
    """The machine is to go. Asked again while it goes: nothing more (contract A.5)."""
    if _machine(tx, machine_id).deleted_at:
        return False
    tx.set_deleted(machine_id, now)
    _note(tx, machine_id, now, "delete", "deletion was asked for")
    return True


def annotate(tx: Transaction, machine_id: str, annotations: dict[str, str]) -> None:
    """Replace the whole map: never a new generation (contract A.1), and nothing for the loop to do."""
    machine = _machine(tx, machine_id)
    validate.size("annotations", machine.labels, annotations, machine.spec)
    before = tx.listing_most()
    tx.set_annotations(machine_id, annotations)
    bounds.check_growth(tx, before, bounds.ANNOTATE)


def set_power(tx: Transaction, machine_id: str, power: pb.Power, now: int) -> bool:
    """Whether the machine should be on."""
    machine = _living(tx, machine_id)
    if machine.spec.power == power:
        return False
    machine.spec.power = power
    tx.set_spec(machine_id, machine.spec, machine.generation + 1, power_at=now)
    _note(tx, machine_id, now, "power", f"{pb.Power.Name(power)} was asked for")
    return True


def attach_volume(tx: Transaction, machine_id: str, volume: pb.Volume, now: int, take: Take = _take_nothing) -> bool:
    """Add a volume to the spec."""
    machine = lost.looked_at(_living(tx, machine_id))
    if _present("volume", machine.spec.volumes, volume):
        return False
    machine.spec.volumes.append(volume)
    validate.devices("volume", machine.spec, seeded=machine.seeded)
    validate.size("volume", machine.labels, machine.annotations, machine.spec)
    before = tx.listing_most()
    taken = {row.target: row for row in machine.attachments if row.wanted}
    if volume.device and (other := taken.get(names.target_of(volume.device))):
        raise validate.same_target("volume.device", volume.device, f"volume {printable.quote(other.name)}")

    def same(row: Attachment) -> bool:
        return _same_backing(row.volume(), volume) and row.target not in taken

    row = _unwanted(machine, "volume", volume.name, same)
    if row is None:
        _check_leaving(machine)
        target = _target(volume, {each.target for each in machine.attachments})
        row = _volume_row(machine_id, volume, target, _next(machine, "volume", volume.name), now)
        row = lost.still_plugged(machine, volume, partial(_volume_row, machine_id, volume, now=now)) or row
        tx.put_attachment(row)
        take(tx, row)
    else:
        tx.set_wanted(machine_id, row.key, True, now, volume.SerializeToString(deterministic=True))
    tx.set_spec(machine_id, machine.spec, machine.generation + 1)
    bounds.check_growth(tx, before, bounds.ATTACH)
    _note(tx, machine_id, now, "attach", f"volume {printable.quote(volume.name)} was attached to the spec")
    return True


def attach_nic(
    tx: Transaction,
    machine_id: str,
    nic: pb.NetworkInterface,
    now: int,
    take: Take = _take_nothing,
    asked_mac: AskedMac = _no_mac,
) -> bool:
    """Add a network interface to the spec."""
    machine = lost.looked_at(_living(tx, machine_id))
    if _present("network_interface", machine.spec.network_interfaces, nic):
        return False
    machine.spec.network_interfaces.append(nic)
    validate.devices("network_interface", machine.spec, seeded=machine.seeded)
    validate.size("network_interface", machine.labels, machine.annotations, machine.spec)
    before = tx.listing_most()
    row = _unwanted(machine, "nic", nic.name, lambda row: row.nic() == nic)
    if row is None:
        _check_leaving(machine)
        mac = asked_mac(nic) or _mac(tx, machine_id, nic.name, set())
        row = _nic_row(machine_id, nic, mac, _next(machine, "nic", nic.name), now)
        tx.put_attachment(row)
        take(tx, row)
    else:
        tx.set_wanted(machine_id, row.key, True, now)
    tx.set_spec(machine_id, machine.spec, machine.generation + 1)
    bounds.check_growth(tx, before, bounds.ATTACH)
    _note(tx, machine_id, now, "attach", f"network interface {printable.quote(nic.name)} was attached to the spec")
    return True


def detach_volume(tx: Transaction, machine_id: str, name: str, now: int) -> bool:
    """Take a volume out of the spec at once; its unplug is the loop's (contract A.5)."""
    machine = lost.looked_at(_machine(tx, machine_id))
    index = _index(machine.spec.volumes, name)
    if index is None:
        lost.refuse_while_plugged(machine, "volume", name)
        raise NotFound(f"machine {machine_id} has no volume {printable.quote(name)}")
    del machine.spec.volumes[index]
    _detached(tx, machine, "volume", name, now)
    return True


def detach_nic(tx: Transaction, machine_id: str, name: str, now: int) -> bool:
    """Take a network interface out of the spec at once; its unplug is the loop's."""
    machine = lost.looked_at(_machine(tx, machine_id))
    index = _index(machine.spec.network_interfaces, name)
    if index is None:
        lost.refuse_while_plugged(machine, "nic", name)
        raise NotFound(f"machine {machine_id} has no network interface {printable.quote(name)}")
    del machine.spec.network_interfaces[index]
    _detached(tx, machine, "nic", name, now)
    return True


def _machine(tx: Transaction, machine_id: str) -> Machine:
    machine = tx.machine(machine_id)
    if machine is None:
        raise NotFound(f"there is no machine {printable.quote(machine_id)}")
    return machine


def _living(tx: Transaction, machine_id: str) -> Machine:
    machine = _machine(tx, machine_id)
    if machine.deleted_at:
        raise FailedPrecondition(f"machine {machine_id} is being deleted")
    return machine


def _note(tx: Transaction, machine_id: str, now: int, reason: str, message: str) -> None:
    tx.add_event(machine_id, Event(kind="request", reason=reason, message=message, time=now))


def _same(existing: Machine, draft: Draft) -> Machine:
    """The machine that has the draft's uid, if it is what the draft asks for."""
    if existing.deleted_at:
        raise Unavailable(f"machine {existing.id} of the same uid is being deleted, retry")
    if existing.spec != draft.spec:
        raise AlreadyExists(f"machine {existing.id} has the same uid and another spec")
    return existing


def _first_attachments(tx: Transaction, draft: Draft, asked_mac: AskedMac) -> Iterable[Attachment]:
    """A row for every device of a new machine."""
    spec, now = draft.spec, draft.now
    if spec.HasField("image"):
        reference = spec.image.image.encode()
        yield Attachment(draft.id, "image", "", 1, reference, True, now, target=names.IMAGE_TARGET, serial="image")
    if userdata.kind(spec.ignition_data) == "cloud-init":
        yield Attachment(draft.id, "seed", "", 1, b"", True, now, target=names.SEED_TARGET, serial="seed")
    targets: set[str] = set()
    # Named devices first, then the others by name: a list's order is not the user's (contract A.4).
    for volume in sorted(spec.volumes, key=lambda each: (not each.device, each.name)):
        target = _target(volume, targets)
        targets.add(target)
        yield _volume_row(draft.id, volume, target, 1, now)
    macs: set[str] = set()
    for nic in spec.network_interfaces:
        mac = asked_mac(nic) or _mac(tx, draft.id, nic.name, macs)
        macs.add(mac)
        yield _nic_row(draft.id, nic, mac, 1, now)


def _volume_row(machine_id: str, volume: pb.Volume, target: str, incarnation: int, now: int) -> Attachment:
    connection = volume.connection
    identity = (connection.driver, connection.handle) if volume.HasField("connection") else (machine_id, volume.name)
    return Attachment(
        machine_id,
        "volume",
        volume.name,
        incarnation,
        volume.SerializeToString(deterministic=True),
        True,
        now,
        target=target,
        serial=names.serial(volume.device or names.device_of(target), *identity),
    )


def _nic_row(machine_id: str, nic: pb.NetworkInterface, mac: str, incarnation: int, now: int) -> Attachment:
    spec = nic.SerializeToString(deterministic=True)
    return Attachment(machine_id, "nic", nic.name, incarnation, spec, True, now, mac=mac)


def _target(volume: pb.Volume, taken: set[str]) -> str:
    """The target of its device name, or the lowest that no row of the machine holds (contract G.12)."""
    if volume.device:
        return names.target_of(volume.device)
    target = next((each for each in names.targets() if each not in taken), None)
    if target is None:
        raise InvalidSpec("volume.device", "no device name is free in this machine; detach a volume first")
    return target


def _mac(tx: Transaction, machine_id: str, nic: str, taken: set[str]) -> str:
    """The MAC of a machine's NIC, the same at every attach; steps aside from one that another NIC holds."""
    attempt = 0
    while True:
        mac = names.mac_address(machine_id, nic, attempt)
        if mac not in taken and tx.mac_owner(mac) in (None, (machine_id, nic)):
            return mac
        attempt += 1


def _present(field: str, entries: Iterable[Entry], wanted: Entry) -> bool:
    """Whether the spec has exactly this entry. Raises AlreadyExists for another one of its name."""
    for entry in entries:
        if entry.name == wanted.name:
            if entry == wanted:
                return True
            raise AlreadyExists(f"{field}.name: {printable.quote(entry.name)} is attached with another spec")
    return False


def _unwanted(machine: Machine, kind: str, name: str, same: Callable[[Attachment], bool]) -> Attachment | None:
    """The newest detached row of this name with the same backing: its alias, port and MAC are used again."""
    rows = [row for row in machine.attachments if row.kind == kind and row.name == name and not row.wanted]
    return max((row for row in rows if same(row)), key=lambda row: row.incarnation, default=None)


def _check_leaving(machine: Machine) -> None:
    """Nobody makes the loop keep more devices that are on their way out than a machine can have."""
    leaving = sum(not row.wanted for row in machine.attachments)
    if leaving >= MOST_DEVICES:
        raise Unavailable(
            f"{leaving} devices of machine {machine.id} were detached and have not gone yet: see `sri-libvirt machine "
            "why`, and retry"
        )


def _next(machine: Machine, kind: str, name: str) -> int:
    """The next incarnation of a name."""
    return 1 + max((row.incarnation for row in machine.attachments if (row.kind, row.name) == (kind, name)), default=0)


def _same_backing(old: pb.Volume, new: pb.Volume) -> bool:
    """The same data on the same device; credentials may differ (contract G.4)."""
    if old.device != new.device or old.HasField("connection") != new.HasField("connection"):
        return False
    if new.HasField("connection"):
        before, after = old.connection, new.connection
        return (before.driver, before.handle) == (after.driver, after.handle)
    return (old.empty_disk.size_bytes or GIB) == (new.empty_disk.size_bytes or GIB)


def _index(entries: Iterable[Entry], name: str) -> int | None:
    return next((index for index, entry in enumerate(entries) if entry.name == name), None)


def _detached(tx: Transaction, machine: Machine, kind: str, name: str, now: int) -> None:
    for row in machine.attachments:
        if row.kind == kind and row.name == name and row.wanted:
            tx.set_wanted(machine.id, row.key, False, now)
    tx.set_spec(machine.id, machine.spec, machine.generation + 1)
    what = {"volume": "volume", "nic": "network interface"}[kind]
    _note(tx, machine.id, now, "detach", f"{what} {printable.quote(name)} was detached from the spec")
