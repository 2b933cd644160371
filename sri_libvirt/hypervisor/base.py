"""What the rest of the provider asks of a hypervisor, in our words.

A `Connection` belongs to one thread; its objects never cross to another (libvirt drops a connection that five hung
calls share, and tells only one of several waiting threads of a keepalive time-out). Every method may raise
`Unreachable`: the hypervisor could not be asked, which says nothing about a domain. `HypervisorError` means that it
refused. Domains are named and UUIDed by machine id. What to do with the answers does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from sri_libvirt.hypervisor.networks import Networks


class DomainState(StrEnum):
    """A domain's state, as virDomainState has it."""

    RUNNING = "running"
    PAUSED = "paused"
    SHUTTING_DOWN = "shutting down"
    OFF = "off"
    CRASHED = "crashed"
    SUSPENDED = "pmsuspended"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class DomainSnapshot:
    """One domain, read at one moment.

    `reason` is libvirt's reason within the state, in lower-case words: for OFF "unknown", "shutdown", "destroyed",
    "crashed", "migrated", "saved", "failed", "from snapshot", "daemon"; for PAUSED "user", "io error", "starting up" …
    `live_xml` is "" unless the domain is active, `persistent_xml` "" if it is transient.
    """

    id: str
    state: DomainState
    reason: str
    live_xml: str
    persistent_xml: str
    managed_save: bool

    @property
    def active(self) -> bool:
        """A QEMU process exists, whatever its guest does."""
        return bool(self.live_xml)


@dataclass(frozen=True, slots=True)
class Firmware:
    """One UEFI build of the host's QEMU, from its firmware descriptors."""

    loader: str
    loader_format: str
    nvram_template: str
    secure_boot: bool  # needs SMM or has keys enrolled
    machine_patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Offer:
    """What libvirt and QEMU of this host can give. Versions as libvirt counts: major * 1000000 + minor * 1000 + micro.

    `machine_type` is what the alias `q35` means today. `machine_types` are all that this QEMU knows. `domain_types`
    holds "kvm" and "qemu" as advertised, which does not prove that KVM works (host/kvm.py does). `cpu_modes` are the
    CPU modes that libvirt supports, per domain type; `cpu_models` the named models usable, per domain type.
    """

    libvirt_version: int
    qemu_version: int
    architecture: str
    emulator: str
    domain_types: frozenset[str]
    machine_type: str
    machine_types: frozenset[str]
    cpu_modes: dict[str, frozenset[str]]
    cpu_models: dict[str, frozenset[str]]
    firmware: tuple[Firmware, ...]
    qemu_user: int | None = None
    """The number of the user as whom QEMU runs; None where libvirt does not say."""


@dataclass(frozen=True, slots=True)
class LastWords:
    """How the domain's QEMU log ends: the only durable record of a stop.

    `reason` is of the line `shutting down, reason=…` ("shutdown", "destroyed", "crashed", "failed", "" if there is
    none); `terminated_by` the process name of `terminating on signal 15 from pid N (name)` beside it. `at` is when the
    line of the reason was written, in Unix nanoseconds, 0 if that is not known. `aborted` is what QEMU itself said when
    it gave up (a failed assertion, a broken heap), "" if it did not. `saved_at` is when the run before the latest was
    saved, likewise 0.
    """

    reason: str = ""
    terminated_by: str = ""
    at: int = 0
    aborted: str = ""
    saved_at: int = 0


class DiskError(StrEnum):
    """Why QEMU could not write or read a disk, as far as libvirt tells."""

    NO_SPACE = "no space"
    OTHER = "other"


class SecretUsage(StrEnum):
    """What a secret opens; libvirt refuses a disk one of another usage."""

    CEPH = "ceph"
    ISCSI = "iscsi"
    VOLUME = "volume"  # the passphrase of an encrypted disk, wherever that is


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret by the UUID that a disk's XML names. `instance` is our mark: whose store's it is. Never its value."""

    uuid: str
    usage: SecretUsage
    instance: str


class Connection(Networks, Protocol):
    """One connection, used by one thread."""

    def close(self) -> None:
        """Give the connection up. Never raises."""

    def snapshot(self, machine_id: str) -> DomainSnapshot | None:
        """The domain as it is now; None if libvirt says that there is none."""

    def last_words(self, machine_id: str) -> LastWords:
        """What the domain's QEMU log says about its end; empty when there is no log or no such line."""

    def define(self, xml: str) -> str:
        """Define or redefine a persistent domain; returns its persistent XML as the hypervisor keeps it.

        Of a running one only the persistent side changes.
        """

    def start(self, machine_id: str, *, force_boot: bool = False) -> bool:
        """Start a defined domain; of one that is active already: nothing. `force_boot` drops a managed save.

        Returns whether its guest was restored from one: libvirt drops an incomplete one by itself and boots. Raises
        UnusableSave for one that is refused.
        """

    def press_power_button(self, machine_id: str) -> None:
        """Press the ACPI power button. Of a domain that is not active or whose guest is paused: nothing."""

    def resume(self, machine_id: str) -> None:
        """Let a paused domain run on."""

    def wake_up(self, machine_id: str) -> None:
        """Wake a guest that has put itself to sleep. Of a domain that does not sleep: nothing."""

    def set_time(self, machine_id: str) -> bool:
        """Have the guest's agent set its clock to this host's; False where no agent has done so in a few seconds."""

    def attach_device(self, machine_id: str, xml: str) -> None:
        """Plug one device into a running guest, at the address that its XML names. The persistent domain stays.

        Raises DescriptorRefused where the host does not let this QEMU have what libvirt opens for it.
        """

    def detach_device(self, machine_id: str, alias: str) -> None:
        """Ask a running guest to let a device go; returns at once, and the guest may ignore it.

        Whether it went is seen in the live XML alone. A domain that is not active or has no such device: nothing.
        """

    def disk_errors(self, machine_id: str) -> dict[str, DiskError]:
        """By target, the disks that QEMU has failed to write or read since it was started, each with its first error.

        Which of them an event was of, that says. Of a domain that is not active: none.
        """

    def resize_disk(self, machine_id: str, target: str, size: int) -> None:
        """Let a running guest see `size` bytes of the disk at this target, which its backend has by now.

        It is never cut: where QEMU has as much or more, and of a domain that is not active, nothing is done.
        """

    def destroy(self, machine_id: str) -> None:
        """End the QEMU process at once. Of a domain that is not active or absent: nothing."""

    def undefine(self, machine_id: str) -> None:
        """Forget a domain with its NVRAM, managed save, snapshot and TPM metadata. Of an absent one: nothing."""

    def set_secret(self, secret: Secret, value: bytes) -> None:
        """Have a secret for disks that are opened from now on: at a start, a restore and a plug. Replaces its value.

        It is kept in memory alone, so it ends with the daemon, and nobody can read it back. No error holds the value.
        """

    def drop_secret(self, uuid: str, instance: str) -> None:
        """Forget a secret; disks that are open stay so. One that is not set or carries another mark: nothing."""

    def secret_ids(self) -> dict[str, str]:
        """The UUIDs of all secrets with a provider's mark, each with the instance of its store."""

    def filter_bindings(self) -> dict[str, str]:
        """The network devices that a filter of ours is put up on, each with the UUID of the domain that has it."""

    def drop_filter_binding(self, device: str) -> None:
        """Take a device's rules down. Of one that has no filter of ours: nothing."""

    def domain_ids(self) -> list[str]:
        """UUIDs of all domains on this libvirt, ours or not."""

    def states(self) -> dict[str, DomainState]:
        """The state of every domain on this libvirt, ours or not, by UUID: one call, however many there are."""

    def offer(self) -> Offer:
        """What the host can give. Slow at first (QEMU is probed): call once per connection life."""


class EventKind(StrEnum):
    """Domain life-cycle events that wake a machine."""

    DEFINED = "defined"
    UNDEFINED = "undefined"
    STARTED = "started"
    SUSPENDED = "suspended"
    RESUMED = "resumed"
    STOPPED = "stopped"
    SHUTDOWN = "shutdown"
    PMSUSPENDED = "pmsuspended"
    CRASHED = "crashed"
    REBOOT = "reboot"
    DEVICE_ADDED = "device added"
    DEVICE_REMOVED = "device removed"
    IO_ERROR = "io error"
    NO_SPACE = "no space"
    BLOCK_JOB = "block job"


@dataclass(frozen=True, slots=True)
class DomainEvent:
    """One event. `detail` in lower-case words: of SHUTDOWN "guest" or "host" or "finished"; of STOPPED "shutdown",
    "destroyed", "crashed", "migrated", "saved", "failed", "from snapshot"; of DEVICE_* the alias, and of IO_ERROR
    and NO_SPACE, at which QEMU has paused the guest, the disk's; else ""."""

    machine_id: str
    kind: EventKind
    detail: str = ""


class Listener(Protocol):
    """Told by the event thread; must return at once and never raise."""

    def on_connected(self) -> None:
        """Connected (again) and registered: everything must be looked at anew."""

    def on_disconnected(self, reason: str) -> None:
        """The event connection is lost; events may be missed from here on."""

    def on_event(self, event: DomainEvent) -> None:
        """A domain event."""

    def on_network(self, name: str) -> None:
        """The network of this name was defined, started, stopped or undefined."""


class Taps(Protocol):
    """Network devices for guests, with nothing behind them: the host neither sends nor hears anything there."""

    def make(self, name: str) -> None:
        """Let there be one of this name, at most 15 characters. Idempotent, also while a guest has it."""

    def remove(self, name: str) -> None:
        """Remove it. Idempotent; OSError while a guest has it."""


class NoTaps:
    """Makes nothing: for machines that are only planned."""

    def make(self, name: str) -> None: ...

    def remove(self, name: str) -> None: ...


class Console(Protocol):
    """A guest's serial console, ours alone until it is closed. One thread reads, and one, the same or another, writes.

    It has a connection of its own, and has to be read: what a guest prints is kept in memory until then.
    """

    def read(self) -> bytes | None:
        """What the guest has printed, at most some 64 KiB; None for nothing yet, b"" once its QEMU has ended.

        After None, and only then, `heard` is called when there is more. Raises ConsoleLost.
        """

    def write(self, data: bytes) -> int:
        """Type; returns how many bytes went. Waits for a guest that is slow to take them. Raises ConsoleLost."""

    def close(self) -> None:
        """Give it up, also while others read and write: the next one may have it. Never raises. Idempotent."""

    def drop(self) -> None:
        """The same of one that is lost, of which libvirt needs not, and may not, be told. By the one who reads."""


class Hypervisor(Protocol):
    """A hypervisor that can be connected to and watched. Its guests are plugged into `taps`."""

    @property
    def taps(self) -> Taps: ...

    def connect(self) -> Connection:
        """A new connection for the calling thread. Raises Unreachable."""

    def console(self, machine_id: str, heard: Callable[[], None], *, take_over: bool = False) -> Console:
        """The serial console of a domain that is active. `heard` is called from another thread, and must return at
        once.

        Raises ConsoleHeld when somebody has it, unless `take_over` ends theirs; NoConsole of a domain that is not
        active; HypervisorError, and Unreachable.
        """

    def watch(self, listener: Listener) -> Callable[[], None]:
        """Deliver events from a thread with a connection of its own, reconnecting for ever. Returns stop()."""
