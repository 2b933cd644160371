"""A machine of a restored backup: what waits for a word, what does not, and devices that the store has lost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.hypervisor.base import DomainState
from sri_libvirt.reconcile import actions as act
from sri_libvirt.reconcile.plan import plan
from sri_libvirt.reconcile.view import NotSeen, Observed
from sri_libvirt.records import SECOND, Machine, StopCause
from tests.unit.reconcile.world import (
    POLICY,
    T0,
    World,
    codes,
    delete,
    machine,
    nic_row,
    power,
    running,
    snapshot,
    state,
    volume_row,
)

LOST = volume_row("lost", target="vdb")


def restored(world: World) -> World:
    """The store is put back a second later."""
    assert world.record is not None
    world.now += SECOND
    world.record = replace(world.record, unconfirmed_since=world.now, run=replace(world.record.run, strangers=None))
    world.done.clear()
    return world


def confirmed(world: World) -> None:
    assert world.record is not None
    world.record = replace(world.record, unconfirmed_since=0)


def record(world: World) -> Machine:
    assert world.record is not None
    return world.record


def test_reason_restored_is_not_started_until_it_is_confirmed() -> None:
    world = restored(World(machine(volume_row(), nic_row())))
    world.settle()
    assert (world.done, codes(world), state(world)) == ([], ["restored"], "PENDING")
    assert record(world).observed_generation == record(world).generation
    confirmed(world)
    world.settle()
    assert (codes(world), state(world)) == ([], "RUNNING")


def test_a_running_guest_keeps_its_devices_and_gets_no_other() -> None:
    world = running(volume_row(), nic_row())
    rows = (replace(volume_row(), wanted=False, port=2), nic_row(port=3), LOST)
    world.record = replace(record(world), attachments=rows)
    before = world.live
    restored(world)
    world.now += 3600 * SECOND
    world.settle()
    assert (world.done, world.live, codes(world), state(world)) == ([], before, ["restored"], "RUNNING")
    confirmed(world)
    world.settle()
    assert {type(each) for each in world.done} >= {act.UnplugDevice, act.PlugDevice}


def test_a_power_off_of_the_past_presses_no_button_and_one_of_the_present_does() -> None:
    world = running(volume_row())
    power(world, pb.POWER_OFF)
    restored(world)
    world.settle()
    assert (world.done, state(world)) == ([], "RUNNING")
    power(world, pb.POWER_ON)
    world.now += SECOND
    power(world, pb.POWER_OFF)
    world.settle()
    assert (world.done, state(world)) == ([act.PressButton(first=True)], "SUSPENDED")


def test_a_drain_of_the_past_switches_nobody_off_and_one_of_the_present_does() -> None:
    world = running()
    drained = [world.now]
    world.policy = replace(POLICY, drained_since=lambda: drained[0])
    restored(world)
    world.settle()
    assert world.done == []
    drained[0] = world.now = world.now + SECOND
    world.settle()
    assert world.done == [act.PressButton(first=True)]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_deletion_goes_on_whenever_it_was_asked_for(when: str) -> None:
    world = running(volume_row())
    if when == "before":
        delete(world)
    restored(world)
    if when == "after":
        delete(world)
    assert world.settle() is None


def test_a_guest_that_hangs_is_not_destroyed_for_a_wish_of_the_past() -> None:
    world = running()
    power(world, pb.POWER_OFF)
    restored(world)
    for observed in (NotSeen("hangs", ("snapshot",)), Observed(snapshot(), "boot-1", stuck=("start",))):
        made = plan(record(world), observed, world.now + 3600 * SECOND, POLICY)
        assert (made.actions, [reason.code for reason in made.reasons]) == ((), ["stuck-call"])


def test_what_a_guest_has_is_not_known_before_a_look() -> None:
    world = restored(running())
    unseen = plan(record(world), NotSeen("connection refused"), world.now, POLICY)
    assert unseen.run.strangers is None
    foreign = plan(record(world), Observed(snapshot(), "boot-1", foreign=True), world.now, POLICY)
    assert foreign.run.strangers is None
    world.look()
    assert record(world).run.strangers == ()


def test_reason_unknown_device_is_told_and_unplugged_once_it_may_be() -> None:
    world = running(nic_row())
    world.live |= {LOST.alias}
    restored(world)
    world.now += 3600 * SECOND
    made = world.settle()
    assert made is not None
    assert (world.done, codes(world)) == ([], ["restored"])
    assert record(world).run.stranger("volume", "lost") is not None
    assert record(world).run.stranger("nic", "lost") is None
    confirmed(world)
    assert codes_after(world) == ["unknown-device"]
    world.now += POLICY.detach_settle
    world.settle()
    assert [each for each in world.done if isinstance(each, act.UnplugStranger)] == [act.UnplugStranger(LOST.alias)]
    assert (LOST.alias in world.live, codes(world), record(world).run.strangers) == (False, [], ())


def codes_after(world: World) -> list[str]:
    world.settle()
    return codes(world)


def test_it_is_told_of_once_when_it_comes_and_once_when_it_is_gone() -> None:
    world = running(nic_row())
    world.live |= {LOST.alias}
    events = [event for _ in range(3) for event in world.look().events]
    assert [(event.kind, event.reason) for event in events] == [("device", "unknown-device")]
    world.live -= {LOST.alias}
    world.now += SECOND
    events = [event for _ in range(3) for event in world.look().events]
    assert [(event.kind, event.reason, event.took) for event in events] == [("device", "detached", SECOND)]


def test_a_guest_that_does_not_hear_is_asked_again() -> None:
    world = running(nic_row())
    world.live |= {LOST.alias}
    world.deaf_to_unplug = True
    for _ in range(3):
        world.settle()
        world.now += POLICY.unplug_every
    assert world.done == [act.UnplugStranger(LOST.alias)] * 2
    world.deaf_to_unplug = False
    world.settle()
    assert LOST.alias not in world.live


@pytest.mark.parametrize(
    "row",
    [replace(LOST, incarnation=2), volume_row("other", target="vdz")],
    ids=["its name", "its target"],
)
def test_a_device_waits_for_the_stranger_in_its_place(row: object) -> None:
    world = running(nic_row())
    world.live |= {LOST.alias}
    world.deaf_to_unplug = True
    world.record = replace(record(world), attachments=(*record(world).attachments, row))  # type: ignore[arg-type]
    world.settle()
    assert codes(world) == ["unknown-device", "older-device-first"]
    world.now += 60 * SECOND
    world.deaf_to_unplug = False
    world.settle()
    world.settle()
    assert codes(world) == []
    assert row.alias in world.live  # type: ignore[attr-defined]


def test_one_in_the_persistent_domain_of_a_guest_that_is_off_is_left_out_of_the_next_define() -> None:
    world = running(nic_row(), power=pb.POWER_ON)
    world.stop_guest("guest", "shutdown", "shutdown")
    world.persistent |= {LOST.alias}
    power(world, pb.POWER_OFF)
    world.settle()
    assert LOST.alias not in world.persistent


def test_a_suspended_guest_that_has_one_boots_without_it() -> None:
    world = running(nic_row())
    world.persistent |= {LOST.alias}
    world.domain, world.live = snapshot(DomainState.OFF, "saved", managed_save=True), frozenset()
    world.settle()
    assert act.Start(restore=True) not in world.done
    assert state(world) == "RUNNING"
    assert LOST.alias not in world.live


def test_a_guest_that_we_may_have_switched_off_since_is_not_taken_for_one_that_stays_off() -> None:
    world = running()
    world.domain, world.live = snapshot(DomainState.OFF, "shutdown"), frozenset()
    restored(world)
    world.settle()
    assert (record(world).run.stopped, state(world)) == (StopCause.UNKNOWN, "PENDING")
    confirmed(world)
    world.run_until(lambda: state(world) == "RUNNING")


def test_time_alone_confirms_nothing() -> None:
    world = restored(World(machine()))
    for _ in range(3):
        world.now += 100 * 3600 * SECOND
        world.settle()
    assert world.done == []
    assert record(world).unconfirmed_since > T0
