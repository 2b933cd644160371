"""Lanes: what a machine's trouble, libvirt's and our own bugs do to them, and that they come to an end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import HypervisorError, InvalidSpec, NotReady, Unreachable
from sri_libvirt.hypervisor.fake import FakeConnection, FakeHypervisor
from sri_libvirt.metrics import Metrics
from sri_libvirt.reconcile import actions as act
from sri_libvirt.reconcile import lane
from sri_libvirt.reconcile.actions import Action
from sri_libvirt.reconcile.lane import MAX_PASSES, MOST_SAME, Lane, Loop, Said
from sri_libvirt.reconcile.observe import Observer
from sri_libvirt.reconcile.perform import Performer
from sri_libvirt.reconcile.plan import Plan, plan
from sri_libvirt.reconcile.queue import WakeQueue
from sri_libvirt.reconcile.view import NotSeen, Policy
from sri_libvirt.records import SECOND, Attachment, Machine
from sri_libvirt.store import Store
from tests.unit.reconcile.parts import Clock, Compiler, Drivers, HostStub, performer
from tests.unit.reconcile.world import ID, POLICY, T0, machine, volume_row

OTHER = "6b3ffb4e-8d3c-4f52-9d0a-0d2f3c1f0a02"


class Opened(FakeHypervisor):
    """Remembers its connections."""

    def __init__(self) -> None:
        super().__init__()
        self.connections: list[FakeConnection] = []

    def connect(self) -> FakeConnection:
        self.connections.append(super().connect())
        return self.connections[-1]

    def open_connections(self) -> int:
        return sum(not connection._closed for connection in self.connections)


class Bench:
    """A lane that a test drives step by step, or starts."""

    def __init__(self, store: Store, root: Path, clock: Clock, policy: Policy = POLICY) -> None:
        self.store = store
        self.clock = clock
        self.drivers = Drivers()
        self.hypervisor = Opened()
        self.queue = WakeQueue(clock)
        self.metrics = Metrics()
        self.performer: Performer = performer(store, root, clock, self.drivers, Compiler(store.instance))
        observer = Observer(store.instance, HostStub(), lambda connection: None)
        self.lane = Lane(
            Loop(store, self.queue, self.hypervisor, self.performer, observer, policy, self.metrics, clock), 1
        )

    def put(self, *rows: Attachment, **changes: Any) -> None:
        self.store.write(lambda tx: tx.insert(machine(*rows, **changes)))

    @property
    def machine(self) -> Machine:
        found = self.store.machine(ID)
        assert found is not None
        return found

    def codes(self) -> list[str]:
        return [reason.code for reason in self.machine.reasons]

    def runs(self) -> bool:
        return self.machine.status.state == pb.MACHINE_RUNNING

    def actions(self, action: str, outcome: str) -> float:
        labels = {"action": action, "outcome": outcome}
        return self.metrics.registry.get_sample_value("sri_libvirt_actions_total", labels) or 0.0

    def passes(self, outcome: str) -> float:
        return self.metrics.registry.get_sample_value("sri_libvirt_passes_total", {"outcome": outcome}) or 0.0


@pytest.fixture
def bench(store: Store, root: Path, clock: Clock) -> Iterator[Bench]:
    bench = Bench(store, root, clock)
    yield bench
    bench.queue.close()
    if bench.lane.ident is not None:
        bench.lane.join(10)


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < end
        pause.wait(0.005)


def test_a_machine_is_brought_as_far_as_it_goes(bench: Bench) -> None:
    bench.put(volume_row())
    assert bench.lane.reconcile(ID) is None
    assert bench.runs()
    assert bench.machine.observed_generation == 1
    assert bench.actions("Start", "ok") == 1


def test_a_machine_that_is_gone_is_not_looked_at(bench: Bench) -> None:
    assert bench.lane.reconcile(ID) is None
    assert bench.hypervisor.connections == []


def test_nothing_is_written_when_nothing_is_new(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.put(volume_row())
    bench.lane.reconcile(ID)
    monkeypatch.setattr(Store, "write", lambda *_: pytest.fail("a write"))
    assert bench.lane.reconcile(ID) is None


def test_the_reason_is_stored_before_the_action_that_may_be_its_last(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.put(volume_row())

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Performer, "perform", dies)
    with pytest.raises(KeyboardInterrupt):
        bench.lane.reconcile(ID)
    assert bench.codes() == ["starting"]
    assert bench.machine.observed_generation == 1


# --- libvirt -------------------------------------------------------------------------------------


def test_libvirt_that_cannot_be_reached_is_a_reason_and_tried_again(bench: Bench) -> None:
    bench.put()
    bench.hypervisor.set_reachable(False)
    assert bench.lane.reconcile(ID) == T0 + 2 * SECOND
    assert bench.codes() == ["unreachable"]
    assert bench.machine.observed_generation == 0
    bench.hypervisor.set_reachable(True)
    assert bench.lane.reconcile(ID) is None
    assert bench.runs()


def test_a_dead_connection_is_given_up_and_another_opened(bench: Bench) -> None:
    bench.put()
    bench.lane.reconcile(ID)
    bench.hypervisor.set_reachable(False)
    bench.hypervisor.set_reachable(True)
    assert bench.lane.reconcile(ID) == T0 + 2 * SECOND
    assert bench.hypervisor.open_connections() == 0
    assert bench.lane.reconcile(ID) is None
    assert bench.codes() == []
    assert len(bench.hypervisor.connections) == 2


@pytest.mark.parametrize("method", ["define", "start"])
def test_libvirt_lost_in_an_action_is_no_failure_of_the_machine(bench: Bench, method: str) -> None:
    bench.put()
    bench.hypervisor.fail_next(method, Unreachable("the connection broke"))
    assert bench.lane.reconcile(ID) is None
    assert bench.runs()
    assert bench.machine.run.failures == 0
    assert bench.actions(method.title(), "Unreachable") == 1
    assert bench.actions("Start", "ok") == 1
    assert len(bench.hypervisor.connections) == 2
    assert bench.hypervisor.open_connections() == 1


# --- failures ------------------------------------------------------------------------------------


def test_a_device_that_fails_does_not_keep_the_others_from_being_prepared(bench: Bench) -> None:
    bench.put(volume_row("bad"), volume_row("good", target="vdb"))
    bench.drivers.broken["bad"] = NotReady("away")
    assert bench.lane.reconcile(ID) == T0 + POLICY.prepare_retry
    assert {row.name: bool(row.backing) for row in bench.machine.attachments} == {"bad": False, "good": True}
    assert bench.codes() == ["device-not-ready"]
    assert bench.hypervisor.connections[0].domain_ids() == []


def test_reason_slow_storage_is_given_for_a_device_whose_files_hang(bench: Bench) -> None:
    bench.put(volume_row("bad"))
    bench.drivers.broken["bad"] = NotReady("looking at /images/a goes on since noon", "See findmnt.", "slow-storage")
    assert bench.lane.reconcile(ID) == T0 + POLICY.prepare_retry
    (reason,) = bench.machine.reasons
    assert (reason.code, "since noon" in reason.message, reason.advice) == ("slow-storage", True, "See findmnt.")


def test_a_release_that_fails_does_not_keep_the_others(bench: Bench) -> None:
    bench.put(volume_row("bad"), volume_row("good", target="vdb"), deleted_at=T0)
    bench.drivers.broken["bad"] = NotReady("busy")
    assert bench.lane.reconcile(ID) == T0 + POLICY.prepare_retry
    assert [row.name for row in bench.machine.attachments] == ["bad"]
    assert bench.codes() == ["release-failed"]
    bench.drivers.broken.clear()
    bench.clock.now += POLICY.prepare_retry
    assert bench.lane.reconcile(ID) is None
    assert bench.store.machine(ID) is None


def test_an_action_that_only_time_helps_is_tried_again_later(bench: Bench) -> None:
    bench.put()
    bench.lane.reconcile(ID)
    bench.store.write(lambda tx: tx.set_deleted(ID, T0 + 1))
    bench.hypervisor.fail_next("press_power_button", HypervisorError("the guest agent is stuck"))
    assert bench.lane.reconcile(ID) == T0 + 5 * SECOND
    assert (bench.store.events(ID)[-1].kind, bench.store.events(ID)[-1].reason) == ("failed", "action-failed")


def test_reason_action_failed_stays_while_it_is_to_be_done_and_is_told_once(bench: Bench) -> None:
    """Each try used to be one more event and no reason at all."""
    bench.put()
    bench.lane.reconcile(ID)
    bench.store.write(lambda tx: tx.set_deleted(ID, T0 + 1))
    bench.hypervisor.fail_next("undefine", *[HypervisorError("a snapshot is in its way")] * 9)
    waits = []
    for _ in range(9):
        wake = bench.lane.reconcile(ID)
        assert wake is not None
        assert "action-failed" in bench.codes()
        (reason,) = [each for each in bench.machine.reasons if each.code == "action-failed"]
        assert (reason.action, reason.since, "in its way" in reason.message) == ("Undefine", T0, True)
        waits.append((wake - bench.clock.now) // SECOND)
        bench.clock.now = wake
    assert waits == [5, 5, 10, 20, 40, 60, 60, 60, 60], "later each time"
    told = [event for event in bench.store.events(ID) if event.reason == "action-failed"]
    assert len(told) == 1
    assert bench.lane.reconcile(ID) is None
    assert bench.store.machine(ID) is None


def test_reason_no_progress_is_a_brake_for_what_is_done_and_asked_for_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.put(volume_row())
    performed: list[Action] = []

    def undone(_self: Performer, action: Action, *_: object) -> None:
        performed.append(action)
        bench.queue.wake(ID)  # by an event of its own

    monkeypatch.setattr(Performer, "perform", undone)
    waits = []
    for _ in range(6):
        performed.clear()
        bench.queue.wake(ID)
        assert bench.queue.take() == ID
        wake = bench.lane.reconcile(ID)
        assert wake is not None
        assert len(performed) == MOST_SAME * 5
        bench.queue.done(ID)
        bench.queue.wake(ID)
        assert bench.queue.waiting(wake) == {}, "its own events do not end its rest"
        waits.append((wake - bench.clock.now) // SECOND)
        bench.clock.now = wake
    assert waits == [5, 5, 10, 20, 40, 60], "later each time"
    assert bench.codes() == ["starting", "no-progress"]
    assert [event.reason for event in bench.store.events(ID)].count("no-progress") == 1


@pytest.mark.parametrize(
    ("error", "outcome", "line"),
    [
        (NotReady("it is being asked", code="under-way"), "waits", "action waits"),
        (NotReady("the backend is away"), "NotReady", "action failed"),
    ],
)
def test_a_device_that_is_not_prepared_is_not_plugged_and_nothing_says_so(
    bench: Bench, error: NotReady, outcome: str, line: str
) -> None:
    bench.put()
    bench.lane.reconcile(ID)
    bench.store.write(lambda tx: tx.put_attachment(volume_row()))
    bench.drivers.broken["data"] = error
    with capture_logs() as logs:
        bench.lane.reconcile(ID)
    assert bench.actions("PrepareDevice", outcome) >= 1
    assert bench.actions("PlugDevice", "ok") == 0
    told = {(each["event"], each["action"]) for each in logs if each.get("action") in ("PrepareDevice", "PlugDevice")}
    assert told == {(line, "PrepareDevice")}


def test_a_retry_that_fails_as_before_is_no_new_line_of_the_log(bench: Bench) -> None:
    bench.put()
    bench.lane.reconcile(ID)
    bench.store.write(lambda tx: tx.put_attachment(volume_row()))

    def failed(words: str) -> list[str]:
        bench.drivers.broken["data"] = NotReady(words)
        with capture_logs() as logs:
            for _ in range(3):
                bench.clock.now += 600 * SECOND
                bench.lane.reconcile(ID)
        return [each["error"] for each in logs if each["event"] == "action failed"]

    assert failed("the backend is silent for 7 s") == ["the backend is silent for 7 s"]
    assert failed("the backend is silent for 12.5 s") == []
    assert failed("the key is wrong") == ["the key is wrong"]
    assert failed("the backend is silent for 7 s") == ["the backend is silent for 7 s"]


def test_a_start_that_waits_prepares_again_and_again_without_a_line_of_the_log(bench: Bench) -> None:
    bench.put(volume_row("data"), volume_row("other"))
    bench.drivers.broken["data"] = NotReady("the key is wrong")

    def told(passes: int) -> list[tuple[str, str]]:
        with capture_logs() as logs:
            for _ in range(passes):
                bench.clock.now += 600 * SECOND
                bench.lane.reconcile(ID)
        return [(each["event"], each["action"]) for each in logs if "action" in each]

    assert ("action done", "PrepareDevice") in told(1)
    prepared = bench.actions("PrepareDevice", "ok")
    assert told(5) == []
    assert bench.actions("PrepareDevice", "ok") > prepared
    bench.drivers.broken.clear()
    assert told(1)[-1] == ("action done", "Start")


def test_what_was_said_of_an_action_is_new_again_after_it_went_well() -> None:
    said = Said()
    one, other = ("PrepareDevice", ("volume", "a", 1)), ("PrepareDevice", ("volume", "b", 1))
    assert said.is_new(ID, one, "silent")
    assert said.is_new(ID, other, "silent")
    assert not said.is_new(ID, one, "silent")
    said.over(ID, one)
    assert said.is_new(ID, one, "silent")
    assert not said.is_new(ID, other, "silent")
    said.gone(ID)
    said.over(ID, one)
    assert said.is_new(ID, other, "silent")


def test_passes_in_a_row_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that do something else each time."""
    bench.put()
    passes: list[int] = []

    def other(made: Machine, *_: object) -> Plan:
        passes.append(len(passes))
        decided = plan(made, NotSeen(""), T0, POLICY)
        return replace(decided, actions=(act.Define(new_run=len(passes) % 2 == 0),))

    monkeypatch.setattr("sri_libvirt.reconcile.lane.plan", other)
    monkeypatch.setattr(Performer, "perform", lambda *_: None)
    assert bench.lane.reconcile(ID) == T0 + 5 * SECOND
    assert len(passes) == MAX_PASSES


# --- the thread ----------------------------------------------------------------------------------


def test_a_bug_is_logged_told_and_does_not_end_the_lane(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.put()
    bench.store.write(lambda tx: tx.insert(machine(id=OTHER)))
    perform = Performer.perform

    def buggy(self: Performer, action: Action, seen: Machine, connection: FakeConnection) -> None:
        if seen.id == ID:
            raise KeyError("a bug")
        perform(self, action, seen, connection)

    monkeypatch.setattr(Performer, "perform", buggy)
    with capture_logs() as logs:
        bench.queue.wake(ID)
        bench.queue.wake(OTHER)
        bench.lane.start()
        wait_for(lambda: bench.passes("ok") == 1)
    assert bench.passes("bug") == 1
    assert bench.actions("ChooseProfile", "bug") == 1
    (line,) = [line for line in logs if line["log_level"] == "error"]
    assert (line["machine"], line["exc_info"]) == (ID, True)
    wait_for(lambda: bench.codes() == ["start-failed"])
    assert "a bug of its own (KeyError)" in bench.machine.reasons[0].message
    wait_for(lambda: len(bench.queue) == 1)
    bench.clock.now += SECOND  # the back-off of a first failed start
    monkeypatch.setattr(Performer, "perform", perform)
    bench.queue.wake(ID)
    wait_for(bench.runs)


def test_reason_look_failed_and_the_look_is_tried_again_later_each_time(bench: Bench) -> None:
    """libvirt refuses the look, as it does for a domain whose QEMU hangs while others wait for it (code 68)."""
    bench.put()
    bench.lane.reconcile(ID)
    before = bench.machine
    bench.hypervisor.fail_next("snapshot", *[HypervisorError("cannot acquire state change lock", 68)] * 8)
    waits = []
    for _ in range(8):
        wake = bench.lane.reconcile(ID)
        assert bench.codes() == ["look-failed"]
        assert wake is not None
        waits.append((wake - bench.clock.now) // SECOND)
        bench.clock.now = wake
    assert waits == [2, 2, 4, 8, 14, 30, 60, 60], "doubled, but for the look that tells of a long wait"
    assert [event.reason for event in bench.store.events(ID)].count("look-failed") == 1
    assert (bench.machine.status, bench.machine.observed_generation) == (before.status, before.observed_generation)
    assert bench.lane.reconcile(ID) is None
    assert bench.codes() == []


@pytest.mark.parametrize("error", [HypervisorError("cannot acquire state change lock", 68), KeyError("a bug")])
def test_a_machine_that_cannot_be_looked_at_can_be_deleted(bench: Bench, error: Exception) -> None:
    """After its grace time its guest is ended without a look, and then there is nothing left that cannot be read."""
    bench.put()
    bench.lane.reconcile(ID)
    bench.store.write(lambda tx: tx.set_deleted(ID, T0))
    look = FakeConnection.snapshot

    def broken(self: FakeConnection, machine_id: str) -> object:
        found = look(self, machine_id)
        if found is not None:
            raise error
        return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeConnection, "snapshot", broken)
        wakes = [bench.lane.reconcile(ID)]
        assert bench.codes() == ["bug" if isinstance(error, KeyError) else "look-failed"]
        while (wake := wakes[-1]) is not None:
            assert bench.machine.status.state == pb.MACHINE_RUNNING
            bench.clock.now = wake
            wakes.append(bench.lane.reconcile(ID))
    assert bench.store.machine(ID) is None
    assert bench.clock.now == T0 + POLICY.shutdown_grace
    assert bench.hypervisor.connect().domain_ids() == []


def test_a_machine_that_cannot_be_looked_at_is_switched_off_and_its_domain_stays(bench: Bench) -> None:
    bench.put()
    bench.lane.reconcile(ID)
    spec = bench.machine.spec
    spec.power = pb.POWER_OFF
    bench.store.write(lambda tx: tx.set_spec(ID, spec, 2, power_at=T0))
    bench.clock.now = T0 + POLICY.shutdown_grace
    bench.hypervisor.fail_next("snapshot", HypervisorError("cannot acquire state change lock", 68))
    bench.lane.reconcile(ID)
    assert bench.machine.status.state == pb.MACHINE_SUSPENDED
    assert bench.hypervisor.connect().domain_ids() == [ID]


def test_reason_bug_when_a_plan_fails_and_the_way_to_stop_stays_open(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.put()
    bench.lane.reconcile(ID)
    real = plan

    def buggy(machine: Machine, observed: object, *rest: Any) -> object:
        if not isinstance(observed, NotSeen):
            raise ZeroDivisionError
        return real(machine, observed, *rest)

    monkeypatch.setattr(lane, "plan", buggy)
    bench.queue.wake(ID)
    bench.lane.start()
    wait_for(lambda: bench.passes("bug") == 1)
    (reason,) = bench.machine.reasons
    assert (reason.code, "ZeroDivisionError" in reason.message) == ("bug", True)
    bench.clock.now += 120 * SECOND
    bench.queue.wake(ID)
    wait_for(lambda: bench.passes("bug") == 2)
    assert bench.machine.reasons[0].since == T0
    bench.store.write(lambda tx: tx.set_deleted(ID, T0))
    bench.queue.wake(ID)
    wait_for(lambda: bench.hypervisor.connect().domain_ids() == [])
    assert [event.reason for event in bench.store.events(ID)].count("bug") == 1


def test_a_bug_in_everything_is_a_reason_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.put()
    monkeypatch.setattr(lane, "plan", lambda *_: 1 / 0)
    bench.lane.start()
    for count in (1, 2):
        bench.queue.wake(ID)
        wait_for(lambda count=count: bench.passes("bug") == count)  # type: ignore[misc]
        wait_for(lambda: bench.codes() == ["bug"])
    assert [event.reason for event in bench.store.events(ID)] == ["bug"], "once"


def test_reason_not_read_is_kept_with_a_record_that_is_damaged(bench: Bench, root: Path) -> None:
    bench.put()
    bench.store.write(lambda tx: tx._update(ID, run="{}"))
    bench.queue.wake(ID)
    bench.lane.start()
    wait_for(lambda: bench.passes("error") == 1)
    wait_for(lambda: [(event.kind, event.reason) for event in bench.store.events(ID)] == [("failed", "not-read")])
    assert "put back a backup" in bench.store.events(ID)[0].message
    bench.queue.wake(ID)
    wait_for(lambda: bench.passes("error") == 2)
    assert len(bench.store.events(ID)) == 1


def test_a_driver_that_is_gone_is_a_reason_and_no_obstacle(store: Store, root: Path, clock: Clock) -> None:
    """Its package was removed: the machine's devices keep their handles, the machine can be switched off and goes."""
    bench = Bench(store, root, clock, policy=replace(POLICY, handle_of=gone))
    bench.put(volume_row("known"), volume_row("new", target="vdb", incarnation=1))
    bench.drivers.absent = {"new"}
    bench.lane.reconcile(ID)
    assert bench.codes() == ["device-not-ready"]
    assert "no volume driver" in bench.machine.reasons[0].message
    assert [(each.name, each.handle != "") for each in bench.machine.status.volumes] == [
        ("known", True),
        ("new", False),
    ]
    assert bench.machine.observed_generation == 1
    bench.drivers.absent = {"known", "new"}
    bench.clock.now += SECOND
    bench.store.write(lambda tx: tx.set_deleted(ID, bench.clock.now))
    bench.lane.reconcile(ID)
    assert [row.name for row in bench.machine.attachments] == ["known"], "what it was never made ready for goes"
    (reason,) = bench.machine.reasons
    assert (reason.code, "Install" in reason.advice) == ("release-failed", True)


def gone(row: Attachment) -> str:
    raise InvalidSpec("connection.driver", f"there is no volume driver for {row.name}")


# --- the lane for stops --------------------------------------------------------------------------


def test_a_lane_for_stops_leaves_the_rest_to_others(store: Store, root: Path, clock: Clock) -> None:
    """A machine that is created switched off is to go only until it was looked at; its devices may take their time."""
    bench = Bench(store, root, clock)
    bench.queue.urgent = lambda each: store.is_to_go(each, drained=False)
    stops = Lane(bench.lane._loop, 2, urgent=True)
    bench.put(volume_row(), power=pb.POWER_OFF)
    assert bench.queue.urgent(ID)
    assert stops.reconcile(ID) == T0
    assert bench.machine.status.state == pb.MACHINE_SUSPENDED
    assert bench.drivers.calls == []
    assert not bench.queue.urgent(ID)
    assert bench.lane.reconcile(ID) is None
    assert bench.drivers.calls != []


def test_a_lane_looks_again_when_the_plan_says_so(bench: Bench) -> None:
    bench.put(volume_row())
    bench.drivers.broken["data"] = NotReady("away")
    bench.queue.wake(ID)
    bench.lane.start()
    wait_for(lambda: bench.passes("ok") == 1 and len(bench.queue) == 1)
    bench.drivers.broken.clear()
    bench.clock.now += POLICY.prepare_retry
    bench.queue.wake(OTHER)  # the queue looks at the clock again
    wait_for(bench.runs)


def test_a_closed_queue_ends_the_lane_and_its_connection(bench: Bench) -> None:
    bench.put()
    bench.queue.wake(ID)
    bench.lane.start()
    wait_for(bench.runs)
    bench.queue.close()
    bench.lane.join(10)
    assert not bench.lane.is_alive()
    assert bench.hypervisor.open_connections() == 0
