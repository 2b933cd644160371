"""A machine as CreateMachine and the loop would make it, without a store, a file or a libvirt: for `render`.

The same code as the RPC's decides names, targets and MACs, so that what is printed is what would be defined. What only
a real preparation can find out (an image's format) is assumed and told. Printing does not belong here.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal, cast

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.config import Settings
from sri_libvirt.devices import Backing, BackingFile, DiskSource, FileIdentity
from sri_libvirt.domain import ports, profile, settings
from sri_libvirt.errors import InvalidSpec, NotReady
from sri_libvirt.hypervisor.base import Offer
from sri_libvirt.hypervisor.networks import PlannedNetworks
from sri_libvirt.paths import MachinePaths
from sri_libvirt.reconcile.plugins import PluginTables
from sri_libvirt.records import GIB, Attachment, Machine, MachineClass, Profile, class_name
from sri_libvirt.server import intents, validate
from sri_libvirt.store import Transaction

SAMPLE_ID = "00000000-0000-4000-8000-000000000000"
"""The id of a machine whose file gives none: always the same, so that two renderings can be compared."""

OFFLINE = Offer(
    libvirt_version=0,
    qemu_version=0,
    architecture="x86_64",
    emulator="/usr/bin/qemu-system-x86_64",
    domain_types=frozenset({"qemu"}),
    machine_type="q35",
    machine_types=frozenset({"q35"}),
    cpu_modes={"qemu": frozenset({"maximum"})},
    cpu_models={},
    firmware=(),
)
"""What is assumed of a host that is not asked."""


def machine_of(message: pb.Machine, classes: Mapping[str, MachineClass], plugins: PluginTables) -> Machine:
    """The machine that CreateMachine would store. Raises InvalidSpec as the RPC would."""
    validate.machine("machine", message, plugins)

    def admit() -> MachineClass:
        name = class_name(message.spec)
        if name not in classes:
            raise InvalidSpec("machine.spec.class", f"{name!r} is not one of {', '.join(classes)}")
        return classes[name]

    metadata = message.metadata
    labels, annotations = dict(metadata.labels), dict(metadata.annotations)
    draft = intents.Draft(_id(metadata.id), labels, annotations, message.spec, now=0, created_at=0)
    machine, _ = intents.create(cast(Transaction, _EmptyStore()), draft, admit)
    return machine


def profile_of(machine_class: MachineClass, offer: Offer, settings: Settings) -> Profile:
    """The hardware that would be chosen on this host. Raises NotReady when the host lacks something for it."""
    if offer is OFFLINE:
        plain = replace(machine_class, policy=replace(machine_class.policy, firmware="default"))
        return profile.choose(
            offer, plain, domain_type="qemu", cpu=("maximum", ""), firmware="bios", ports=settings.pcie_ports
        )
    domain_type: Literal["kvm", "qemu"] = "kvm" if "kvm" in offer.domain_types else "qemu"
    if settings.domain_type != "auto":
        domain_type = settings.domain_type
    mode = "host-passthrough" if domain_type == "kvm" else "maximum"
    return profile.choose(
        offer,
        machine_class,
        domain_type=domain_type,
        cpu=(mode, ""),
        firmware=settings.firmware,
        ports=settings.pcie_ports,
    )


def devices_of(
    machine: Machine, most_ports: int, paths: MachinePaths, plugins: PluginTables, tell: Callable[[str], None]
) -> list[Attachment]:
    """The devices that the domain would have, as if all had been prepared; `tell` hears what was assumed."""
    rows = ports.placed(machine.attachments, most_ports)
    for row in rows:
        if problem := no_port(row):
            tell(f"{row.kind} {row.name} is left out: {problem}")
    placed = [row for row in rows if row.port]
    if any(row.kind != "nic" for row in placed):
        tell("disks are opened as is done where the kernel and the disk's file system have O_DIRECT and io_uring")
    made = []
    for row in placed:
        try:
            made.append(replace(row, backing=_opened(machine, _backing(machine, row, paths, plugins, tell))))
        except NotReady as error:
            tell(f"{row.kind} {row.name} is left out: {error}")
    return made


def no_port(row: Attachment) -> str:
    """Why a wanted device has no port, "" for one that has."""
    if row.port:
        return ""
    return "it has no network_id" if ports.without_network(row) else "no PCIe port is free"


def _backing(
    machine: Machine, row: Attachment, paths: MachinePaths, plugins: PluginTables, tell: Callable[[str], None]
) -> Backing:
    match row.kind:
        case "image":
            if plugins.unresolved(row):
                tell("the image is taken for one raw disk; nobody is asked for it, so the path of its file is made up")
                return _disk_on("/fetched.raw", "raw", machine, paths)
            path = machine.spec.image.image.removeprefix("file://")
            form: Literal["raw", "qcow2"] = "raw" if path.endswith((".raw", ".img")) else "qcow2"
            tell(f"the image is taken for {form} by its name")
            return _disk_on(path, form, machine, paths)
        case "seed":
            return DiskSource("seed", str(paths.seed), "raw", 0, read_only=True)
        case "volume":
            return _volume(machine, row, paths, plugins, tell)
        case "nic":
            nic = row.nic()
            return plugins.nic(row).prepare(machine.id, nic, row.mac, PlannedNetworks())


def _disk_on(base: str, form: Literal["raw", "qcow2"], machine: Machine, paths: MachinePaths) -> DiskSource:
    backing = BackingFile(base, form, FileIdentity(0, 0, 0))
    size = machine.machine_class.policy.root_disk_bytes
    return DiskSource("image", str(paths.image_disk), "qcow2", size, backing=backing)


def _opened(machine: Machine, backing: Backing) -> Backing:
    if not isinstance(backing, DiskSource):
        return backing
    wanted = settings.choose(backing.kind, machine.machine_class.policy, settings.Everything())
    return replace(backing, settings=wanted)


def _volume(
    machine: Machine, row: Attachment, paths: MachinePaths, plugins: PluginTables, tell: Callable[[str], None]
) -> DiskSource:
    if (source := plugins.planned(row)) is not None:
        tell(
            f"the {source.handle.partition('/')[0]} volume {row.name} is taken as its connection says; nobody is asked"
        )
        return source
    volume = row.volume()
    if volume.HasField("connection"):
        tell(f"where the volume {row.name} will be is told by its driver alone; the path is made up")
    size = volume.empty_disk.size_bytes or GIB
    handle = plugins.volume(row).handle(machine.id, volume)
    return DiskSource(handle, str(paths.empty_disk(row.name, size)), "qcow2", size)


def _id(given: str) -> str:
    try:
        return str(uuid.UUID(given))
    except ValueError:
        return SAMPLE_ID


class _EmptyStore:
    """What `intents.create` asks of a transaction, answered as by a store without any machine."""

    def find_uid(self, uid: str) -> None: ...

    def mac_owner(self, mac: str) -> None: ...

    def insert(self, machine: Machine) -> None: ...

    def claim(self, machine_id: str, claims: object) -> None: ...

    def add_event(self, machine_id: str, event: object) -> None: ...

    def listing_most(self) -> int:
        return 0
