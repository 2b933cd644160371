"""Which devices a running guest gets and gives back: the unplug conversation, held by passes over stored times. Pure.

Three lines decide: present and unwanted: ask the guest to let it go, and again while it does not. Absent and wanted:
plug it. Absent and unwanted: release its backing, never earlier. A guest answers an unplug when it likes, at its next
reset at the latest, and one that was sent cannot be called off: a device that vanishes although it is wanted again is
plugged anew by the same lines. What is done to a guest that is off does not belong here (that is `plan.py`).
"""

from __future__ import annotations

from sri_libvirt.domain import ports
from sri_libvirt.reconcile import brake, disks, drift, strangers
from sri_libvirt.reconcile import reasons as why
from sri_libvirt.reconcile.actions import Action, AssignPorts, Define, PlugDevice, PrepareDevice, UnplugDevice
from sri_libvirt.reconcile.step import Step, cooling, join, release
from sri_libvirt.reconcile.view import Observed, Policy
from sri_libvirt.records import Attachment, Event, Machine, Run


def devices(machine: Machine, observed: Observed, run: Run, now: int, policy: Policy) -> Step:
    """What to do to the devices of a guest that runs and is to go on running."""
    if machine.profile is None:
        return Step()
    unwanted = [row for row in machine.attachments if not row.wanted]
    present = [row for row in unwanted if row.alias in observed.live]
    gone = [row for row in unwanted if row.alias not in observed.live | observed.persistent]
    return join(
        [
            *(_unplug(machine, row, now, policy) for row in present),
            *strangers.unplug(run, now, policy),
            release(gone, 0, now, policy, final=False),
            drift.replug(machine, observed, now, policy),
            _plug(machine, observed, run, now, policy),
            _persist(machine, observed, run, now),
            disks.grow(machine, observed, policy),
        ]
    )


def _unplug(machine: Machine, row: Attachment, now: int, policy: Policy) -> Step:
    """Ask for an unwanted device, once its owner had time to think again and the guest had time to answer.

    The settle time is for a poollet that detaches and attaches in one breath; the hold for one that detaches all
    volumes of a machine because one of them was not ready (contract G.4, A.10/2).
    """
    settled = row.changed_at + policy.detach_settle
    if now < settled:
        return Step(reasons=(why.detach_settles(row),), wake_at=settled)
    held = row.changed_at + policy.detach_hold
    if now < held and _is_empty_disk(row) and _all_were_gone(machine, row, settled):
        reason = why.detach_held(row, policy.detach_hold)
        told = any(each.code == reason.code and each.message == reason.message for each in machine.reasons)
        event = Event(kind="held", reason=reason.code, message=reason.message)
        return Step(reasons=(reason,), wake_at=held, events=() if told else (event,))
    asked = row.unplug_at >= settled
    again = row.unplug_at + policy.unplug_every
    if asked and now < again:
        return Step(reasons=(why.unplugging(row),), wake_at=again)
    return Step(actions=(UnplugDevice(row.key),), reasons=(why.unplugging(row),) if asked else ())


def _persist(machine: Machine, observed: Observed, run: Run, now: int) -> Step:
    """Keep the persistent domain at what is wanted, so that it never names a backing that is released."""
    if drift.as_planned(machine, observed):
        return Step()
    if now < run.not_before and run.error:
        return Step(reasons=(why.define_failed(run.error),), wake_at=run.not_before)
    return Step(actions=(Define(new_run=False),))


def _plug(machine: Machine, observed: Observed, run: Run, now: int, policy: Policy) -> Step:
    """Prepare and plug what is wanted and absent, as far as names, targets and ports are free."""
    older = ports.leaving_names(machine.attachments)
    held_targets = {row.target for row in machine.attachments if row.alias in observed.live and row.target}
    prepare: list[Action] = []
    plug: list[Action] = []
    steps: list[Step] = []
    for row in machine.attachments:
        if not row.wanted or (row.alias in observed.live and row.backing is not None and not policy.is_lost(row)):
            continue
        if ports.without_network(row):
            steps.append(Step(reasons=(why.network_unknown(row),)))
        elif (row.kind, row.name) in older or (
            row.alias not in observed.live and (row.target in held_targets or strangers.in_the_way(run, row))
        ):
            steps.append(Step(reasons=(why.older_device_first(row),)))
        elif not row.port:
            steps.append(Step(reasons=(why.no_port(row, policy.ports_of(machine)),)))
        elif row.alias not in observed.live and (words := policy.cold_only(row)):
            steps.append(Step(reasons=(why.cold_only(row, words),)))
        elif wake := cooling(row, now, policy):
            steps.append(Step(reasons=(why.device_not_ready(row),), wake_at=wake))
        elif row.alias in observed.live:
            # The record of it was lost, and what runs is the truth; or something was that it was prepared with.
            prepare.append(PrepareDevice(row.key, plugged=True))
        elif now < (due := _replug_at(row)):
            steps.append(_ejected(machine, row, due))
        else:
            if row.problem:
                steps.append(Step(reasons=(why.device_not_ready(row),)))
            prepare.append(PrepareDevice(row.key))
            plug.append(PlugDevice(row.key))
    assign: tuple[Action, ...] = (AssignPorts(),) if prepare else ()
    return join([*steps, Step(actions=(*assign, *prepare, *plug))])


def plugs_in_a_row(row: Attachment, now: int) -> int:
    """The how manieth time in a row it is, when a device is plugged at `now`."""
    return 1 if _was_unplugged(row) else brake.again(row.plugs, row.plugged_at, now)


def _replug_at(row: Attachment) -> int:
    """From when on a device that is gone may be plugged (again): a guest can throw it out as often as it likes."""
    return 0 if _was_unplugged(row) else brake.due(row.plugs, row.plugged_at)


def _was_unplugged(row: Attachment) -> bool:
    """Whether it went because we have asked for that, and was wanted again meanwhile."""
    return row.unplug_at >= row.plugged_at


def _ejected(machine: Machine, row: Attachment, due: int) -> Step:
    """Wait until a device is plugged again that the guest has thrown out by itself."""
    reason = why.device_ejected(row)
    told = any((each.code, each.message) == (reason.code, reason.message) for each in machine.reasons)
    event = Event(kind="device", reason="ejected", message=reason.message)
    return Step(reasons=(reason,), wake_at=due, events=() if told else (event,))


def _all_were_gone(machine: Machine, row: Attachment, settled: int) -> bool:
    """Whether no volume was in the spec any more when this one's settle time ended, and none needs its place now.

    Told from when the rows changed, so that the first volume that comes back does not end the hold of the others.
    """
    others = [other for other in machine.attachments if other.kind == "volume" and other.key != row.key]
    if any(other.wanted and (other.name == row.name or other.target == row.target) for other in others):
        return False
    return all(other.wanted == (other.changed_at > settled) for other in others)


def _is_empty_disk(row: Attachment) -> bool:
    return row.kind == "volume" and not row.volume().HasField("connection")
