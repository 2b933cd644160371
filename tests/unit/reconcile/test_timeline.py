"""plan(): what a timeline says of durations, and which reasons are the same as before."""

from __future__ import annotations

from dataclasses import replace

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.hypervisor.base import DomainState
from sri_libvirt.records import SECOND, Reason, Run, StopCause
from tests.unit.reconcile.world import POLICY, T0, World, delete, machine, power, running, snapshot, state, volume_row


def states(world: World) -> list[tuple[str, float, str]]:
    """What the timeline says of states: which, after how many seconds, and of what."""
    return [(each.reason, each.took / SECOND, each.measure) for each in world.told if each.kind == "state"]


def test_a_state_is_told_with_the_time_since_its_cause() -> None:
    world = World(machine(volume_row()))
    world.look()
    world.now += 2 * SECOND
    world.settle()
    assert states(world) == [("running", 2.0, "create")], "a new machine is pending without a word"
    world.told.clear()
    world.now += 500 * SECOND
    power(world, pb.POWER_OFF)
    world.now += 3 * SECOND
    world.settle()
    world.now += 60 * SECOND
    power(world, pb.POWER_ON)
    world.now += 4 * SECOND
    world.settle()
    assert states(world) == [("suspended", 3.0, "power"), ("pending", 4.0, "power"), ("running", 4.0, "power")]
    world.told.clear()
    world.now += 500 * SECOND
    delete(world)
    world.now += SECOND
    world.settle()
    assert states(world) == [("terminated", 1.0, "delete")]


def test_a_guest_that_crashed_is_back_so_long_after_its_stop_and_not_after_its_power_was_set() -> None:
    world = running(volume_row())
    world.told.clear()
    world.now += 513 * SECOND
    world.stop_guest("", "failed", "crashed")
    world.look()
    world.run_until(lambda: state(world) == "RUNNING")
    assert world.now == T0 + 514 * SECOND
    assert states(world) == [("pending", 0.0, "stop"), ("running", 1.0, "stop")]
    stopped = next(each for each in world.told if each.kind == "stopped")
    assert (stopped.took, stopped.measure) == (513 * SECOND, "ran")


def test_what_nobody_here_has_caused_has_no_duration() -> None:
    world = running(volume_row())
    world.told.clear()
    world.now += 100 * SECOND
    world.domain = snapshot(DomainState.PAUSED, "user")
    world.look()
    world.now += 100 * SECOND
    world.domain = snapshot()
    world.look()
    assert states(world) == [("pending", 0.0, ""), ("running", 0.0, "")]


def test_a_reason_whose_sentence_changes_goes_on_from_when_it_began_and_is_told_once() -> None:
    """Of each device, though."""
    world = World(machine(volume_row("a"), volume_row("b")), broken={"a"})
    world.settle()
    for second in range(90):
        world.now = T0 + second * SECOND
        assert world.record is not None
        rows = tuple(
            replace(row, problem=f"its server has said no {second} times") if row.name == "a" else row
            for row in world.record.attachments
        )
        world.record = replace(world.record, attachments=rows)
        made = world.look()
        (reason,) = [each for each in made.reasons if each.code == "device-not-ready"]
        assert (reason.since, str(second) in reason.message) == (T0, True)
    waits = [each for each in world.told if each.kind == "waiting" and each.reason == "device-not-ready"]
    assert [(each.took, each.measure) for each in waits] == [(POLICY.long_wait, "waited")]
    record = world.record
    assert record is not None
    rows = tuple(replace(row, problem="it, too", problem_at=world.now) for row in record.attachments)
    world.record = replace(record, attachments=rows)
    made = world.look()
    both = {each.device: each.since for each in made.reasons if each.code == "device-not-ready"}
    assert both == {rows[0].alias: T0, rows[1].alias: world.now}


def test_what_makes_a_reason_another_one() -> None:
    reason = Reason("code", "words", device="device", action="action")
    assert replace(reason, message="others", advice="other", since=7).identity == reason.identity
    for other in (replace(reason, code="x"), replace(reason, device="x"), replace(reason, action="x")):
        assert other.identity != reason.identity


def test_a_new_run_knows_when_the_one_before_has_stopped() -> None:
    run = Run(uuid="1", started_at=1, stopped=StopCause.KILLED, stopped_at=5, running_at=2)
    after = run.next("2", "boot")
    assert (after.down_at, after.running_at, after.stopped_at) == (5, 2, 0)
    assert after.going(9).down_at == 5
    assert run.going(9).down_at == 5
    assert replace(run, stopped=StopCause.REQUESTED).going(9).down_at == 0, "that it was asked for is its cause"
