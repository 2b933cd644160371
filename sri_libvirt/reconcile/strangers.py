"""Devices of ours that a guest has and no row knows: plugged after the backup that the store was put back from. Pure.

Each is remembered with the run while it is in the live XML, told of, and asked out of the guest as any unwanted device
is. One that is attached again meanwhile becomes that row's device (`server/intents.py`). In a persistent domain none
stays: the next define leaves it out. Whether past wishes may be acted on yet does not belong here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sri_libvirt import names
from sri_libvirt.reconcile import reasons as why
from sri_libvirt.reconcile.actions import UnplugStranger
from sri_libvirt.reconcile.step import Step
from sri_libvirt.reconcile.view import Observed, Policy
from sri_libvirt.records import Attachment, Event, Run


def seen(observed: Observed, run: Run, now: int) -> tuple[Run, tuple[Event, ...]]:
    """The run with the strangers that are in its guest now, and what to tell of those that came or went."""
    if observed.foreign:
        return run, ()
    before = {each.alias: each for each in run.strangers or ()}
    there = {each.alias: before.get(each.alias) or replace(each, since=now) for each in observed.strangers}
    events = [
        Event(kind="device", reason="unknown-device", message=why.unknown_device(each).message)
        for alias, each in there.items()
        if alias not in before
    ]
    events += [
        Event(
            kind="device",
            reason="detached",
            message=f"{why.stranger_words(each)} is gone",
            took=now - each.since,
            measure="waited",
        )
        for alias, each in before.items()
        if alias not in observed.live
    ]
    return replace(run, strangers=tuple(there.values())), tuple(events)


def unplug(run: Run, now: int, policy: Policy) -> Iterator[Step]:
    """Ask each out of the guest, once whoever wants it had time to say so, and again while it stays."""
    for each in run.strangers or ():
        due = each.unplug_at + policy.unplug_every if each.unplug_at else each.since + policy.detach_settle
        reasons = (why.unknown_device(each),)
        yield Step(reasons=reasons, wake_at=due) if now < due else Step((UnplugStranger(each.alias),), reasons)


def in_the_way(run: Run, row: Attachment) -> bool:
    """Whether one has the name, the target or the port of this device, which waits for its end."""
    return any(
        names.is_alias_of(each.alias, row.kind, row.name)
        or (each.target != "" and each.target == row.target)
        or (each.port > 0 and each.port == row.port)
        for each in run.strangers or ()
    )
