"""plan(): from a machine's record, what was observed and the time to what is to be done. Pure.

Create, power, delete, crash recovery and host boot are the same decision. From any observed state the plans that follow
one another reach a fixed point: no actions, and a reason wherever the machine is not what it should be. All waiting
(grace, retry, back-off) is arithmetic on stored times, so that a restart changes nothing; `wake_at` says when to look
again. How an action is carried out does not belong here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import itemgetter

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.domain import ports
from sri_libvirt.reconcile import disks, drift, plugging, restored, starting, states, stopping, stops, strangers
from sri_libvirt.reconcile import reasons as why
from sri_libvirt.reconcile import status as statuses
from sri_libvirt.reconcile.actions import (
    Action,
    AssignPorts,
    ChooseProfile,
    Define,
    Forget,
    PrepareDevice,
    RemoveFiles,
    ResolveImage,
    SetClock,
    Undefine,
)
from sri_libvirt.reconcile.brake import back_off
from sri_libvirt.reconcile.step import Step, cooling, failing, join, release, soonest
from sri_libvirt.reconcile.view import NotSeen, Observed, Policy
from sri_libvirt.records import SECOND, Event, Machine, Measure, Reason, Run, StopCause, StopEvent


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, what to record, and when to look again (None: when something wakes the machine).

    `run` and `status` are to be stored before the actions are performed; the stop event at `consumed_stop_at` is
    used up.
    """

    actions: tuple[Action, ...]
    status: pb.MachineStatus
    run: Run
    reasons: tuple[Reason, ...]
    wake_at: int | None
    events: tuple[Event, ...]
    observed_generation: int
    consumed_stop_at: int = 0


def plan(machine: Machine, observed: Observed | NotSeen, now: int, policy: Policy) -> Plan:
    """Decide. Every action of the result is right to do now, in this order, until one fails."""
    if isinstance(observed, NotSeen):
        step = stopping.unseen(machine, observed, now, policy)
        status = machine.status if machine.observed_generation else statuses.unseen(machine, policy)
        return _finish(machine, step, status, machine.run, now, policy, machine.observed_generation)
    run, run_events = _account(machine, observed, now, policy)
    run, device_events = strangers.seen(observed, run, now)
    machine = replace(machine, attachments=ports.placed(machine.attachments, policy.ports_of(machine)))
    if observed.foreign:
        step = Step(reasons=(why.foreign_domain(),), wake_at=now + 60 * SECOND)
    elif observed.stuck:
        step = stopping.stuck(machine, run, observed.stuck, now, policy, alive=observed.active)
    elif machine.deleted_at:
        step = _delete(machine, observed, run, now, policy)
    elif observed.active:
        step = drift.guard(_running(machine, observed, run, now, policy), machine, observed, now)
    else:
        step = restored.hold(machine) or _off(machine, observed, run, now, policy)
        step = drift.guard(step, machine, observed, now)
    if observed.edits and not machine.deleted_at:
        step = replace(step, reasons=(*step.reasons, why.edited(observed.edits, active=observed.active)))
    status = statuses.build(machine, observed, run, policy)
    run, state_events = _state_events(machine, status, run, now)
    events = run_events + device_events + step.events + state_events
    # A stop that was noted before a guest was seen active is of an earlier run: used up either way.
    consumed = machine.stop_event.at if machine.stop_event else 0
    result = _finish(machine, step, status, run, now, policy, machine.generation)
    return replace(result, events=events + result.events, consumed_stop_at=consumed)


def _account(machine: Machine, observed: Observed, now: int, policy: Policy) -> tuple[Run, tuple[Event, ...]]:
    """Bring the run's record up to what is observed: that it runs, or that and why it stopped."""
    run, event = machine.run, machine.stop_event
    reason = observed.domain.reason if observed.domain else ""
    if observed.active:
        saved_at = stops.saved_meanwhile(run, event, reason, observed.last_words, observed.boot_ended_at)
        rebooted = bool(run.boot_id) and run.boot_id != observed.boot_id
        if observed.run and observed.run != run.uuid:
            # Started, but the record of it was lost (a restored store): what runs is the truth.
            run = Run(uuid=observed.run, boot_id=observed.boot_id, started_at=now)
        elif not run.started_at or run.stopped is not None or saved_at or rebooted:
            # Nobody has pressed the button of what runs now, whoever started it.
            behind = max(now - saved_at, 1) if saved_at else 0
            run = replace(run.going(now), boot_id=observed.boot_id, behind=behind)
        if reason == "booted":
            run = replace(run, behind=0)  # it was started cold after all: its save was dropped
        return replace(run, restored=reason == "restored"), ()
    started = run.started_at or (event and run.uuid)
    if not started:
        return run, ()
    if run.stopped is not None:
        was = stops.reconsidered(run, observed.boot_id, observed.boot_ended_at)
        return was, () if was.stopped is run.stopped else (why.reconsidered(),)
    cause = _cause(run, event, observed, reason)
    at = event.at if event else max(min(observed.last_words.at or now, now), run.started_at)
    lasted = max(at - run.started_at, 0) if run.started_at else 0
    failures, not_before = 0, 0
    if _needs_back_off(cause, run, observed, policy):
        failures = run.failures + 1 if lasted < policy.short_run else 1
        not_before = at + back_off(failures)
    said = f": {observed.last_words.aborted}" if cause is StopCause.ABORTED else ""
    message = f"the guest stopped: {why.STOP_WORDS[cause]}{said}"
    told = Event(kind="stopped", reason=cause.value, message=message, took=lasted, measure="ran")
    unsure = cause is StopCause.GUEST and observed.host_stopping is None
    run = replace(run, stopped=cause, stopped_at=at, failures=failures, not_before=not_before, unsure=unsure)
    return run, (told,)


def _cause(run: Run, event: StopEvent | None, observed: Observed, state_reason: str) -> StopCause:
    """Why the guest has stopped or, while its QEMU is still there, halted."""
    return stops.classify(
        run,
        event,
        state_reason=state_reason,
        managed_save=observed.domain.managed_save if observed.domain else False,
        last_words=observed.last_words,
        boot_id=observed.boot_id,
        host_stopping=observed.host_stopping,
        out_of_memory=observed.out_of_memory,
    )


def _needs_back_off(cause: StopCause, run: Run, observed: Observed, policy: Policy) -> bool:
    """Stops that may come again at once, so that a start right after each would be a busy loop."""
    if cause is StopCause.HOST:
        return run.boot_id == observed.boot_id
    if cause is StopCause.GUEST:
        return policy.restart_after_guest_poweroff
    return cause not in (StopCause.REQUESTED, StopCause.SAVED)


def _delete(machine: Machine, observed: Observed, run: Run, now: int, policy: Policy) -> Step:
    """Guest off, then domain, then devices, then files, then the record."""
    if observed.active:
        return stopping.stop_guest(run, stopping.unwanted_since(machine, policy), now, policy)
    if observed.domain is not None:
        return Step(actions=(Undefine(),), events=drift.left_files(machine, observed))
    devices = release(machine.attachments, machine.deleted_at, now, policy, final=True)
    if devices.reasons:
        return devices
    return replace(devices, actions=(*devices.actions, RemoveFiles(), Forget()))


def _running(machine: Machine, observed: Observed, run: Run, now: int, policy: Policy) -> Step:
    """A QEMU is there. Its devices follow the spec while the guest runs and is to go on."""
    if since := stopping.unwanted_since(machine, policy):
        return stopping.stop_guest(run, since, now, policy)
    assert observed.domain is not None
    # What libvirt noted of a stop, if anything, is of an earlier run: this one's QEMU is still there.
    halted = _cause(run, None, observed, "shutdown")
    step = states.step(machine, observed.domain, run, halted, now, policy)
    if step is not None:
        return disks.told(step, machine, observed, now)
    clock = Step(actions=(SetClock(),) if run.behind else ())
    return join([clock, restored.hold(machine) or plugging.devices(machine, observed, run, now, policy)])


def _off(machine: Machine, observed: Observed, run: Run, now: int, policy: Policy) -> Step:
    """No QEMU. First what is unwanted goes, then what is wanted is prepared, then it is defined and started."""
    unwanted = _drop_unwanted(machine, observed, now, policy)
    if unwanted.actions:
        return unwanted
    want_on = machine.spec.power == pb.POWER_ON and not statuses.stays_off(machine, run, policy)
    want_on = want_on and not policy.drained_since()
    waiting = _pending(machine, now, policy)
    rest = Step(reasons=unwanted.reasons + waiting.reasons, wake_at=soonest(unwanted.wake_at, waiting.wake_at))
    if not want_on:
        return _keep_off(machine, observed, run, now, policy, rest)
    if observed.host_stopping:
        return replace(rest, reasons=(why.host_stopping(), *rest.reasons), wake_at=now + 5 * SECOND)
    blocked = policy.start_blocked(machine)
    if blocked:
        return replace(rest, reasons=(blocked, *rest.reasons), wake_at=now + 60 * SECOND)
    if now < run.not_before:
        return starting.hold(machine, observed, run, rest)
    if waiting.wake_at is not None:
        return rest
    if unknown := _unknown_images(machine, policy):
        return replace(rest, actions=unknown, reasons=(why.starting(), *rest.reasons))
    return starting.start(machine, observed, run, rest)


def _unknown_images(machine: Machine, policy: Policy) -> tuple[Action, ...]:
    """What is to be learned before anything is chosen for a machine."""
    return tuple(ResolveImage(row.key) for row in machine.attachments if row.wanted and policy.unresolved(row))


def _keep_off(machine: Machine, observed: Observed, run: Run, now: int, policy: Policy, rest: Step) -> Step:
    """Off and to stay so: its devices are prepared and in the persistent XML all the same (contract G.11)."""
    if machine.spec.power == pb.POWER_ON:
        reason = why.guest_powered_off() if statuses.stays_off(machine, run, policy) else why.drained()
        rest = replace(rest, reasons=(reason, *rest.reasons))
    if unknown := tuple(each for each in _unknown_images(machine, policy) if not rest.wake_at):
        return replace(rest, actions=unknown)
    older = ports.leaving_names(machine.attachments)
    prepare = tuple(
        PrepareDevice(row.key)
        for row in machine.attachments
        if row.wanted and row.port and (row.backing is None or row.problem)
        if not cooling(row, now, policy) and (row.kind, row.name) not in older
    )
    domain = observed.domain
    as_planned = machine.profile is not None and drift.as_planned(machine, observed)
    if not prepare and domain is not None and (domain.managed_save or as_planned):
        return rest
    if now < run.not_before and not (prepare and machine.profile):
        return starting.hold(machine, observed, run, rest)
    return replace(rest, actions=(ChooseProfile(), AssignPorts(), *(prepare or (Define(new_run=False),))))


def _drop_unwanted(machine: Machine, observed: Observed, now: int, policy: Policy) -> Step:
    """Unwanted devices: out of the persistent XML first, then their backing is released, never earlier."""
    unwanted = [row for row in machine.attachments if not row.wanted]
    if any(row.alias in observed.persistent for row in unwanted):
        if now < machine.run.not_before:
            return Step(wake_at=machine.run.not_before)
        return Step(actions=(Define(new_run=False),))
    return release(unwanted, 0, now, policy, final=False)


def _pending(machine: Machine, now: int, policy: Policy) -> Step:
    """Wanted devices that are not ready. A `wake_at` means that a cold start has to wait for one of them."""
    found: list[Reason] = []
    wake: int | None = None
    older = ports.leaving_names(machine.attachments)
    for row in machine.attachments:
        if not row.wanted:
            continue
        if ports.without_network(row):
            found.append(why.network_unknown(row))
        elif (row.kind, row.name) in older:
            found.append(why.older_device_first(row))
            wake = soonest(wake, now + policy.prepare_retry)
        elif not row.port:
            found.append(why.no_port(row, policy.ports_of(machine)))
        elif row.problem:
            found.append(why.device_not_ready(row))
            wake = soonest(wake, cooling(row, now, policy))
    return Step(reasons=tuple(found), wake_at=wake)


def _state_events(machine: Machine, status: pb.MachineStatus, run: Run, now: int) -> tuple[Run, tuple[Event, ...]]:
    """One event per transition of the machine's state, with the time since what has caused it, if that is known."""
    if status.state == machine.status.state:
        return run, ()
    name = pb.MachineState.Name(status.state).removeprefix("MACHINE_").lower()
    at, cause = _cause_of_change(machine, run)
    took = max(now - at, 0) if cause else 0
    event = Event(kind="state", reason=name, message=f"the machine is {name}", took=took, measure=cause)
    return replace(run, running_at=now) if status.state == pb.MACHINE_RUNNING else run, (event,)


def _cause_of_change(machine: Machine, run: Run) -> tuple[int, Measure]:
    """What came last of all that changes a machine's state, and when; nothing where it has run again since, as after a
    pause that nobody here has asked for."""
    causes: tuple[tuple[int, Measure], ...] = (
        (machine.power_at, "power" if machine.generation > 1 else "create"),
        (machine.deleted_at, "delete"),
        (run.fell_at, "stop"),
    )
    at, cause = max(causes, key=itemgetter(0))
    return (at, cause) if at > run.running_at else (0, "")


def _finish(
    machine: Machine, step: Step, status: pb.MachineStatus, run: Run, now: int, policy: Policy, generation: int
) -> Plan:
    """Carry over since when each reason holds, and tell of a wait that has become long."""
    before = {reason.identity: reason for reason in machine.reasons}
    kept: list[Reason] = []
    events: list[Event] = []
    wake = step.wake_at
    for reason in (*step.reasons, *failing(machine, step)):
        old = before.get(reason.identity)
        reason = replace(reason, since=old.since or now, told=old.told) if old else replace(reason, since=now)
        if not reason.told:
            if now >= reason.since + policy.long_wait:
                reason = replace(reason, told=True)
                events.append(
                    Event(
                        kind="waiting",
                        reason=reason.code,
                        message=reason.message,
                        took=now - reason.since,
                        measure="waited",
                    )
                )
            else:
                wake = soonest(wake, reason.since + policy.long_wait)
        kept.append(reason)
    return Plan(
        actions=step.actions,
        status=status,
        run=run,
        reasons=tuple(kept),
        wake_at=wake,
        events=tuple(events),
        observed_generation=generation,
    )
