"""plan(): what is done after a guest has stopped, for each kind of stop."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import HypervisorError, UnusableSave
from sri_libvirt.hypervisor.base import DomainState, LastWords
from sri_libvirt.reconcile import actions as act
from sri_libvirt.records import SECOND, StopCause
from tests.unit.reconcile.world import (
    POLICY,
    T0,
    World,
    codes,
    power,
    running,
    snapshot,
    state,
    volume_row,
)


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


def stopped_where_nobody_can_tell(world: World) -> None:
    """The guest has powered itself off, or somebody has pressed its button at the end of the host."""
    world.host_stopping = None
    world.now += 100 * SECOND
    world.stop_guest("guest", "shutdown", "shutdown")
    world.settle()
    assert codes(world) == ["guest-powered-off"]


@pytest.mark.parametrize("lived_on", [-30 * SECOND, 0, 299 * SECOND])
def test_a_stop_near_the_end_of_a_boot_is_not_believed_where_nobody_could_tell(lived_on: int) -> None:
    world = running()
    stopped_where_nobody_can_tell(world)
    world.boot, world.boot_ended_at = "boot-2", world.now + lived_on
    world.now += 3600 * SECOND
    made = world.settle()
    assert made is not None
    assert state(world) == "RUNNING"


@pytest.mark.parametrize("lived_on", [301 * SECOND, 86400 * SECOND, None])
def test_a_stop_in_the_middle_of_a_boot_is_the_guests_own_for_ever(lived_on: int | None) -> None:
    world = running()
    stopped_where_nobody_can_tell(world)
    world.boot, world.boot_ended_at = "boot-2", 0 if lived_on is None else world.now + lived_on
    world.settle()
    assert state(world) == "SUSPENDED"
    assert world.record is not None
    assert not world.record.run.unsure
    world.boot, world.boot_ended_at = "boot-3", world.now
    world.settle()
    assert state(world) == "SUSPENDED", "what was decided once stays so"


def test_a_stop_that_the_host_has_answered_for_is_believed_to_its_end() -> None:
    world = running()
    world.stop_guest("guest", "shutdown", "shutdown")
    world.settle()
    world.boot, world.boot_ended_at = "boot-2", world.now
    world.settle()
    assert state(world) == "SUSPENDED"


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
    world.now += 4 * SECOND
    world.settle()
    assert state(world) == "RUNNING"
    assert world.done[-2:] == [act.Start(restore=True), act.SetClock()]
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
    world.settle()
    assert world.done[-1] == act.Start(drops_save="spec-changed")


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
    assert world.done[-1] == act.Start(drops_save="spec-changed")


def saved() -> World:
    """A machine whose guest was saved just now."""
    world = running(volume_row())
    world.now += SECOND
    world.stop_guest("", "saved", "saved")
    world.domain = snapshot(DomainState.OFF, "saved", managed_save=True)
    return world


@pytest.mark.rule("R-G5-7")
def test_reason_restore_failed_keeps_the_save_and_tries_again_with_back_off() -> None:
    world = saved()
    world.restore_fails = [HypervisorError("Failed to connect socket to virtlogd")] * 12
    begun, tries = world.now, []
    while world.restore_fails:
        left = len(world.restore_fails)
        world.settle()
        if len(world.restore_fails) < left:
            tries.append((world.now - begun) // SECOND)
        assert codes(world) == ["restore-failed"]
        assert world.record is not None
        world.now = world.record.run.not_before
    assert tries[:5] == [0, 1, 3, 7, 15]
    assert tries[-1] - tries[-2] == 300
    world.settle()
    assert state(world) == "RUNNING"
    assert [action for action in world.done if isinstance(action, act.Start)] == [act.Start(restore=True)] * 13


@pytest.mark.parametrize("certain", [True, False])
def test_a_save_is_dropped_once_it_is_known_to_be_unusable(certain: bool) -> None:
    world = saved()
    world.restore_fails = [UnusableSave("it is none", certain=certain) for _ in range(9)]
    world.settle()
    world.run_until(lambda: state(world) == "RUNNING")
    tries = 1 if certain else 3
    assert [action for action in world.done if isinstance(action, act.Start)] == [
        *[act.Start(restore=True)] * tries,
        act.Start(drops_save="unusable"),
    ]


def started_by_others(world: World, domain: DomainState, reason: str) -> None:
    """Somebody else starts it, as `virsh start` does, or libvirt-guests when the host boots."""
    world.domain, world.live = snapshot(domain, reason), world.persistent


def clock_is_set(world: World) -> list[int]:
    """How far its guest's clock stood behind, each time it was set."""
    found: list[int] = []
    for _ in range(3):
        made = world.look()
        if act.SetClock() in made.actions:
            found.append(made.run.behind)
        world.settle()
    return found


@pytest.mark.parametrize("seen", ["by a pass", "by the event thread"])
def test_the_clock_of_a_guest_that_somebody_else_has_restored_is_set(seen: str) -> None:
    world = saved()
    if seen == "by a pass":
        world.look()
    world.now += 900 * SECOND
    started_by_others(world, DomainState.RUNNING, "restored")
    assert clock_is_set(world) == [900 * SECOND]


def test_the_clock_of_a_guest_that_libvirt_guests_has_restored_at_boot_is_set_once() -> None:
    world = running()
    world.now += 60 * SECOND
    world.boot, world.boot_ended_at = "boot-2", world.now
    world.now += 300 * SECOND
    started_by_others(world, DomainState.RUNNING, "restored")
    assert clock_is_set(world) == [300 * SECOND]
    assert world.record is not None
    assert world.record.run.boot_id == "boot-2", "what ends it now is told by this boot"


def test_the_clock_of_a_guest_that_was_saved_and_restored_while_nobody_looked_is_set_once() -> None:
    world = running()
    world.now += 60 * SECOND
    world.last_words = LastWords(saved_at=world.now)
    world.now += 900 * SECOND
    started_by_others(world, DomainState.RUNNING, "restored")
    assert clock_is_set(world) == [900 * SECOND]
    world.last_words = LastWords(saved_at=world.now + 3600 * SECOND)  # the wall clock was set back since
    assert clock_is_set(world) == []


def test_a_restore_of_ours_is_not_taken_for_one_of_others() -> None:
    world = saved()
    saved_at = world.now
    world.now += 4 * SECOND
    world.settle()
    world.last_words = LastWords("", at=0, saved_at=saved_at)
    started_by_others(world, DomainState.RUNNING, "restored")
    assert clock_is_set(world) == []


def test_the_clock_of_a_guest_that_was_looked_at_amid_its_restore_is_set_when_it_runs() -> None:
    world = saved()
    world.look()
    world.now += 900 * SECOND
    started_by_others(world, DomainState.PAUSED, "starting up")
    assert clock_is_set(world) == []
    started_by_others(world, DomainState.RUNNING, "restored")
    assert clock_is_set(world) == [900 * SECOND]


@pytest.mark.parametrize("amid", [True, False])
def test_the_clock_of_a_guest_whose_save_somebody_else_has_dropped_is_its_own(amid: bool) -> None:
    world = saved()
    world.look()
    world.now += 900 * SECOND
    if amid:
        started_by_others(world, DomainState.PAUSED, "starting up")
        assert clock_is_set(world) == []
    started_by_others(world, DomainState.RUNNING, "booted")
    assert clock_is_set(world) == []


def test_power_off_and_on_gives_a_save_up() -> None:
    world = saved()
    world.restore_fails = [HypervisorError("no")] * 99
    world.settle()
    world.now += SECOND
    power(world, pb.POWER_OFF)
    world.settle()
    assert world.domain is not None
    assert world.domain.managed_save, "it is kept while the machine is off"
    power(world, pb.POWER_ON)
    world.run_until(lambda: state(world) == "RUNNING")
    assert world.done[-1] == act.Start(drops_save="spec-changed")


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


@pytest.mark.parametrize("stamp", [1, T0 - 3600 * SECOND, T0 + 10 * 365 * 86400 * SECOND])
def test_a_stop_lies_between_its_start_and_now_whatever_the_log_says(stamp: int) -> None:
    world = running()
    world.now += 60 * SECOND
    world.stop_guest("", "", "unknown", watched=False)
    world.last_words = LastWords("shutdown", at=stamp)
    world.settle()
    assert world.record is not None
    assert world.record.run.stopped is StopCause.GUEST
    assert world.record.run.started_at <= world.record.run.stopped_at <= world.now
    for wish in (pb.POWER_OFF, pb.POWER_ON):
        world.now += SECOND
        power(world, wish)
        world.settle()
    assert state(world) == "RUNNING"
