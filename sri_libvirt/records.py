"""The plain data that the store keeps and every room reads: machines, attachments, profile, run, classes, events.

All times are integer nanoseconds of the steady clock (`clock.py`), which looks like Unix time and never jumps; a
machine's `created_at` alone is the wall clock's, for people. Nothing here is mutable and nothing has a side effect;
change is made with `dataclasses.replace` and written through `store/`. Rules of what may change when do not belong
here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from sri_libvirt import names
from sri_libvirt.devices import Backing, Boot, DetectZeroes, DiskDiscard, ImagePin

if TYPE_CHECKING:
    from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb  # a short command does not wait for protobuf

SECOND = 1_000_000_000
"""Nanoseconds in a second."""

GIB = 1 << 30

MOST_DEVICES = 184
"""Devices that any machine can have, its image's and its seed's disk among them: each sits behind a PCIe root port of
its own, and a guest with one vCPU has interrupt vectors for no more ports. (With a device behind each it has them for
fewer: a new machine gets as many ports as its vCPUs can serve, `domain/ports.py`.)"""

MOST_VCPUS = 255
"""A q35 machine with more would need an IOMMU device that remaps interrupts (x2APIC)."""

META_KVM = "kvm"
META_NEIGHBOURS = "neighbours"
META_DOUBT = "doubt"
"""Values of the store as a whole that more rooms read than the one that writes them (host/kvm.py, resources.py,
reconcile/beginning.py)."""

AttachmentKind = Literal["image", "seed", "volume", "nic"]

Measure = Literal[
    "", "work", "ran", "waited", "open", "create", "power", "delete", "attach", "detach", "stop", "behind"
]
"""What the duration of an event is: of the work itself, of the guest's run, of a wait, of a session that was open, or
since what has caused it: an RPC, or the guest's stop; of the clock alone, how far it stood behind."""

Key = tuple[AttachmentKind, str, int]
"""An attachment within its machine: kind, name, incarnation."""


@dataclass(frozen=True, slots=True)
class ClassPolicy:
    """What a class says beyond its capabilities; resolved at create and kept with the machine (contract G.1)."""

    root_disk_bytes: int = 10 * GIB
    firmware: Literal["default", "bios", "uefi"] = "default"
    memory_overhead_bytes: int | None = None  # None: by the formula of capacity/claims.py
    template_dir: str = ""  # templates that come before those of the provider; "": none
    disk_cache: Literal["auto", "none", "writeback"] = "auto"  # this and the next: by domain/settings.py
    disk_io: Literal["auto", "io_uring", "native", "threads"] = "auto"
    disk_discard: DiskDiscard = "unmap"
    disk_detect_zeroes: DetectZeroes = "off"


@dataclass(frozen=True, slots=True)
class MachineClass:
    """A machine class: `cpu_millis` thousandths of a core, `memory_bytes` bytes."""

    name: str
    cpu_millis: int
    memory_bytes: int
    policy: ClassPolicy = ClassPolicy()


@dataclass(frozen=True, slots=True)
class Profile:
    """What was chosen for a machine at its first define and never drifts (design, "What is stored").

    `layout` is the version of the fixed PCI layout in domain/. `loader` and `nvram_template` are "" by BIOS.
    `cpu_model` is "" unless `cpu_mode` is "custom". `boot` is what its image is (`devices.ImagePin`).
    """

    layout: int
    domain_type: Literal["kvm", "qemu"]
    machine_type: str
    cpu_mode: Literal["host-passthrough", "host-model", "maximum", "custom"]
    cpu_model: str
    vcpus: int
    cpu_millis: int
    memory_bytes: int
    firmware: Literal["bios", "uefi"]
    loader: str
    loader_format: Literal["raw", "qcow2"]
    nvram_template: str
    ports: int
    emulator: str
    boot: Boot = "disk"


class StopCause(StrEnum):
    """Who stopped the guest (contract G.5)."""

    GUEST = "guest"  # its own power-off: remembered
    REQUESTED = "requested"  # we pressed the button or destroyed it
    HOST = "host"  # SIGTERM, host shutdown or reboot
    PANICKED = "panicked"  # the guest's kernel says that it cannot go on
    OUT_OF_MEMORY = "out of memory"  # the host's kernel killed QEMU for want of memory
    ABORTED = "aborted"  # QEMU gave up by itself, with words in its log
    KILLED = "killed"  # QEMU ended without a word
    FAILED = "failed"  # libvirt gave it up; of older versions, any of the three above
    DESTROYED = "destroyed"  # somebody else destroyed it
    SAVED = "saved"  # managed save
    START_FAILED = "start failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class StopEvent:
    """What libvirt's events said of a stop, as it came; plan() makes a StopCause of it.

    `shutdown` is the detail of the SHUTDOWN event that came before ("guest", "host" or "" for none seen), `stopped`
    the detail of the STOPPED event ("shutdown", "destroyed", "crashed", "migrated", "saved", "failed",
    "from snapshot").
    """

    shutdown: str
    stopped: str
    at: int


@dataclass(frozen=True, slots=True)
class Stranger:
    """A volume or NIC with an alias of ours in a guest whose machine has no row for it.

    `target` to `port` are what its XML says, `source` a path or a network. `since` is when it was first seen,
    `unplug_at` when the guest was last asked to let it go.
    """

    alias: str
    target: str = ""
    serial: str = ""
    source: str = ""
    mac: str = ""
    port: int = 0
    since: int = 0
    unplug_at: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """The latest run of a machine's guest, and what the loop must remember between passes.

    `uuid` is put into the domain's metadata by the define before each start ("" = never started). `started_at` is 0
    until the start call returned. `pressed_at` is the first, `last_press_at` the latest press of the power button in
    this run.
    `resumed_at` is when the loop last resumed or woke it, `resumes` how often in a row. `ending` is why it has stopped
    while its QEMU is still to be ended. `stopped` says why it ended (None while it runs or nobody knows yet).
    `failures` counts starts in a row that failed or lasted less than a minute; no start before `not_before`; `error` is
    what the last failed start said. `save_refused` counts how often the managed save of this run was called unusable.
    `behind` is how far a restored guest's clock stands behind, 0 once it was set or told of; `restored`: that it was
    restored was seen, so that it is not taken for another restore.
    `unsure`: nobody could tell, when it stopped, whether the host was going down.
    `down_at` is when the guest before this one stopped without having been asked to, `running_at` when the machine was
    last told to be running.
    `strangers` is None until the first look after the store was put back from a backup: nobody can say then what the
    guest has.
    """

    uuid: str = ""
    boot_id: str = ""
    started_at: int = 0
    pressed_at: int = 0
    last_press_at: int = 0
    resumed_at: int = 0
    stopped: StopCause | None = None
    stopped_at: int = 0
    failures: int = 0
    not_before: int = 0
    error: str = ""
    resumes: int = 0
    ending: StopCause | None = None
    save_refused: int = 0
    behind: int = 0
    restored: bool = False
    strangers: tuple[Stranger, ...] | None = ()
    unsure: bool = False
    down_at: int = 0
    running_at: int = 0

    @property
    def fell_at(self) -> int:
        """When the guest, or else the one before it, stopped without having been asked to; 0 for never."""
        return self.down_at if self.stopped in (None, StopCause.REQUESTED) else self.stopped_at

    def next(self, uuid: str, boot_id: str) -> Run:
        """The one after this, which is about to be started."""
        return Run(uuid=uuid, boot_id=boot_id, failures=self.failures, not_before=self.not_before, error=self.error,
                   down_at=self.fell_at, running_at=self.running_at)  # fmt: skip

    def going(self, now: int) -> Run:
        """The same run, whose guest runs since `now`: nothing of a stop or a press before counts any more."""
        return replace(self, down_at=self.fell_at, started_at=now, pressed_at=0, last_press_at=0,
                       resumed_at=0, resumes=0, ending=None,
                       unsure=False, stopped=None, stopped_at=0, save_refused=0, behind=0,
                       restored=False)  # fmt: skip

    def stranger(self, kind: AttachmentKind, name: str) -> Stranger | None:
        """The one that has this name."""
        return next((each for each in self.strangers or () if names.is_alias_of(each.alias, kind, name)), None)


@dataclass(frozen=True, slots=True)
class Attachment:
    """One device of a machine, as wanted and as prepared. One row per incarnation of a name.

    RPCs own `spec`, `wanted`, `changed_at`, `target`, `mac`, `serial`; the loop owns `port`, `backing`, `problem`,
    `unplug_at`, `image`: what the machine's image reference means, None while nobody has asked, or where it says so
    itself.
    `spec` is a serialised Volume or NetworkInterface, of an image its reference, of a seed b"". `port` is the index of
    the device's root port (1 = first), 0 = none yet. `problem` is why the last prepare failed, at `problem_at`, with
    advice for an operator. `unplug_at` is when the guest was last asked to let it go, `plugged_at` when it was last
    plugged into a running guest, and `plugs` how often in a row that was done soon after the time before.
    """

    machine: str
    kind: AttachmentKind
    name: str
    incarnation: int
    spec: bytes
    wanted: bool
    changed_at: int
    target: str = ""
    mac: str = ""
    serial: str = ""
    port: int = 0
    backing: Backing | None = None
    problem: str = ""
    problem_advice: str = ""
    problem_at: int = 0
    unplug_at: int = 0
    problem_code: str = ""
    plugs: int = 0
    plugged_at: int = 0
    image: ImagePin | None = None

    @property
    def key(self) -> Key:
        return (self.kind, self.name, self.incarnation)

    @property
    def alias(self) -> str:
        return names.alias(self.kind, self.name, self.incarnation)

    @property
    def reference(self) -> str:
        """What the machine's image is called; only for kind "image", "" of one that an older version made."""
        return self.spec.decode()

    def volume(self) -> pb.Volume:
        """The volume as it arrived; only for kind "volume"."""
        from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb

        return pb.Volume.FromString(self.spec)

    def nic(self) -> pb.NetworkInterface:
        """The network interface as it arrived; only for kind "nic"."""
        from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb

        return pb.NetworkInterface.FromString(self.spec)


@dataclass(frozen=True, slots=True)
class CachedImage:
    """A file of the image cache: `name` is what is fetched (the digest of a blob, or what stands for several), `digest`
    that of the file's own bytes, by which it is called, `mtime_ns` its time. `source` is where it came from last,
    `used` when it was needed last.
    """

    name: str
    digest: str
    format: Literal["raw", "qcow2", "file"]
    size: int
    mtime_ns: int
    source: str
    used: int = 0


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a machine is not (yet) what it should be: a stable code, a sentence, and what to do about it.

    `since` is when it was first given; `told` is set once a long wait for it has become an event. `action` names the
    action that failed, if it is for that: it holds as long as that is still to be done. `device` is the alias of the
    device that it is about, if it is about one.
    """

    code: str
    message: str
    advice: str = ""
    since: int = 0
    told: bool = False
    action: str = ""
    device: str = ""

    @property
    def identity(self) -> tuple[str, str, str]:
        """What makes it the same as before, whatever numbers are in its sentence by now."""
        return (self.code, self.device, self.action)


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine as the store holds it.

    `spec` is the message as it arrived and as RPCs changed it. `power_at` is when its power last changed (creation
    counts). `deleted_at` is 0 while it lives. `stop_event` is written by the event listener and consumed by the loop.
    `sequence` orders machines by their creation; the store gives it. `unconfirmed_since` is 0, or when a restored
    backup began to wait for somebody's word that the machine is still to be as it says.
    """

    id: str
    labels: dict[str, str]
    annotations: dict[str, str]
    spec: pb.MachineSpec
    status: pb.MachineStatus
    generation: int
    observed_generation: int
    created_at: int
    deleted_at: int
    power_at: int
    machine_class: MachineClass
    profile: Profile | None = None
    run: Run = Run()
    stop_event: StopEvent | None = None
    reasons: tuple[Reason, ...] = ()
    unconfirmed_since: int = 0
    attachments: tuple[Attachment, ...] = ()
    sequence: int = field(default=0, compare=False)

    @property
    def seeded(self) -> bool:
        """Whether its ignition data is on a seed disk, else it is handed over by fw_cfg. Decided at create."""
        return any(row.kind == "seed" for row in self.attachments)

    @property
    def image(self) -> ImagePin | None:
        """What its image is by content, once that is known; None of an image of this host."""
        return next((row.image for row in self.attachments if row.kind == "image"), None)

    @property
    def uid(self) -> str:
        return self.labels.get(LABEL_UID, "")

    @property
    def namespace(self) -> str:
        return self.labels.get(LABEL_NAMESPACE, "")

    @property
    def name(self) -> str:
        return self.labels.get(LABEL_NAME, "")


@dataclass(frozen=True, slots=True)
class Departed:
    """What is kept for a while of a machine that is no more; of one that an older version let go `id` and `gone_at`."""

    id: str
    gone_at: int
    namespace: str = ""
    name: str = ""
    machine_class: str = ""
    created_at: int = 0
    run: Run | None = None


LABEL_UID = "machinepoollet.spheric.cloud/machine-uid"
LABEL_NAMESPACE = "machinepoollet.spheric.cloud/machine-namespace"
LABEL_NAME = "machinepoollet.spheric.cloud/machine-name"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a machine's timeline. `took` is nanoseconds, 0 where it means nothing, and `measure` says of what.

    Equal events in a row are one line: `count` of them, the first at `time`, the latest at `last` (0: there is one).
    """

    kind: str
    reason: str
    message: str
    time: int = 0
    took: int = 0
    machine: str = field(default="")
    count: int = 1
    last: int = 0
    measure: Measure = ""

    @property
    def latest(self) -> int:
        """When it came last."""
        return self.last or self.time


def class_name(spec: pb.MachineSpec) -> str:
    """`spec.class`, whose name is a keyword of Python."""
    value: str = getattr(spec, "class")
    return value


def set_class_name(spec: pb.MachineSpec, name: str) -> None:
    """Set `spec.class`."""
    setattr(spec, "class", name)
