"""What wakes machines, and what is written down of a stop before anybody is woken."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from sri_libvirt import failpoints
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import NicBackend
from sri_libvirt.errors import Unreachable
from sri_libvirt.hypervisor.base import DomainEvent, EventKind
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.reconcile.queue import WakeQueue
from sri_libvirt.reconcile.sources import TURN, EventSource, Resync, wake_all
from sri_libvirt.records import SECOND, Run, StopEvent
from sri_libvirt.store import Store
from tests.unit.reconcile.parts import Clock
from tests.unit.reconcile.world import ID, T0, machine, nic_row

OTHER = "6b3ffb4e-8d3c-4f52-9d0a-0d2f3c1f0a02"


class Bench:
    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self.queue = WakeQueue(clock)
        self.reachable: list[bool] = []
        self.others: list[str] = []
        self.source = EventSource(
            store, self.queue, clock, self.reachable.append, lambda: self.others.append("looked for")
        )
        store.write(lambda tx: tx.insert(machine()))
        store.write(lambda tx: tx.insert(machine(id=OTHER)))

    def event(self, kind: EventKind, detail: str = "") -> None:
        self.source.on_event(DomainEvent(ID, kind, detail))

    def noted(self) -> StopEvent | None:
        self.store.write(lambda tx: None)  # everything submitted before is done
        found = self.store.machine(ID)
        assert found is not None
        return found.stop_event

    def woken(self) -> set[str]:
        """Everybody who is due, taken."""
        taken = set()
        while len(self.queue):
            machine_id = self.queue.take()
            assert machine_id is not None
            self.queue.done(machine_id)
            taken.add(machine_id)
        return taken


@pytest.fixture
def bench(store: Store, clock: Clock) -> Bench:
    return Bench(store, clock)


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < end
        pause.wait(0.005)


@pytest.mark.parametrize("shutdown", ["guest", "host"])
def test_a_stop_is_noted_with_who_asked_for_it(bench: Bench, shutdown: str) -> None:
    bench.event(EventKind.SHUTDOWN, shutdown)
    bench.event(EventKind.STOPPED, "shutdown")
    assert bench.noted() == StopEvent(shutdown, "shutdown", T0)


def test_a_stop_that_cannot_be_stored_is_told_and_wakes_the_machine(bench: Bench) -> None:
    bench.woken()
    try:
        failpoints.arm(failpoints.Once("fail", "before store.EventSource.on_event"))
        with capture_logs() as logs:
            bench.event(EventKind.STOPPED, "crashed")
            assert bench.noted() is None
            wait_for(lambda: len(bench.queue))
    finally:
        failpoints.arm(None)
    assert bench.woken() == {ID}
    (told,) = [each for each in logs if each["log_level"] == "warning"]
    assert (told["machine"], "a test lets it fail" in told["error"]) == (ID, True)


def test_a_stop_that_nobody_asked_for(bench: Bench) -> None:
    bench.event(EventKind.STOPPED, "crashed")
    assert bench.noted() == StopEvent("", "crashed", T0)


def test_who_asked_is_used_up_by_the_stop(bench: Bench) -> None:
    bench.event(EventKind.SHUTDOWN, "guest")
    bench.event(EventKind.STOPPED, "shutdown")
    bench.event(EventKind.STOPPED, "failed")  # the start between them was missed
    assert bench.noted() == StopEvent("", "failed", T0)


def test_who_asked_is_forgotten_by_a_start_or_a_new_connection(bench: Bench) -> None:
    bench.event(EventKind.SHUTDOWN, "guest")
    bench.event(EventKind.STARTED)
    bench.event(EventKind.STOPPED, "shutdown")
    assert bench.noted() == StopEvent("", "shutdown", T0)
    bench.event(EventKind.SHUTDOWN, "guest")
    bench.source.on_connected()
    bench.event(EventKind.STOPPED, "shutdown")
    assert bench.noted() == StopEvent("", "shutdown", T0)


def test_a_machine_is_woken_only_after_its_stop_is_on_disk(bench: Bench) -> None:
    go = threading.Event()
    bench.store.submit(lambda tx: go.wait(10))
    bench.event(EventKind.STOPPED, "crashed")
    assert len(bench.queue) == 0
    go.set()
    wait_for(lambda: len(bench.queue))
    assert bench.woken() == {ID}
    assert bench.noted() is not None


@pytest.mark.parametrize("kind", [kind for kind in EventKind if kind not in (EventKind.STOPPED, EventKind.REBOOT)])
def test_every_other_event_wakes_its_machine(bench: Bench, kind: EventKind) -> None:
    bench.event(kind)
    assert bench.woken() == {ID}
    assert bench.noted() is None


def test_a_stop_of_a_domain_that_is_none_of_ours_is_nothing(bench: Bench) -> None:
    bench.source.on_event(DomainEvent("f5d1ad3c-0000-4000-8000-000000000000", EventKind.STOPPED, "crashed"))
    assert bench.noted() is None


def test_a_connection_that_comes_or_goes_wakes_everybody(bench: Bench) -> None:
    bench.source.on_connected()
    assert bench.woken() == {ID, OTHER}
    bench.source.on_disconnected("gone")
    assert bench.woken() == {ID, OTHER}
    assert bench.reachable == [True, False]


def test_wake_all(bench: Bench) -> None:
    wake_all(bench.store, bench.queue)
    assert bench.woken() == {ID, OTHER}


def test_the_resync_looks_again_and_again_until_it_is_stopped(bench: Bench) -> None:
    resync = Resync(bench.store, bench.queue, FakeHypervisor().connect, period=0.01)
    resync.start()
    for _ in range(2):
        wait_for(lambda: len(bench.queue) == 2)  # neither has a domain
        assert bench.woken() == {ID, OTHER}
    resync.stop()
    assert not resync.is_alive()


def test_the_resync_wakes_who_is_not_listed_as_what_its_domain_is(bench: Bench) -> None:
    hypervisor = FakeHypervisor()
    connection = hypervisor.connect()
    for each in (ID, OTHER):
        connection.define(f"<domain><uuid>{each}</uuid></domain>")
        connection.start(each)
        listed(bench.store, each, pb.MACHINE_RUNNING)
    resync = Resync(bench.store, bench.queue, hypervisor.connect, period=3600)
    rounds = [woken_by(resync, bench) for _ in range(TURN)]
    assert sorted(map(sorted, rounds)) == [[]] * (TURN - 2) + sorted([[ID], [OTHER]]), "everybody has one turn"
    hypervisor.kill_qemu(ID)
    assert all(ID in woken_by(resync, bench) for _ in range(TURN))
    listed(bench.store, ID, pb.MACHINE_SUSPENDED)
    bench.store.write(lambda tx: tx.set_deleted(OTHER, T0))
    assert sum(ID in woken_by(resync, bench) for _ in range(TURN)) == 1
    assert all(OTHER in woken_by(resync, bench) for _ in range(TURN)), "one that is being deleted is never at rest"


def test_the_resync_says_when_libvirt_cannot_be_asked(bench: Bench) -> None:
    hypervisor = FakeHypervisor()
    hypervisor.set_reachable(False)
    resync = Resync(bench.store, bench.queue, hypervisor.connect, period=3600)
    with pytest.raises(Unreachable):
        resync.once()


def test_a_resync_that_waits_is_stopped_at_once(bench: Bench) -> None:
    resync = Resync(bench.store, bench.queue, FakeHypervisor().connect, period=3600)
    resync.start()
    resync.stop()
    assert not resync.is_alive()
    assert len(bench.queue) == 0


def listed(store: Store, machine_id: str, state: pb.MachineState) -> None:
    """Let the list show a state."""
    status = pb.MachineStatus(state=state)
    store.write(lambda tx: tx.record_pass(machine_id, status=status, run=Run(), reasons=(), observed_generation=1))


def woken_by(resync: Resync, bench: Bench) -> set[str]:
    resync.once()
    return bench.woken()


def test_a_network_wakes_the_machines_on_it(bench: Bench) -> None:
    row = nic_row(machine=OTHER, backing=NicBackend("h", "network", "lan"))
    bench.store.write(lambda tx: tx.forget(OTHER))
    bench.store.write(lambda tx: tx.insert(machine(row, id=OTHER)))
    bench.woken()
    bench.source.on_network("wan")
    bench.source.on_network("lan")
    wait_for(lambda: len(bench.queue))
    assert bench.woken() == {OTHER}


def test_a_network_that_comes_lets_those_go_on_that_wait_for_it(bench: Bench) -> None:
    row = nic_row(machine=OTHER)
    bench.store.write(lambda tx: tx.forget(OTHER))
    bench.store.write(lambda tx: tx.insert(machine(row, id=OTHER)))
    bench.store.write(lambda tx: tx.set_backing(OTHER, row.key, None, "the network lan does not run", problem_at=1))
    bench.woken()
    bench.source.on_network("lan")
    wait_for(lambda: len(bench.queue))
    assert bench.woken() == {OTHER}
    record = bench.store.machine(OTHER)
    assert record is not None
    assert record.attachments[0].problem_at == 0, "it is tried at once"


def test_a_guest_that_resets_without_end_is_looked_at_once_a_second(bench: Bench, clock: Clock) -> None:
    bench.woken()
    looks = 0
    for _ in range(100):
        bench.event(EventKind.REBOOT)
        clock.now += SECOND // 10
        if ID in bench.queue.waiting(clock.now + 1):
            looks += bench.woken() == {ID}
    assert looks == 10


@pytest.mark.parametrize("after", [EventKind.RESUMED, EventKind.STARTED, EventKind.STOPPED])
def test_the_disks_at_which_a_guest_is_paused_are_known_until_it_runs_on(bench: Bench, after: EventKind) -> None:
    bench.event(EventKind.IO_ERROR, "ua-vol-a-1")
    bench.event(EventKind.NO_SPACE, "ua-vol-b-1")
    bench.event(EventKind.SUSPENDED)
    assert bench.woken() == {ID}
    assert bench.source.failed_disks(ID) == {"ua-vol-a-1": False, "ua-vol-b-1": True}
    assert bench.source.failed_disks(OTHER) == {}
    bench.event(after)
    assert bench.source.failed_disks(ID) == {}


def test_what_was_seen_before_libvirt_was_lost_is_not_believed(bench: Bench) -> None:
    bench.event(EventKind.IO_ERROR, "ua-vol-a-1")
    bench.source.on_connected()
    assert bench.source.failed_disks(ID) == {}
