"""How a guest that is to go is ended: the button, the grace time, the axe, and the axe alone where calls hang. Pure.

Whether a guest is to go, and why one has stopped, does not belong here (that is `plan.py` and `stops.py`).
"""

from __future__ import annotations

from dataclasses import replace

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.reconcile import reasons as why
from sri_libvirt.reconcile.actions import Destroy, PressButton, Undefine
from sri_libvirt.reconcile.step import Step, soonest
from sri_libvirt.reconcile.view import NotSeen, Policy
from sri_libvirt.records import SECOND, Event, Machine, Reason, Run

LOOK_AGAIN_AT_LATEST = 60 * SECOND
"""The pause between looks that fail grows with how long they have failed, up to this."""


def unwanted_since(machine: Machine, policy: Policy) -> int:
    """When the guest of a machine that is deleted, powered off or on a drained host was first asked to go; else 0.

    A wish from before a restored backup counts once it is confirmed, but for a deletion, which nobody can take back.
    """
    powered_off = machine.power_at if machine.spec.power == pb.POWER_OFF else 0
    wishes = [at for at in (powered_off, policy.drained_since()) if at > machine.unconfirmed_since]
    return min(filter(None, (machine.deleted_at, *wishes)), default=0)


def gives_back(machine: Machine, policy: Policy) -> bool:
    """Whether it is to stop or to give a device back: what its passes write down then makes room in the end."""
    return bool(unwanted_since(machine, policy)) or any(not row.wanted for row in machine.attachments)


def stop_guest(run: Run, since: int, now: int, policy: Policy) -> Step:
    """The button, again and again, and at the end of the grace time the axe (contract G.10)."""
    if policy.shutdown_grace == 0:
        return Step(actions=(Destroy(),))
    if run.pressed_at < since:  # never pressed, or for an earlier wish
        return Step(actions=(PressButton(first=True),))
    end = run.pressed_at + policy.shutdown_grace
    reason = why.shutting_down((now - run.pressed_at) // SECOND, policy.shutdown_grace // SECOND)
    if now >= end:
        waited = now - run.pressed_at
        event = Event(kind="destroy", reason="grace-over", message=reason.message, took=waited, measure="waited")
        return Step(actions=(Destroy(),), reasons=(reason,), events=(event,), wake_at=now + policy.press_every)
    again = run.last_press_at + policy.press_every
    if now >= again:
        # A press is lost while the firmware runs or before the guest listens.
        return Step(actions=(PressButton(first=False),), reasons=(reason,))
    return Step(reasons=(reason,), wake_at=min(again, end))


def stuck(machine: Machine, run: Run, names: tuple[str, ...], now: int, policy: Policy, *, alive: bool) -> Step:
    """Calls or actions have not come back: only the axe is allowed, the cure for a QEMU that hangs.

    One stroke at a time. `alive` is whether there is a guest, as it was seen or as it is recorded.
    """
    reason = why.stuck(names)
    if not alive or not unwanted_since(machine, policy) or {"destroy", "Destroy"}.intersection(names):
        return Step(reasons=(reason,))
    return _axe(machine, run, reason, now, policy)


def unseen(machine: Machine, observed: NotSeen, now: int, policy: Policy) -> Step:
    """Nobody could look. Where that is the domain's own fault, or ours, the axe falls without a look.

    (libvirt 11 reads a domain whose QEMU hangs as slowly as it works on it, then refuses.) Whether it has fallen is not
    seen: after a while it falls again. A machine that is deleted loses its domain with its guest, for then there is
    nothing left that cannot be read.
    """
    run = machine.run
    alive = bool(run.uuid) and run.stopped is None  # or may be
    if observed.stuck:  # its return wakes the machine
        return stuck(machine, run, observed.stuck, now, policy, alive=alive)
    if observed.cause == "unreachable":
        return Step(reasons=(why.unreachable(observed.message),), wake_at=now + 2 * SECOND)
    reason = why.bug(observed.message) if observed.cause == "bug" else why.look_failed(observed.message)
    since = min((each.since for each in machine.reasons if each.code == reason.code), default=now)
    again = now + min(max(now - since, 2 * SECOND), LOOK_AGAIN_AT_LATEST)
    if not alive or not unwanted_since(machine, policy):
        return Step(reasons=(reason,), wake_at=again)
    step = _axe(machine, run, reason, now, policy)
    if step.actions and machine.deleted_at:
        step = replace(step, actions=(*step.actions, Undefine()))
    return replace(step, wake_at=soonest(step.wake_at, again))


def _axe(machine: Machine, run: Run, reason: Reason, now: int, policy: Policy) -> Step:
    """Destroy once the grace time is over, and then again now and then."""
    due = max(unwanted_since(machine, policy), run.pressed_at) + policy.shutdown_grace
    if run.last_press_at >= due:
        due = run.last_press_at + policy.press_every
    if now < due:
        return Step(reasons=(reason,), wake_at=due)
    return Step(actions=(Destroy(),), reasons=(reason,), wake_at=now + policy.press_every)
