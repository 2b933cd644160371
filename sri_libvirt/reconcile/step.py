"""What a part of the decision comes to, and the small questions that several parts ask. Pure.

Which part decides what does not belong here (that is `plan.py` and `plugging.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sri_libvirt.errors import TIMED
from sri_libvirt.reconcile import reasons as why
from sri_libvirt.reconcile.actions import Action, ReleaseDevice
from sri_libvirt.reconcile.view import Policy
from sri_libvirt.records import Attachment, Event, Machine, Reason


@dataclass(frozen=True, slots=True)
class Step:
    """Actions in their order, why the machine is not what it should be, when to look again, what to tell."""

    actions: tuple[Action, ...] = ()
    reasons: tuple[Reason, ...] = ()
    wake_at: int | None = None
    events: tuple[Event, ...] = ()


def join(steps: Iterable[Step]) -> Step:
    """One step of several, in their order."""
    steps = list(steps)
    return Step(
        actions=tuple(action for step in steps for action in step.actions),
        reasons=tuple(reason for step in steps for reason in step.reasons),
        wake_at=soonest(*(step.wake_at for step in steps)),
        events=tuple(event for step in steps for event in step.events),
    )


def failing(machine: Machine, step: Step) -> list[Reason]:
    """Reasons of actions that failed and are still to be done."""
    planned = {type(action).__name__ for action in step.actions}
    return [reason for reason in machine.reasons if reason.action in planned]


def soonest(*times: int | None) -> int | None:
    """The earliest of the times that there are."""
    return min((time for time in times if time is not None), default=None)


def release(rows: Sequence[Attachment], deleted_at: int, now: int, policy: Policy, *, final: bool) -> Step:
    """Release each; those whose last release failed after a while, with a reason. None holds up the others."""
    stuck = {
        row.key: wake for row in rows if (wake := _release_cooling(row, deleted_at or row.changed_at, now, policy))
    }
    actions = tuple(ReleaseDevice(row.key, final=final) for row in rows if row.key not in stuck)
    reasons = tuple(why.release_failed(row) for row in rows if row.key in stuck)
    return Step(actions=actions, reasons=reasons, wake_at=soonest(*stuck.values()))


def cooling(row: Attachment, now: int, policy: Policy) -> int | None:
    """Until when another try is too early for a device whose last prepare or plug failed; None when it is not.

    Slow work has times of its own: it is asked, and what it has found is taken at once.
    """
    if not row.problem:
        return None
    until = policy.busy_until(row) if row.problem_code in TIMED else row.problem_at + policy.prepare_retry
    return until if until is not None and now < until else None


def _release_cooling(row: Attachment, unwanted_since: int, now: int, policy: Policy) -> int | None:
    """The same of one whose last release failed. A problem from before it became unwanted was a prepare's and delays
    nothing.
    """
    return cooling(row, now, policy) if row.problem_at >= unwanted_since else None
