"""What each state of a guest means for a machine that is to run, and what ends it: a literal table. Pure.

Every state and reason that libvirt knows (hypervisor/words.py) has a row, and every row but those of a guest that runs
gives a reason and has a way out: what the loop does by itself, or what its advice names. Power OFF, delete and drain
end a guest in whatever state (`stopping.py`). What becomes of a machine without a QEMU does not belong here
(`plan.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sri_libvirt.hypervisor.base import DomainSnapshot, DomainState
from sri_libvirt.reconcile import brake
from sri_libvirt.reconcile.actions import Destroy, Resume
from sri_libvirt.reconcile.step import Step
from sri_libvirt.reconcile.view import Policy
from sri_libvirt.records import SECOND, Event, Machine, Reason, Run, StopCause


class Way(StrEnum):
    """What is done about a state."""

    GO_ON = "go on"  # it runs: its devices follow the spec
    LEAVE = "leave"  # somebody else's doing, who ends it
    RESUME = "resume"  # with growing pauses
    WAKE = "wake"  # likewise
    END = "end"  # its QEMU is ended once it has lasted for `patience`; what follows is as after any stop


@dataclass(frozen=True, slots=True)
class Row:
    """One state, with the reason that it gives; None for a guest that runs, or is off.

    `patience` is in nanoseconds. `cause` is why a guest that is ended has stopped; None where its log says that. `look`
    is when to look again at what nobody tells the end of, or 0.
    """

    way: Way
    reason: Reason | None = None
    patience: int = 0
    cause: StopCause | None = None
    look: int = 0


RUNS = Row(Way.GO_ON)
OFF = Row(Way.GO_ON)
"""No QEMU: that is told of with its stop."""

PAUSED = Row(
    Way.LEAVE,
    Reason(
        "paused",
        "the guest is paused from outside; it is left alone",
        "virsh resume it. Power OFF and ON ends it and starts it anew.",
    ),
)
BEING_WORKED_ON = Row(
    Way.LEAVE,
    Reason(
        "being-worked-on",
        "libvirt has paused the guest while it is saved, dumped, copied or moved by somebody; it is left alone",
        "It goes on by itself when that is done. If nothing of the kind is under way any more (virsh domjobinfo), "
        "virsh resume it.",
    ),
    look=30 * SECOND,
)
MIGRATING = Row(
    Way.LEAVE,
    Reason(
        "migrating",
        "somebody moves the guest from or to another host; it is left alone",
        "This provider moves no guests: whoever began it has to end it (virsh domjobinfo, virsh domjobabort). Power "
        "OFF ends the guest here.",
    ),
    look=30 * SECOND,
)
HALTED = Row(
    Way.END,
    Reason(
        "halted",
        "the guest has halted, but its QEMU does not end; it is destroyed a minute after it was seen so",
        "A QEMU that does not end waits for a disk as a rule: look at the storage behind its disks.",
    ),
    patience=60 * SECOND,
)
CRASHED = Row(
    Way.END,
    Reason(
        "guest-crashed",
        "the guest has crashed (a panic of its kernel), and its QEMU is kept; it is ended and started again after ten "
        "minutes",
        "Its console log says why. Now is the time for a virsh dump; virsh destroy ends the wait.",
    ),
    patience=600 * SECOND,
    cause=StopCause.PANICKED,
)
STARTING_UP = Row(
    Way.END,
    Reason(
        "starting-up",
        "libvirt is still starting or restoring the guest; if that has not ended after ten minutes, its QEMU is",
        "The domain's log is /var/log/libvirt/qemu/<machine id>.log.",
    ),
    patience=600 * SECOND,
    cause=StopCause.FAILED,
    look=5 * SECOND,
)
UNKNOWN = Row(
    Way.LEAVE,
    Reason(
        "state-unknown",
        "libvirt does not say in what state the guest is; it is left alone",
        "See virsh domstate --reason and libvirt's own log. Power OFF and ON ends it and starts it anew.",
    ),
    look=30 * SECOND,
)

ROWS: dict[DomainState, dict[str, Row]] = {
    DomainState.RUNNING: {
        "unknown": RUNS,
        "booted": RUNS,
        "migrated": RUNS,
        "restored": RUNS,
        "from snapshot": RUNS,
        "unpaused": RUNS,
        "migration cancelled": RUNS,
        "save cancelled": RUNS,
        "wakeup": RUNS,
        "crashed": RUNS,  # it was resumed after a crash
        "post-copy": MIGRATING,
        "post-copy failed": MIGRATING,
    },
    DomainState.PAUSED: {
        "unknown": Row(
            Way.LEAVE,
            Reason(
                "paused-unexplained",
                "the guest is paused, by somebody or by QEMU itself; libvirt does not say why, so it is left alone",
                "QEMU's own words are in /var/log/libvirt/qemu/<machine id>.log (KVM internal error?). virsh resume "
                "it, or set its power OFF and ON: that ends it and starts it anew.",
            ),
        ),
        "user": PAUSED,
        "migration": MIGRATING,
        "save": BEING_WORKED_ON,
        "dump": BEING_WORKED_ON,
        "io error": Row(
            Way.RESUME,
            Reason(
                "io-error",
                "QEMU paused the guest at an I/O error of a disk; it is resumed, after growing pauses",
                "Look at the space and health of the storage behind its disks.",
            ),
        ),
        "watchdog": Row(
            Way.LEAVE,
            Reason(
                "paused-by-watchdog",
                "the guest's watchdog was not fed and paused it, as its domain says; it is left alone",
                "virsh resume or virsh reset it. Power OFF and ON ends it and starts it anew.",
            ),
        ),
        "from snapshot": PAUSED,
        "shutting down": HALTED,
        "snapshot": BEING_WORKED_ON,
        "crashed": CRASHED,
        "starting up": STARTING_UP,
        "post-copy": MIGRATING,
        "post-copy failed": MIGRATING,
        "api error": Row(
            Way.RESUME,
            Reason(
                "api-error",
                "an operation of libvirt failed and left the guest paused; it is resumed, after growing pauses",
                "libvirt's own log says which operation.",
            ),
        ),
    },
    DomainState.SHUTTING_DOWN: {"unknown": HALTED, "user": HALTED},
    DomainState.OFF: {
        "unknown": OFF,
        "shutdown": OFF,
        "destroyed": OFF,
        "crashed": OFF,
        "migrated": OFF,
        "saved": OFF,
        "failed": OFF,
        "from snapshot": OFF,
        "daemon": OFF,
    },
    DomainState.CRASHED: {"unknown": CRASHED, "panicked": CRASHED},
    DomainState.SUSPENDED: {
        "unknown": Row(
            Way.WAKE,
            Reason(
                "asleep",
                "the guest has put itself to sleep (suspend to RAM); it is woken, after growing pauses",
                "Switch the guest's own power saving off: a machine that is on should run.",
            ),
        )
    },
    DomainState.UNKNOWN: {"unknown": UNKNOWN},
}


def row_of(domain: DomainSnapshot) -> Row:
    """The row of a domain's state; a reason that libvirt has invented since is its state's unknown one."""
    rows = ROWS[domain.state]
    return rows.get(domain.reason, rows["unknown"])


def step(
    machine: Machine, domain: DomainSnapshot, run: Run, halted: StopCause, now: int, policy: Policy
) -> Step | None:
    """What an active domain's state comes to; None for a guest that runs.

    `halted` is why the guest has stopped, should it have halted.
    """
    row = row_of(domain)
    if row.reason is None:
        return None
    match row.way:
        case Way.RESUME | Way.WAKE:
            due = brake.due(run.resumes, run.resumed_at, policy.resume_every)
            if now < due:
                return Step(reasons=(row.reason,), wake_at=due)
            resumes = brake.again(run.resumes, run.resumed_at, now, policy.resume_every)
            return Step(actions=(Resume(row.way is Way.WAKE, resumes),), reasons=(row.reason,))
        case Way.END:
            return _end(machine, row, row.reason, row.cause or halted, now)
        case _:
            return Step(reasons=(row.reason,), wake_at=now + row.look if row.look else None)


def _end(machine: Machine, row: Row, reason: Reason, cause: StopCause, now: int) -> Step:
    """End the QEMU of a guest that cannot go on, once its state has lasted; since when is told by its stored reason."""
    since = next((each.since for each in machine.reasons if each.code == reason.code), 0) or now
    due = since + row.patience
    if now < due:
        return Step(reasons=(reason,), wake_at=min(due, now + row.look) if row.look else due)
    event = Event(kind="destroy", reason=reason.code, message=reason.message, took=now - since, measure="waited")
    return Step(actions=(Destroy(cause),), reasons=(reason,), events=(event,))
