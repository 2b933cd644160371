"""How a guest that is to go is ended: the button, the grace time, the axe, and the axe alone where calls hang. Pure.

Whether a guest is to go, and why one has stopped, does not belong here (that is `plan.py` and `stops.py`).
"""

from __future__ import annotations

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.reconcile import reasons as why
from sri_libvirt.reconcile.actions import Destroy, PressButton
from sri_libvirt.reconcile.step import Step
from sri_libvirt.reconcile.view import Policy
from sri_libvirt.records import SECOND, Event, Machine, Run


def unwanted_since(machine: Machine, policy: Policy) -> int:
    """When the guest of a machine that is deleted, powered off or on a drained host was first asked to go; else 0."""
    powered_off = machine.power_at if machine.spec.power == pb.POWER_OFF else 0
    return min(filter(None, (powered_off, machine.deleted_at, policy.drained_since())), default=0)


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
        event = Event(kind="destroy", reason="grace-over", message=reason.message, took=now - run.pressed_at)
        return Step(actions=(Destroy(),), reasons=(reason,), events=(event,), wake_at=now + policy.press_every)
    again = run.last_press_at + policy.press_every
    if now >= again:
        # A press is lost while the firmware runs or before the guest listens.
        return Step(actions=(PressButton(first=False),), reasons=(reason,))
    return Step(reasons=(reason,), wake_at=min(again, end))


def stuck(machine: Machine, run: Run, calls: tuple[str, ...], now: int, policy: Policy, *, alive: bool) -> Step:
    """Calls have not come back: only the axe is allowed, the cure for a QEMU that hangs, and one stroke at a time.

    `alive` is whether there is a guest, as it was seen, or where not even a look comes back (libvirt 11 reads a domain
    whose QEMU hangs as slowly as it works on it) as it is recorded. Then it is not seen whether the axe has fallen, and
    after a while it falls again.
    """
    reason = why.stuck_call(calls)
    unwanted = unwanted_since(machine, policy)
    if not alive or not unwanted or "destroy" in calls:
        return Step(reasons=(reason,))
    due = max(unwanted, run.pressed_at) + policy.shutdown_grace
    if run.last_press_at >= due:
        due = run.last_press_at + policy.press_every
    if now < due:
        return Step(reasons=(reason,), wake_at=due)
    return Step(actions=(Destroy(),), reasons=(reason,), wake_at=now + policy.press_every)
