"""How a guest that is off is started, cold or from its managed save, and what is waited for after a failure. Pure.

A managed save holds a guest's memory, so it is given up only when it is of no use: the machine was changed since it was
made (its power counts: OFF and ON is how an operator or tenant gives it up), it is of another run, or libvirt and QEMU
have said that they cannot read it. Any other failure may pass, and the restore is tried again. Whether a guest is to
run does not belong here (that is `plan.py`).
"""

from __future__ import annotations

from dataclasses import replace

from sri_libvirt.reconcile import reasons as why
from sri_libvirt.reconcile.actions import Action, AssignPorts, ChooseProfile, Define, PrepareDevice, Start
from sri_libvirt.reconcile.step import Step, soonest
from sri_libvirt.reconcile.view import Observed
from sri_libvirt.records import Machine, Run, StopCause

REFUSALS = 3
"""How often in all QEMU may fail to load a managed save until it counts as unusable: a read can fail once."""


def start(machine: Machine, observed: Observed, run: Run, rest: Step) -> Step:
    """Everything that a start needs, each step verified anew."""
    reasons = (why.starting(), *rest.reasons)
    devices = [PrepareDevice(row.key) for row in machine.attachments if row.wanted and row.port]
    prepare: tuple[Action, ...] = (ChooseProfile(), AssignPorts(), *devices)
    dropped = _dropped_because(machine, observed, run)
    if dropped is None:
        return Step(actions=(*prepare, Start(restore=True)), reasons=reasons)
    return Step(actions=(*prepare, Define(new_run=True), Start(drops_save=dropped)), reasons=reasons)


def hold(machine: Machine, observed: Observed, run: Run, rest: Step) -> Step:
    """Wait for the end of the back-off, saying what it is for."""
    if not run.error:
        reason = why.back_off(run.stopped or StopCause.UNKNOWN, run.failures)
    elif _dropped_because(machine, observed, run) is None:
        reason = why.restore_failed(run.error, run.failures)
    else:
        reason = why.start_failed(run.error, run.failures)
    return replace(rest, reasons=(reason, *rest.reasons), wake_at=soonest(rest.wake_at, run.not_before))


def _dropped_because(machine: Machine, observed: Observed, run: Run) -> str | None:
    """Why a managed save is not restored, as a word for its event; "" if there is none, None if it is to be restored.

    A run that began after the save was made has no time of a stop yet.
    """
    if observed.domain is None or not observed.domain.managed_save:
        return ""
    if not run.uuid or observed.run != run.uuid:
        return "other-run"
    if not observed.persistent <= {row.alias for row in machine.attachments}:
        return "spec-changed"  # a device in it is in no record, as after a restored backup
    if max((machine.power_at, *(row.changed_at for row in machine.attachments))) > run.stopped_at:
        return "spec-changed"
    return "unusable" if run.save_refused >= REFUSALS else None
