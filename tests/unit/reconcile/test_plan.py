"""plan(): life of a machine by passes, and a named test for each reason that it can give."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.hypervisor.base import DomainState
from sri_libvirt.reconcile import actions as act
from sri_libvirt.reconcile.brake import back_off
from sri_libvirt.reconcile.plan import plan
from sri_libvirt.records import SECOND, Reason, Run, StopCause
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

# --- create --------------------------------------------------------------------------------------


def test_a_new_machine_is_prepared_defined_and_started() -> None:
    world = World(machine(volume_row(), nic_row()))
    last = world.settle()
    assert last is not None
    assert [type(action) for action in world.done] == [
        act.ChooseProfile, act.AssignPorts, act.PrepareDevice, act.PrepareDevice, act.Define, act.Start,
    ]  # fmt: skip
    assert world.record is not None
    status = world.record.status
    assert status.state == pb.MACHINE_RUNNING
    assert status.observed_generation == 1
    assert [volume.state for volume in status.volumes] == [pb.VOLUME_ATTACHED]
    assert [nic.state for nic in status.network_interfaces] == [pb.NETWORK_INTERFACE_ATTACHED]
    assert last.wake_at is None
    assert codes(world) == []


def test_reason_starting_and_handles_are_given_before_anything_is_done() -> None:
    world = World(machine(volume_row()))
    made = world.look()
    assert made.status.state == pb.MACHINE_PENDING
    assert made.status.volumes[0].handle == "handle-data"
    assert made.status.volumes[0].state == pb.VOLUME_PENDING
    assert codes(world) == ["starting"]


@pytest.mark.rule("R-G9-5")
def test_a_machine_without_devices_runs() -> None:
    assert running().live == frozenset()


def test_reason_device_not_ready_waits_and_then_starts_by_itself() -> None:
    world = World(machine(volume_row()), broken={"data"})
    made = world.settle()
    assert made is not None
    assert made.wake_at == T0 + POLICY.prepare_retry
    assert codes(world) == ["device-not-ready"]
    assert state(world) == "PENDING"
    assert act.Start() not in world.done
    world.broken.clear()
    world.run_until(lambda: state(world) == "RUNNING")
    assert world.now == T0 + POLICY.prepare_retry


@pytest.mark.rule("R-G9-4")
def test_a_wait_of_more_than_thirty_seconds_is_told_once() -> None:
    world = World(machine(volume_row()), broken={"data"})
    told: list[int] = []
    while world.now < T0 + 120 * SECOND:
        for _ in range(24):
            made = world.look()
            told += [world.now for event in made.events if event.kind == "waiting"]
            if not made.actions:
                break
            for action in made.actions:
                if not world._perform(action):
                    break
        assert made.wake_at is not None
        world.now = made.wake_at
    assert told == [T0 + 30 * SECOND]


@pytest.mark.rule("R-G9-3")
def test_reason_network_unknown_does_not_keep_the_machine_from_starting() -> None:
    world = World(machine(nic_row(network="")))
    world.settle()
    assert state(world) == "RUNNING"
    assert codes(world) == ["network-unknown"]


@pytest.mark.rule("R-G9-2")
def test_reason_no_port_does_not_keep_the_machine_from_starting() -> None:
    rows = [volume_row(f"v{number}") for number in range(5)]
    world = World(machine(*rows))
    world.settle()
    assert state(world) == "RUNNING"
    assert len(world.live) == 4
    assert world.record is not None
    assert [volume.state for volume in world.record.status.volumes].count(pb.VOLUME_PENDING) == 1
    power(world, pb.POWER_OFF)
    world.settle()
    assert codes(world) == ["no-port"]
    assert state(world) == "SUSPENDED"


def test_reason_start_failed_backs_off_and_starts_when_it_can() -> None:
    world = World(machine(), start_fails=True)
    made = world.settle()
    assert codes(world) == ["start-failed"]
    assert made is not None
    assert made.wake_at == T0 + back_off(1)
    world.now = made.wake_at
    made = world.settle()
    assert made is not None
    assert made.wake_at == world.now + back_off(2)
    world.start_fails = False
    world.run_until(lambda: state(world) == "RUNNING")
    assert codes(world) == []


def test_reason_start_blocked_starts_nothing() -> None:
    blocked = Reason("start-blocked", "KVM is gone", "enable it")
    world = World(machine(), policy=replace(POLICY, start_blocked=lambda _: blocked))
    world.settle()
    assert codes(world) == ["start-blocked"]
    assert world.done == []


def test_back_off_grows_and_is_bounded() -> None:
    assert [back_off(n) // SECOND for n in (0, 1, 2, 3, 9, 10, 1000)] == [0, 1, 2, 4, 256, 300, 300]


# --- running -------------------------------------------------------------------------------------


def test_reason_older_device_first_while_its_predecessor_cannot_be_released() -> None:
    world = running(volume_row(), power=pb.POWER_ON)
    power(world, pb.POWER_OFF)
    world.settle()
    assert world.record is not None
    old = replace(world.record.attachments[0], wanted=False, changed_at=world.now)
    new = volume_row(incarnation=2)
    world.broken = {"data"}
    world.record = replace(world.record, attachments=(old, new))
    world.settle()
    assert set(codes(world)) == {"release-failed", "older-device-first"}


def test_reason_foreign_domain_is_never_touched() -> None:
    world = World(machine(), domain=snapshot(), foreign=True)
    world.settle()
    assert codes(world) == ["foreign-domain"]
    delete(world)
    world.settle()
    assert world.done == []


@pytest.mark.rule("R-G11-4")
def test_reason_unreachable_does_nothing_and_keeps_the_status() -> None:
    world = running(volume_row())
    world.reachable = False
    assert world.record is not None
    before = world.record.status
    power(world, pb.POWER_OFF)
    delete(world)
    made = world.settle()
    assert codes(world) == ["unreachable"]
    assert world.record.status == before
    assert world.record.observed_generation == 1
    assert made is not None
    assert made.wake_at is not None
    assert world.done == []


# --- delete --------------------------------------------------------------------------------------


def test_delete_of_a_running_machine_leaves_nothing() -> None:
    world = running(volume_row(), nic_row())
    delete(world)
    made = world.look()
    assert made.status.state == pb.MACHINE_RUNNING
    assert world.settle() is None
    assert world.record is None
    assert world.domain is None


def test_reason_release_failed_keeps_a_machine_terminated_until_it_is_gone() -> None:
    world = running(volume_row())
    delete(world)
    world.broken = {"data"}
    made = world.settle()
    assert state(world) == "TERMINATED"
    assert codes(world) == ["release-failed"]
    assert made is not None
    assert made.wake_at is not None
    world.broken.clear()
    world.now = made.wake_at
    assert world.settle() is None


def test_a_release_that_fails_holds_up_no_other_device() -> None:
    world = running(volume_row(), nic_row())
    delete(world)
    world.broken = {"data"}
    world.settle()
    assert world.record is not None
    failed = replace(world.record.attachments[0], problem="is busy", problem_at=world.now)
    world.record = replace(world.record, attachments=(failed, nic_row(backing=None)))
    made = world.look()
    assert [action.key for action in made.actions if isinstance(action, act.ReleaseDevice)] == [nic_row().key]
    assert act.Forget() not in made.actions


def test_delete_of_a_machine_that_waits_for_a_device_does_not_wait() -> None:
    world = World(machine(volume_row()), broken={"data"})
    world.settle()
    world.broken.clear()
    world.now += 1
    delete(world)
    assert world.settle() is None


def test_delete_after_power_off_keeps_the_first_grace_time() -> None:
    world = running()
    world.deaf = True
    power(world, pb.POWER_OFF)
    world.settle()
    world.now += 20 * SECOND
    delete(world)
    world.run_until(lambda: world.record is None or world.domain is None)
    assert world.now == T0 + 30 * SECOND


# --- always --------------------------------------------------------------------------------------


def test_equal_passes_give_equal_plans() -> None:
    world = running(volume_row(), nic_row())
    assert world.record is not None
    first = plan(world.record, world.observed(), world.now, POLICY)
    again = plan(world.record, world.observed(), world.now + 3600 * SECOND, POLICY)
    assert first == again
    assert first.events == ()


worlds = st.builds(
    World,
    record=st.builds(
        machine,
        st.builds(volume_row, wanted=st.booleans(), port=st.integers(0, 1)),
        st.builds(nic_row, network=st.sampled_from(["", "network://n"]), wanted=st.booleans()),
        power=st.sampled_from([pb.POWER_ON, pb.POWER_OFF]),
        deleted_at=st.sampled_from([0, T0]),
        run=st.builds(
            Run,
            uuid=st.sampled_from(["", "r"]),
            boot_id=st.sampled_from(["boot-1", "boot-0"]),
            started_at=st.sampled_from([0, T0 - SECOND]),
            pressed_at=st.sampled_from([0, T0 - SECOND, T0]),
            stopped=st.sampled_from([None, *StopCause]),
            stopped_at=st.sampled_from([0, T0]),
            failures=st.integers(0, 3),
            not_before=st.sampled_from([0, T0 + 5 * SECOND]),
        ),
    ),
    domain=st.sampled_from(
        [
            None,
            *[snapshot(s, r) for s in DomainState for r in ("", "user", "io error", "shutdown", "crashed")],
            replace(snapshot(DomainState.CRASHED, "panicked"), live_xml=""),
            snapshot(DomainState.OFF, "saved", True),
        ]
    ),
    run=st.sampled_from(["", "r", "x"]),
    boot=st.just("boot-1"),
    deaf=st.booleans(),
    broken=st.sampled_from([set(), {"data"}]),
    start_fails=st.booleans(),
)


@settings(max_examples=400, deadline=None)
@given(worlds)
def test_from_any_state_it_comes_to_rest_and_then_to_what_is_wanted(world: World) -> None:
    world.settle()
    world.broken, world.start_fails = set(), False
    assert world.record is None or world.record.status.observed_generation == world.record.generation

    def there() -> bool:
        record = world.record
        if record is None:
            return True
        if record.deleted_at:
            return False
        if record.spec.power == pb.POWER_OFF:
            return record.status.state == pb.MACHINE_SUSPENDED
        settled = {"paused", "paused-unexplained", "state-unknown", "guest-powered-off"} & set(codes(world))
        return record.status.state == pb.MACHINE_RUNNING or bool(settled)

    world.run_until(there)
