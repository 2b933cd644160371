"""What of a domain differs from what we would define, and what follows: one function and one table. Pure.

Others work on our domains, too: backup tools take external snapshots, operators move disks and edit XML, networks are
stopped and started. What the guest writes is the truth: a domain is never defined over the only record of where that
lies, and no guest is started from older data. What is told in which words does not belong here (that is `reasons.py`),
nor what nobody but us has changed (that is `plugging.py`).

Not in the table, because no look asks for them: devices without an alias of ours in the live domain are kept; in the
persistent one they are undone by the next define, and so are memory, vCPUs, machine type, firmware and addresses that
somebody edited, each with an event (`domain/compare.py`, `undone`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from sri_libvirt.devices import DiskSource, NicBackend
from sri_libvirt.domain import ports
from sri_libvirt.domain.observed import Place
from sri_libvirt.reconcile import reasons as why
from sri_libvirt.reconcile.actions import Action, Define, FollowDisk, PrepareDevice, ResizeDisk, UnplugDevice
from sri_libvirt.reconcile.step import Step, cooling, join, soonest
from sri_libvirt.reconcile.view import Observed, Policy
from sri_libvirt.records import SECOND, Attachment, Event, Machine, Reason

LOOK_AGAIN = 30 * SECOND
"""For a guest that runs, should the event of a block job's end be lost or come early. Of a domain that is off each
define and start is told."""


class Verdict(StrEnum):
    """What follows from a difference."""

    WAITED_FOR = "no define, no unplug or resize of the device and no cold start until it has gone"
    FOLLOWED = "the persistent domain is made to name what the live one has"
    UNDONE = "the next define puts it back, and is made for it"
    REPLUGGED = "the device is unplugged and plugged again"


class Difference(StrEnum):
    """What can differ of one of our devices."""

    OTHER_FILE = "the guest writes, or would read at its next start, another file, or device or network disk, than ours"
    BLOCK_JOB = "a block job copies or commits the disk"
    LEFT_BEHIND = "the guest writes another file than ours, which the persistent domain does not name"
    STALE = "the persistent domain names another source than ours"
    ASTRAY = "the guest's NIC is not joined to what it should be"


TABLE = {
    Difference.OTHER_FILE: Verdict.WAITED_FOR,
    Difference.BLOCK_JOB: Verdict.WAITED_FOR,
    Difference.LEFT_BEHIND: Verdict.FOLLOWED,
    Difference.STALE: Verdict.UNDONE,
    Difference.ASTRAY: Verdict.REPLUGGED,
}


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference: of which device, and the source that was seen."""

    what: Difference
    row: Attachment
    seen: str

    @property
    def verdict(self) -> Verdict:
        return TABLE[self.what]


def found(machine: Machine, observed: Observed) -> list[Drift]:
    """All differences of a machine's devices. A live domain decides for its guest, the persistent one for one off.

    A source that is not told (a device passed through) says nothing.
    """
    drifts: list[Drift] = []
    for row in machine.attachments:
        live, defined = observed.places.get(row.alias), observed.defined.get(row.alias)
        match row.backing:
            case DiskSource() as disk:
                drifts += _of_disk(row, {disk.source, *disk.was} - {""}, live, defined)
            case NicBackend() as nic:
                drifts += _of_nic(row, nic.source, live, defined, astray=row.alias in observed.astray)
    return drifts


def astray(machine: Machine, observed: Observed) -> frozenset[str]:
    """Aliases of NICs that a guest has and that are not joined to what they should be."""
    return frozenset(each.row.alias for each in found(machine, observed) if each.what is Difference.ASTRAY)


def as_planned(machine: Machine, observed: Observed) -> bool:
    """Whether the persistent domain has the devices that it should have, joined to what they should be."""
    planned = {row.alias for row in ports.in_domain(machine.attachments)}
    stale = any(each.verdict is Verdict.UNDONE for each in found(machine, observed))
    return planned == observed.persistent and not stale


def replug(machine: Machine, observed: Observed, now: int, policy: Policy) -> Step:
    """Plug NICs again that are astray; what they are to be joined to is made ready first, so that none goes in vain.

    A guest may be slow to let go, and is asked again at intervals, as for any other unplug. libvirt's update of the
    interface, unchanged or with its link down and up, puts no tap back into its bridge (measured with 9.0).
    """
    steps = []
    for each in found(machine, observed):
        row = each.row
        if each.verdict is not Verdict.REPLUGGED or not row.wanted:
            continue
        reason, again = why.nic_astray(row), row.unplug_at + policy.replug_every
        if wake := cooling(row, now, policy):
            steps.append(Step(reasons=(reason, why.device_not_ready(row)), wake_at=wake))
        elif row.unplug_at and now < again:
            steps.append(Step(reasons=(reason,), wake_at=again))
        else:
            actions = (PrepareDevice(row.key), UnplugDevice(row.key, again=True))
            steps.append(Step(actions=actions, reasons=(reason,)))
    return join(steps)


def guard(step: Step, machine: Machine, observed: Observed, now: int) -> Step:
    """A decision without what would harm somebody's work on the disks, and with why."""
    drifts = found(machine, observed)
    waits = {each.row.key: each for each in drifts if each.verdict is Verdict.WAITED_FOR}
    if not waits:
        return step
    reasons = tuple(_reason(machine, observed, each) for each in waits.values())
    follow = tuple(FollowDisk(each.row.key) for each in drifts if each.verdict is Verdict.FOLLOWED)
    allowed = tuple(action for action in step.actions if not _harms(action, set(waits)))
    if not observed.active and allowed != step.actions:
        # What comes before a define is for it, and would be done again and again.
        allowed = ()
        step = replace(step, reasons=tuple(reason for reason in step.reasons if reason != why.starting()))
    return replace(
        step,
        actions=(*follow, *allowed),
        reasons=(*reasons, *step.reasons),
        wake_at=soonest(step.wake_at, now + LOOK_AGAIN if observed.active else None),
    )


def left_files(machine: Machine, observed: Observed) -> tuple[Event, ...]:
    """Tells of files that are no part of a machine that goes, and stay, though its guest's newest data is in them."""
    return tuple(
        Event(kind="left", reason="foreign-disk", message=why.file_left(each.row, each.seen))
        for each in found(machine, observed)
        if each.what is Difference.OTHER_FILE and not (each.seen.startswith("/") and f"/{machine.id}/" in each.seen)
    )


def _of_disk(row: Attachment, ours: set[str], live: Place | None, defined: Place | None) -> Iterator[Drift]:
    named = defined.source if defined else ""
    if live is None:
        if named and named not in ours:
            yield Drift(Difference.OTHER_FILE, row, named)
    elif live.job:
        yield Drift(Difference.BLOCK_JOB, row, live.source)
    elif live.source and live.source not in ours:
        yield Drift(Difference.OTHER_FILE, row, live.source)
        if defined and named != live.source:
            yield Drift(Difference.LEFT_BEHIND, row, live.source)
    elif named and named not in ours:
        yield Drift(Difference.STALE, row, named)


def _of_nic(row: Attachment, ours: str, live: Place | None, defined: Place | None, *, astray: bool) -> Iterator[Drift]:
    if live and live.source and (live.source != ours or astray):
        yield Drift(Difference.ASTRAY, row, live.source)
    if defined and defined.source != ours:
        yield Drift(Difference.STALE, row, defined.source)


def _harms(action: Action, waits: set[tuple[str, str, int]]) -> bool:
    return isinstance(action, Define) or (isinstance(action, UnplugDevice | ResizeDisk) and action.key in waits)


def _reason(machine: Machine, observed: Observed, drift: Drift) -> Reason:
    if drift.what is Difference.BLOCK_JOB:
        return why.block_job(drift.row)
    return why.foreign_disk(machine.id, drift.row, drift.seen, active=observed.active)
