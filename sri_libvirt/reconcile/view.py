"""What plan() is given besides the record: the observed world and the policy. Plain data.

How it is observed does not belong here (that is `observe.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from sri_libvirt.domain.cpu import vcpus
from sri_libvirt.domain.observed import Place
from sri_libvirt.domain.ports import usable
from sri_libvirt.hypervisor.base import DomainSnapshot, LastWords
from sri_libvirt.records import SECOND, Attachment, Machine, Reason, Stranger


@dataclass(frozen=True, slots=True)
class NotSeen:
    """The domain was not seen. Never to be read as "there is no domain".

    `cause`: the hypervisor cannot be asked; or it was asked and "refused"; or a "bug" of ours or of a driver came in
    between. `stuck` is late work on the machine that is still out, maybe the reason why nobody asked.
    """

    message: str
    stuck: tuple[str, ...] = ()
    cause: Literal["unreachable", "refused", "bug"] = "unreachable"


@dataclass(frozen=True, slots=True)
class Heard:
    """What was heard of a volume's backend: whether it answers, None while it is being asked; else a user's words."""

    answers: bool | None
    problem: str = ""
    advice: str = ""


@dataclass(frozen=True, slots=True)
class FailedDisk:
    """A disk by its target, of which QEMU could not write or read something, so that it has paused the guest.

    `backend` is None where nobody can ask it.
    """

    target: str
    no_space: bool = False
    backend: Heard | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """One machine's domain and host, as read just now.

    `live` and `persistent` are the aliases of our devices in the two XMLs, `places` and `defined` what these devices
    are joined to there; `astray` are the NICs among them of which the host shows that they are not. `run` is the run in
    the live metadata, or in the persistent one when the domain is off. `foreign`: the domain carries other marks than
    ours. `last_words` is read only when a stop or a restore has to be explained. `out_of_memory`: the kernel says that
    it has killed the QEMU. `stuck` are calls and actions that passed their deadline and are still out: what they
    will have done is not known. `host_stopping` is None where nobody can tell. `boot_ended_at` is when the boot of the
    run ended; 0 of this one, or if that is not known. `strangers` are those of `live` that the machine has no row for.
    `failed_disks` is asked for only when QEMU has paused the guest at an I/O error. `edits` is what of the persistent
    domain somebody else has changed, in words.
    """

    domain: DomainSnapshot | None
    boot_id: str
    host_stopping: bool | None = False
    foreign: bool = False
    run: str = ""
    live: frozenset[str] = frozenset()
    persistent: frozenset[str] = frozenset()
    places: Mapping[str, Place] = field(default_factory=dict)
    defined: Mapping[str, Place] = field(default_factory=dict)
    astray: frozenset[str] = frozenset()
    last_words: LastWords = field(default_factory=LastWords)
    out_of_memory: bool = False
    stuck: tuple[str, ...] = ()
    boot_ended_at: int = 0
    strangers: tuple[Stranger, ...] = ()
    failed_disks: tuple[FailedDisk, ...] = ()
    edits: tuple[str, ...] = ()

    @property
    def active(self) -> bool:
        return self.domain is not None and self.domain.active


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings that plan() weighs, in nanoseconds, and the questions that others answer purely.

    `is_lost` says whether something that a device was prepared with is gone by somebody else's doing.
    `handle_of` gives the status handle of a volume or NIC before it is prepared. `busy_until` says until when it is of
    no use to prepare a device again, because slow work for it is under way (its end wakes the machine) or its next try
    is not due; None of one that nothing of the kind is known of. `size_of` gives the bytes of a plugged volume as the
    latest look at its backend has found it, 0 if none has. `unresolved` says whether it is still to be learned what an
    image's reference means. `cold_only` says why a device can be given to no guest that
    runs, so that its next cold start brings it; "" of most. `start_blocked` says why this host
    cannot run the machine as its profile has it (KVM gone, machine type or firmware gone), None when it can.
    `drained_since` is when the operator drained this host, 0 while it is not. `ports` are the most root ports that
    a machine gets whose hardware is not chosen yet.
    """

    handle_of: Callable[[Attachment], str]
    start_blocked: Callable[[Machine], Reason | None]
    busy_until: Callable[[Attachment], int | None] = lambda _row: None
    size_of: Callable[[Attachment], int] = lambda _row: 0
    cold_only: Callable[[Attachment], str] = lambda _row: ""
    unresolved: Callable[[Attachment], bool] = lambda _row: False
    is_lost: Callable[[Attachment], bool] = lambda _row: False
    shutdown_grace: int = 30 * SECOND
    press_every: int = 5 * SECOND
    prepare_retry: int = 5 * SECOND
    resume_every: int = 10 * SECOND
    detach_settle: int = 2 * SECOND
    detach_hold: int = 600 * SECOND
    unplug_every: int = 5 * SECOND
    replug_every: int = 20 * SECOND
    long_wait: int = 30 * SECOND
    short_run: int = 60 * SECOND
    restart_after_guest_poweroff: bool = False
    drained_since: Callable[[], int] = lambda: 0
    ports: int = 24

    def ports_of(self, machine: Machine) -> int:
        """The root ports that a machine has, or will have."""
        if machine.profile:
            return machine.profile.ports
        return usable(self.ports, vcpus(machine.machine_class.cpu_millis))
