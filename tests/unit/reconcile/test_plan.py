"""plan(): life of a machine by passes, and a named test for each reason that it can give."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.hypervisor.base import DomainState, LastWords
from sri_libvirt.reconcile import actions as act
from sri_libvirt.reconcile.plan import back_off, plan
from sri_libvirt.reconcile.view import NotSeen
from sri_libvirt.records import SECOND, Reason, Run, StopCause
from tests.unit.reconcile.world import POLICY, T0, World, machine, nic_row, snapshot, volume_row


def codes(world: World) -> list[str]:
    assert world.record is not None
    return [reason.code for reason in world.record.reasons]


def state(world: World) -> str:
    assert world.record is not None
    return pb.MachineState.Name(world.record.status.state).removeprefix("MACHINE_")


def running(*rows: object, **changes: object) -> World:
    world = World(machine(*rows, **changes))  # type: ignore[arg-type]
    world.settle()
    assert world.record is not None
    assert world.record.status.state == pb.MACHINE_RUNNING
    world.done.clear()
    return world


def power(world: World, value: pb.Power) -> None:
    assert world.record is not None
    spec = pb.MachineSpec()
    spec.CopyFrom(world.record.spec)
    spec.power = value
    world.record = replace(world.record, spec=spec, generation=world.record.generation + 1, power_at=world.now)


def delete(world: World) -> None:
    assert world.record is not None
    world.record = replace(world.record, deleted_at=world.now)


# --- create --------------------------------------------------------------------------------------


def test_a_new_machine_is_prepared_defined_and_started() -> None:
    world = World(machine(volume_row(), nic_row()))
    last = world.settle()
    assert last is not None
    assert [type(action) for action in world.done] == [
        act.PrepareDevice, act.PrepareDevice, act.ChooseProfile, act.AssignPorts, act.Define, act.Start,
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


def test_reason_paused_leaves_the_guest_alone() -> None:
    world = running()
    world.domain = snapshot(DomainState.PAUSED, "user")
    world.settle()
    assert codes(world) == ["paused"]
    assert state(world) == "PENDING"
    assert world.done == []


def test_reason_io_error_resumes_with_pauses_between() -> None:
    world = running()
    world.domain = snapshot(DomainState.PAUSED, "io error")
    world.settle()
    assert world.done == [act.Resume()]
    world.domain = snapshot(DomainState.PAUSED, "io error")
    made = world.settle()
    assert codes(world) == ["io-error"]
    assert made is not None
    assert made.wake_at == T0 + POLICY.resume_every
    assert world.done == [act.Resume()]


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


# --- power ---------------------------------------------------------------------------------------


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


# --- stops ---------------------------------------------------------------------------------------


def test_reason_guest_powered_off_stays_off_until_power_goes_off_and_on() -> None:
    world = running()
    world.now += 100 * SECOND
    world.stop_guest("guest", "shutdown", "shutdown")
    made = world.settle()
    assert made is not None
    assert state(world) == "SUSPENDED"
    assert codes(world) == ["guest-powered-off"]
    world.boot = "boot-2"
    world.settle()
    assert state(world) == "SUSPENDED", "a host boot does not start it"
    world.now += SECOND
    power(world, pb.POWER_OFF)
    power(world, pb.POWER_ON)  # faster than the loop looked
    world.settle()
    assert state(world) == "RUNNING"


@pytest.mark.rule("R-G5-2")
def test_a_guests_power_off_is_a_restart_where_the_operator_wants_that_but_no_busy_loop() -> None:
    world = running()
    world.policy = replace(POLICY, restart_after_guest_poweroff=True)
    world.stop_guest("guest", "shutdown", "shutdown")
    made = world.settle()
    assert codes(world) == ["back-off"]
    assert made is not None
    world.run_until(lambda: state(world) == "RUNNING")
    assert world.now == T0 + SECOND


@pytest.mark.parametrize(
    ("shutdown", "stopped", "reason", "watched"),
    [
        ("", "failed", "crashed", True),
        ("", "failed", "crashed", False),
        ("host", "shutdown", "shutdown", True),
        ("host", "destroyed", "destroyed", True),
        ("host", "destroyed", "destroyed", False),
        ("", "", "unknown", False),
    ],
)
@pytest.mark.rule("R-G5-3")
def test_reason_back_off_of_a_guest_that_fell_over(shutdown: str, stopped: str, reason: str, watched: bool) -> None:
    world = running()
    world.now += SECOND
    world.stop_guest(shutdown, stopped, reason, watched)
    made = world.settle()
    assert codes(world) == ["back-off"]
    assert made is not None
    assert made.wake_at == world.now + SECOND
    world.run_until(lambda: state(world) == "RUNNING")


def test_a_crash_loop_is_slowed_down_and_a_long_run_forgives() -> None:
    world = running()
    waits = []
    for _ in range(4):
        world.stop_guest("", "failed", "crashed")
        before = world.now
        world.settle()
        world.run_until(lambda: state(world) == "RUNNING")
        waits.append((world.now - before) // SECOND)
    assert waits == [1, 2, 4, 8]
    world.now += POLICY.short_run
    world.stop_guest("", "failed", "crashed")
    made = world.settle()
    assert made is not None
    assert made.wake_at == world.now + SECOND


def test_a_host_boot_starts_what_ran_without_delay() -> None:
    world = running(volume_row())
    ports = {row.name: row.port for row in world.record.attachments} if world.record else {}
    world.boot = "boot-2"
    world.stop_guest("", "", "unknown", watched=False)
    world.settle()
    assert state(world) == "RUNNING"
    assert world.record is not None
    assert {row.name: row.port for row in world.record.attachments} == ports


def test_reason_host_stopping_starts_nothing() -> None:
    world = running()
    world.host_stopping = True
    world.stop_guest("guest", "shutdown", "shutdown")
    world.settle()
    assert codes(world) == ["host-stopping"]
    assert world.record is not None
    assert world.record.run.stopped is StopCause.HOST
    world.host_stopping, world.boot = False, "boot-2"
    world.run_until(lambda: state(world) == "RUNNING")


def test_a_domain_that_somebody_undefined_is_defined_and_started_again() -> None:
    world = running()
    world.domain, world.live, world.persistent, world.run = None, frozenset(), frozenset(), ""
    world.run_until(lambda: state(world) == "RUNNING")


def test_a_managed_save_of_this_run_is_restored() -> None:
    world = running()
    run = world.run
    world.now += SECOND
    world.stop_guest("", "saved", "saved")
    world.domain = snapshot(DomainState.OFF, "saved", managed_save=True)
    world.settle()
    assert state(world) == "RUNNING"
    assert world.done[-1] == act.Start(restore=True)
    assert world.run == run


@pytest.mark.rule("R-G5-7")
def test_a_managed_save_is_dropped_when_the_machine_was_changed_since() -> None:
    world = running(volume_row())
    world.now += SECOND
    world.stop_guest("", "saved", "saved")
    world.domain = snapshot(DomainState.OFF, "saved", managed_save=True)
    world.now += SECOND
    assert world.record is not None
    late = volume_row("late", target="vdb", changed_at=world.now)
    world.record = replace(world.record, attachments=(*world.record.attachments, late))
    made = world.look()
    assert [event.kind for event in made.events].count("save-dropped") == 1
    world.settle()
    assert world.done[-1] == act.Start(restore=False)


def test_a_managed_save_that_nobody_watched_is_as_old_as_the_log_says() -> None:
    world = running(volume_row())
    world.now += SECOND
    world.last_words = LastWords("saved", at=world.now)
    world.stop_guest("", "saved", "saved", watched=False)
    world.domain = snapshot(DomainState.OFF, "saved", managed_save=True)
    world.now += SECOND
    assert world.record is not None
    late = volume_row("late", target="vdb", changed_at=world.now)
    world.record = replace(world.record, attachments=(*world.record.attachments, late))
    world.now += SECOND
    world.settle()
    assert world.done[-1] == act.Start(restore=False)


def test_a_guest_that_powered_itself_off_unwatched_starts_when_its_power_went_off_and_on_since() -> None:
    world = running()
    world.now += SECOND
    world.last_words = LastWords("shutdown", at=world.now)
    world.stop_guest("guest", "shutdown", "shutdown", watched=False)
    world.now += SECOND
    assert world.record is not None
    world.record = replace(world.record, power_at=world.now)
    world.now += SECOND
    world.settle()
    assert state(world) == "RUNNING"


def test_a_log_whose_clock_was_ahead_does_not_date_a_stop_into_the_future() -> None:
    world = running()
    world.last_words = LastWords("crashed", at=world.now + 3600 * SECOND)
    world.stop_guest("", "crashed", "crashed", watched=False)
    world.look()
    assert world.record is not None
    assert world.record.run.stopped_at == world.now


def test_a_run_that_the_store_does_not_know_is_taken_over() -> None:
    world = running()
    world.run = "another"
    world.settle()
    assert world.record is not None
    assert world.record.run.uuid == "another"
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
            *[snapshot(s, r) for s in DomainState for r in ("", "user", "io error", "shutdown")],
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
        settled = {"paused", "guest-powered-off"} & {reason.code for reason in record.reasons}
        return (
            record.status.state == pb.MACHINE_RUNNING
            or bool(settled)
            or (world.domain is not None and world.domain.active)
        )

    world.run_until(there)


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
