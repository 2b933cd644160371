"""plan(): power off, its grace time and its axe, and calls that do not come back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.reconcile import actions as act
from sri_libvirt.reconcile.plan import plan
from sri_libvirt.reconcile.view import NotSeen
from sri_libvirt.records import SECOND, Run, StopCause
from tests.unit.reconcile.world import (
    POLICY,
    T0,
    World,
    codes,
    delete,
    machine,
    power,
    running,
    snapshot,
    state,
    volume_row,
)


def test_power_off_presses_the_button_once_when_the_guest_answers() -> None:
    world = running()
    power(world, pb.POWER_OFF)
    world.settle()
    assert state(world) == "SUSPENDED"
    assert world.done == [act.PressButton(first=True)]
    assert world.record is not None
    assert world.record.run.stopped is StopCause.REQUESTED


@pytest.mark.rule("R-G10-1")
def test_reason_shutting_down_presses_again_and_destroys_after_the_grace() -> None:
    world = running()
    world.deaf = True
    power(world, pb.POWER_OFF)
    world.settle()
    assert codes(world) == ["shutting-down"]
    assert state(world) == "RUNNING"
    world.run_until(lambda: state(world) == "SUSPENDED")
    presses = [action for action in world.done if isinstance(action, act.PressButton)]
    assert presses == [act.PressButton(first=True), *[act.PressButton(first=False)] * 5]
    assert world.done.count(act.Destroy()) == 1
    assert world.now == T0 + 30 * SECOND


@pytest.mark.rule("R-G5-4")
def test_power_on_again_before_the_guest_has_halted_starts_it_again() -> None:
    world = running()
    world.deaf = True
    power(world, pb.POWER_OFF)
    world.settle()
    power(world, pb.POWER_ON)
    world.settle()
    assert state(world) == "RUNNING"
    world.stop_guest("guest", "shutdown", "shutdown")  # it heard the button after all
    world.settle()
    assert state(world) == "RUNNING"
    assert world.done[-1] == act.Start()


def test_a_second_power_off_has_a_grace_time_of_its_own() -> None:
    world = running()
    world.deaf = True
    power(world, pb.POWER_OFF)
    world.settle()
    world.now += 1
    power(world, pb.POWER_ON)
    world.settle()
    world.now += 100 * SECOND
    power(world, pb.POWER_OFF)
    world.settle()
    assert act.Destroy() not in world.done
    assert world.done.count(act.PressButton(first=True)) == 2


def test_a_grace_of_zero_destroys_at_once() -> None:
    world = running()
    world.policy = replace(POLICY, shutdown_grace=0)
    power(world, pb.POWER_OFF)
    world.settle()
    assert world.done == [act.Destroy()]
    assert state(world) == "SUSPENDED"


def test_a_guest_that_is_started_from_outside_has_a_grace_time_of_its_own() -> None:
    world = running()
    power(world, pb.POWER_OFF)
    world.settle()
    world.now += 3600 * SECOND
    world.deaf = True
    world.domain = snapshot()
    world.done.clear()
    world.settle()
    assert world.done == [act.PressButton(first=True)]
    world.run_until(lambda: state(world) == "SUSPENDED")
    assert world.now == T0 + 3630 * SECOND


def test_a_device_whose_prepare_failed_is_tried_again_while_its_machine_is_off() -> None:
    world = running(volume_row())
    world.broken = {"data"}
    world.stop_guest("", "failed", "crashed")
    world.run_until(lambda: "device-not-ready" in codes(world))
    power(world, pb.POWER_OFF)
    made = world.settle()
    assert state(world) == "SUSPENDED"
    assert codes(world) == ["device-not-ready"]
    assert made is not None
    world.broken.clear()
    world.run_until(lambda: not codes(world))


# --- a call that does not come back --------------------------------------------------------------


def test_reason_stuck_call_leaves_a_machine_alone_until_the_call_is_back() -> None:
    world = running(volume_row())
    before = world.record
    assert before is not None
    world.stuck = ("attach_device",)
    world.live = frozenset()  # what would be plugged again at once
    made = world.settle()
    assert (made and made.wake_at) == T0 + POLICY.long_wait
    assert (codes(world), world.done) == (["stuck-call"], [])
    world.stuck = ()
    world.settle()
    assert codes(world) == []
    assert world.live == world.persistent


@pytest.mark.parametrize("deleted", [False, True])
def test_a_stuck_machine_that_is_not_wanted_is_destroyed_after_its_grace_and_nothing_else(deleted: bool) -> None:
    world = running(volume_row())
    world.stuck = ("attach_device",)
    world.now += SECOND
    delete(world) if deleted else power(world, pb.POWER_OFF)
    world.run_until(lambda: not world.domain or not world.domain.active)
    assert world.now == T0 + SECOND + POLICY.shutdown_grace
    made = world.settle()
    assert world.done == [act.Destroy()]
    assert made is not None
    assert codes(world) == ["stuck-call"]
    world.stuck = ()
    world.settle()
    assert (world.record is None) == deleted


def test_a_stuck_machine_whose_button_was_pressed_has_no_second_grace() -> None:
    world = running()
    world.deaf = True
    power(world, pb.POWER_OFF)
    world.settle()
    world.stuck = ("press_power_button",)
    world.now += 10 * SECOND
    world.run_until(lambda: act.Destroy() in world.done)
    assert world.now == T0 + POLICY.shutdown_grace


def test_a_destroy_that_is_stuck_is_not_followed_by_another() -> None:
    world = running()
    world.stuck = ("attach_device", "destroy")
    power(world, pb.POWER_OFF)
    world.now += 2 * POLICY.shutdown_grace
    made = world.settle()
    assert made is not None
    assert world.done == []


@pytest.mark.parametrize("power_", [pb.POWER_ON, pb.POWER_OFF])
def test_a_start_that_is_stuck_is_not_done_twice(power_: pb.Power) -> None:
    world = World(machine(volume_row(), power=power_), stuck=("start",))
    made = world.settle()
    assert made is not None
    assert (world.done, codes(world)) == ([], ["stuck-call"])


def test_a_foreign_domain_is_not_destroyed_though_a_call_is_stuck() -> None:
    world = World(
        machine(power=pb.POWER_OFF), domain=snapshot(), foreign=True, stuck=("define",), now=T0 + 3600 * SECOND
    )
    assert world.settle() is not None
    assert (world.done, codes(world)) == ([], ["foreign-domain"])


def test_a_look_that_is_stuck_says_nothing_about_the_domain() -> None:
    world = running()
    assert world.record is not None
    made = plan(world.record, NotSeen("hangs", ("snapshot",)), world.now, POLICY)
    assert (made.actions, made.status, made.run) == ((), world.record.status, world.record.run)
    assert [reason.code for reason in made.reasons] == ["stuck-call"]


def test_a_guest_that_cannot_even_be_looked_at_is_destroyed_after_its_grace_when_it_is_not_wanted() -> None:
    world = running()
    hangs = NotSeen("hangs", ("attach_device", "snapshot"))
    power(world, pb.POWER_OFF)
    assert world.record is not None
    end = T0 + POLICY.shutdown_grace
    early = plan(world.record, hangs, end - 1, POLICY)
    assert (early.actions, early.wake_at) == ((), end)
    assert plan(world.record, hangs, end, POLICY).actions == (act.Destroy(),)
    sent = replace(world.record, run=replace(world.record.run, pressed_at=end, last_press_at=end + 1))
    grace = end + POLICY.shutdown_grace
    again = plan(sent, hangs, grace, POLICY)
    assert again.actions == (act.Destroy(),)
    sent = replace(sent, run=replace(sent.run, last_press_at=grace))
    waits = plan(sent, hangs, grace + 1, POLICY)
    assert (waits.actions, waits.wake_at) == ((), grace + POLICY.press_every)
    assert plan(sent, NotSeen("hangs", ("snapshot", "destroy")), grace * 2, POLICY).actions == ()
    never = replace(world.record, run=Run())
    assert plan(never, hangs, grace * 2, POLICY).actions == (), "nothing says that the domain is ours"


def test_reason_stuck_work_names_the_action_that_hangs_and_leaves_the_machine_alone() -> None:
    world = World(machine(volume_row()), stuck=("PrepareDevice",))
    made = world.settle()
    assert made is not None
    assert (world.done, codes(world)) == ([], ["stuck-work"])
    assert "(PrepareDevice)" in made.reasons[0].message


@pytest.mark.parametrize("cause", ["refused", "bug"])
def test_a_look_that_fails_leaves_the_axe_and_a_deleted_machine_goes_with_its_domain(cause: str) -> None:
    world = running()
    assert world.record is not None
    unseen = NotSeen("cannot acquire state change lock", cause=cause)  # type: ignore[arg-type]
    assert plan(world.record, unseen, world.now + 3600 * SECOND, POLICY).actions == (), "it is wanted"
    power(world, pb.POWER_OFF)
    end = world.now + POLICY.shutdown_grace
    assert plan(world.record, unseen, end - 1, POLICY).actions == ()
    assert plan(world.record, unseen, end, POLICY).actions == (act.Destroy(),)
    delete(world)
    assert plan(world.record, unseen, end, POLICY).actions == (act.Destroy(), act.Undefine())
    never = replace(world.record, run=Run())
    assert plan(never, unseen, end, POLICY).actions == (), "nothing says that the domain is ours"


def test_unreachable_is_no_failed_look() -> None:
    world = running()
    delete(world)
    assert world.record is not None
    assert plan(world.record, NotSeen("connection refused"), T0 + 3600 * SECOND, POLICY).actions == ()
