"""Every state of libvirt's has a row, a reason unless the guest runs, and a way out."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.hypervisor import words
from sri_libvirt.hypervisor.base import DomainState, LastWords
from sri_libvirt.reconcile import actions as act
from sri_libvirt.reconcile import states
from sri_libvirt.reconcile.states import ROWS, Way
from sri_libvirt.records import SECOND, Run, StopCause
from tests.unit.reconcile.world import POLICY, T0, World, codes, power, running, snapshot, state, volume_row

EVERY = [(state, reason) for state, reasons in words.REASONS.items() for reason in reasons.values()]
ACTIVE = [(state, reason) for state, reason in EVERY if state is not DomainState.OFF]
MINUTE = 60 * SECOND


def test_the_table_is_of_exactly_the_states_and_reasons_that_there_are() -> None:
    assert {(state, reason) for state, rows in ROWS.items() for reason in rows} == set(EVERY)
    assert set(ROWS) == set(DomainState)
    assert all("unknown" in rows for rows in ROWS.values())


def test_every_row_but_those_of_a_guest_that_runs_or_is_off_says_why_and_what_to_do() -> None:
    for rows in ROWS.values():
        for row in rows.values():
            assert (row.reason is None) is (row.way is Way.GO_ON)
            assert row.reason is None or row.reason.advice
            assert bool(row.patience) is (row.way is Way.END)


@pytest.mark.parametrize(
    ("found", "reason", "code"),
    [
        (DomainState.PAUSED, "user", "paused"),
        (DomainState.PAUSED, "from snapshot", "paused"),
        (DomainState.PAUSED, "unknown", "paused-unexplained"),
        (DomainState.PAUSED, "a newer word", "paused-unexplained"),
        (DomainState.PAUSED, "watchdog", "paused-by-watchdog"),
        (DomainState.PAUSED, "save", "being-worked-on"),
        (DomainState.PAUSED, "dump", "being-worked-on"),
        (DomainState.PAUSED, "snapshot", "being-worked-on"),
        (DomainState.PAUSED, "migration", "migrating"),
        (DomainState.PAUSED, "post-copy failed", "migrating"),
        (DomainState.RUNNING, "post-copy", "migrating"),
        (DomainState.UNKNOWN, "unknown", "state-unknown"),
    ],
)
def test_what_somebody_else_has_begun_is_left_alone(found: DomainState, reason: str, code: str) -> None:
    world = running(volume_row())
    world.domain = snapshot(found, reason)
    world.settle()
    world.now += 60 * MINUTE
    world.settle()
    assert codes(world) == [code]
    assert world.done == []
    world.domain = snapshot()
    world.settle()
    assert (codes(world), state(world)) == ([], "RUNNING")


@pytest.mark.parametrize(
    ("pressed", "said", "cause"),
    [
        (0, LastWords(), StopCause.GUEST),
        (0, LastWords(terminated_by="libvirtd"), StopCause.GUEST),
        (T0, LastWords(), StopCause.REQUESTED),
        (0, LastWords(terminated_by="systemd"), StopCause.HOST),
    ],
)
@pytest.mark.parametrize("found", [(DomainState.SHUTTING_DOWN, "unknown"), (DomainState.PAUSED, "shutting down")])
def test_reason_halted_ends_in_a_destroy_and_the_stop_stays_whose_it_was(
    pressed: int, said: LastWords, cause: StopCause, found: tuple[DomainState, str]
) -> None:
    world = running()
    assert world.record is not None
    world.record = replace(world.record, run=replace(world.record.run, pressed_at=pressed))
    world.domain, world.last_words = snapshot(*found), said
    world.settle()
    assert codes(world) == ["halted"]
    world.now += 59 * SECOND
    world.settle()
    assert world.done == []
    world.run_until(lambda: act.Destroy(cause) in world.done)
    assert world.now == T0 + MINUTE
    if cause is StopCause.GUEST:
        world.settle()
        assert (codes(world), state(world)) == (["guest-powered-off"], "SUSPENDED")
        world.now += SECOND
        power(world, pb.POWER_ON)
    world.run_until(lambda: state(world) == "RUNNING")
    assert world.record.run.ending is None


def test_a_guest_that_halts_while_its_host_goes_down_is_the_hosts() -> None:
    world = running()
    world.domain, world.host_stopping = snapshot(DomainState.SHUTTING_DOWN, "unknown"), True
    world.settle()
    world.run_until(lambda: world.record is not None and world.record.run.stopped is not None)
    assert world.record is not None
    assert world.record.run.stopped is StopCause.HOST


@pytest.mark.parametrize("found", [(DomainState.CRASHED, "panicked"), (DomainState.PAUSED, "crashed")])
def test_reason_guest_crashed_is_kept_a_while_and_started_again_with_back_off(found: tuple[DomainState, str]) -> None:
    world = running()
    world.domain = snapshot(*found)
    world.settle()
    assert (codes(world), state(world)) == (["guest-crashed"], "PENDING")
    world.run_until(lambda: codes(world) == ["back-off"])
    assert world.now == T0 + 10 * MINUTE
    assert world.record is not None
    assert world.record.run.stopped is StopCause.PANICKED
    world.run_until(lambda: state(world) == "RUNNING")
    assert world.now == T0 + 10 * MINUTE + SECOND


def test_a_crashed_domain_without_a_qemu_is_started_again() -> None:
    world = running()
    world.domain = replace(snapshot(DomainState.CRASHED, "panicked"), live_xml="")
    world.live = frozenset()
    world.settle()
    assert codes(world) == ["back-off"]
    world.run_until(lambda: state(world) == "RUNNING")


def test_reason_starting_up_does_not_last_for_ever() -> None:
    world = running()
    world.domain = snapshot(DomainState.PAUSED, "starting up")
    made = world.settle()
    assert made is not None
    assert made.wake_at == T0 + 5 * SECOND
    assert codes(world) == ["starting-up"]
    world.run_until(lambda: state(world) == "RUNNING")
    assert world.done[0] == act.Destroy(StopCause.FAILED)


@pytest.mark.parametrize(
    ("found", "reason", "code"),
    [
        (DomainState.PAUSED, "io error", "io-error"),
        (DomainState.PAUSED, "api error", "api-error"),
        (DomainState.SUSPENDED, "unknown", "asleep"),
    ],
)
@pytest.mark.rule("R-G5-9")
def test_what_falls_into_its_state_again_and_again_is_helped_out_ever_more_seldom(
    found: DomainState, reason: str, code: str
) -> None:
    world = running()
    helped: list[int] = []
    while len(helped) < 8:
        world.domain = snapshot(found, reason)
        made = world.settle()
        if world.domain.state is DomainState.RUNNING:
            helped.append((world.now - T0) // SECOND)
            continue
        assert codes(world) == [code]
        assert made is not None
        assert made.wake_at is not None
        world.now = made.wake_at
    assert [b - a for a, b in itertools.pairwise(helped)] == [10, 20, 40, 80, 160, 300, 300]
    world.now += 7 * MINUTE
    world.domain = snapshot(found, reason)
    world.settle()
    assert world.domain.state is DomainState.RUNNING
    assert world.record is not None
    assert world.record.run.resumes == 1, "it ran long enough to be forgiven"


@settings(max_examples=200, deadline=None)
@given(
    found=st.sampled_from(ACTIVE),
    wanted_on=st.booleans(),
    run=st.builds(Run, uuid=st.just("r"), boot_id=st.just("boot-1"), started_at=st.just(T0 - SECOND),
                  pressed_at=st.sampled_from([0, T0]), resumes=st.integers(0, 9), resumed_at=st.sampled_from([0, T0])),
)  # fmt: skip
def test_no_state_is_left_without_a_reason_or_a_way_out(
    found: tuple[DomainState, str], wanted_on: bool, run: Run
) -> None:
    world = running()
    assert world.record is not None
    world.record = replace(world.record, run=replace(run, uuid=world.run))
    world.domain = snapshot(*found)
    if not wanted_on:
        power(world, pb.POWER_OFF)
        world.run_until(lambda: state(world) == "SUSPENDED", limit=2 * POLICY.shutdown_grace)
        return
    made = world.settle()
    row = states.row_of(snapshot(*found))
    if row.way is Way.GO_ON:
        assert codes(world) == []
        return
    if world.domain.state is not DomainState.RUNNING or row.way is Way.LEAVE:
        assert codes(world) == [row.reason.code] if row.reason else []
        assert made is not None
        assert made.wake_at is not None
    if row.way is not Way.LEAVE:
        world.run_until(lambda: state(world) == "RUNNING" or codes(world) == ["guest-powered-off"])
        return
    world.now += SECOND
    power(world, pb.POWER_OFF)
    world.run_until(lambda: state(world) == "SUSPENDED")


def test_a_stop_that_was_noted_of_an_earlier_run_is_not_that_of_a_guest_that_halts() -> None:
    world = World(record=running().record, domain=snapshot(DomainState.SHUTTING_DOWN, "unknown"), run="run-3")
    world.stop_guest("", "failed", "crashed")
    world.domain = snapshot(DomainState.SHUTTING_DOWN, "unknown")
    world.run_until(lambda: codes(world) == ["guest-powered-off"])
