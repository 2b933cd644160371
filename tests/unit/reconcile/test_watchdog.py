"""Whether the lanes are at work, as the watch over them says; their replacement is tested in tests/contract."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from unittest.mock import Mock

import pytest

from sri_libvirt.reconcile import watchdog
from sri_libvirt.reconcile.lane import Lane, Loop
from sri_libvirt.reconcile.queue import WakeQueue
from sri_libvirt.reconcile.watchdog import Watchdog
from sri_libvirt.records import SECOND
from sri_libvirt.store import Store
from tests.unit.reconcile.world import ID, POLICY, machine


def watch(queue: WakeQueue, hangs_in_kernel: bool = False) -> Watchdog:
    loop = Mock(spec=Loop, queue=queue, call_deadline=SECOND, clock=lambda: 100 * SECOND, policy=POLICY)
    return Watchdog(loop, 1, period=0.01, hangs_in_kernel=lambda thread: hangs_in_kernel)


def test_no_problem_before_the_start_and_while_lanes_wait_for_work() -> None:
    queue = WakeQueue(lambda: 1)
    watching = watch(queue)
    assert watching.problem(time.monotonic()) == ""
    watching.start()
    assert watching.problem(time.monotonic()) == ""
    watching.stop()
    queue.close()


def test_a_lane_that_has_ended_is_named() -> None:
    queue = WakeQueue(lambda: 1)
    watching = watch(queue)
    watching.start()
    queue.close()
    for lane in watching.lanes:
        lane.join(30)
    assert watching.problem(time.monotonic()) == "ended by themselves: lane-0, lane-1"
    watching.stop()


def test_lanes_that_nobody_looks_at_are_a_problem() -> None:
    queue = WakeQueue(lambda: 1)
    watching = watch(queue)
    looked, go_on = threading.Event(), threading.Event()

    def look(_now: float) -> None:
        looked.set()
        go_on.wait()

    watching.look = look  # type: ignore[method-assign, assignment]
    watching.start()
    assert looked.wait(30)
    assert "nobody has looked" in watching.problem(time.monotonic() + watchdog.LOOKED_AT_SECONDS + 1)
    go_on.set()
    watching.stop()
    queue.close()


# --- when no lane can be replaced any more -------------------------------------------------------


@pytest.mark.parametrize(
    ("in_libvirt", "in_kernel", "mended_by_restart"),
    [(False, False, True), (True, False, False), (False, True, False), (True, True, False)],
)
def test_only_what_a_restart_mends_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, in_libvirt: bool, in_kernel: bool, mended_by_restart: bool
) -> None:
    monkeypatch.setattr(watchdog, "MOST_LATE", 3)
    queue = WakeQueue(lambda: 1)
    watching = watch(queue, in_kernel)
    watching.look = lambda now: None  # type: ignore[method-assign]  # driven by hand
    watching.start()
    begun, over = threading.Semaphore(0), threading.Event()

    def reconcile(lane: Lane) -> Callable[[str], None]:
        def hangs(machine_id: str) -> None:
            lane.calls.of_machine(machine_id)
            with ExitStack() as stack:
                stack.enter_context(lane.calls.acting("PrepareDevice"))
                if in_libvirt:
                    stack.enter_context(lane.calls.making("network"))
                begun.release()
                over.wait(30)

        return hangs

    for number in range(3):
        for lane in watching.lanes:
            monkeypatch.setattr(lane, "reconcile", reconcile(lane))
        queue.wake(f"m{number}")
        assert begun.acquire(timeout=30)
        assert watching.problem(time.monotonic()) == ""
        Watchdog.look(watching, time.monotonic() + 10)
    Watchdog.look(watching, time.monotonic() + 10)
    assert ("hang in no call of libvirt: lane-0" in watching.problem(time.monotonic())) is mended_by_restart
    over.set()
    queue.close()
    watching.stop()


# --- machines that wait for a lane ---------------------------------------------------------------


def test_reason_waiting_for_lane_is_given_once_and_its_event_too(store: Store) -> None:
    store.write(lambda tx: tx.insert(machine()))
    now = [100 * SECOND]
    queue = WakeQueue(lambda: now[0])
    loop = Mock(spec=Loop, queue=queue, call_deadline=SECOND, clock=lambda: now[0], policy=POLICY, store=store)
    watching = Watchdog(loop, 1)
    queue.wake(ID)

    def codes() -> list[str]:
        watching.tell_who_waits()
        store.write(lambda tx: None)  # what was submitted before is done
        found = store.machine(ID)
        assert found is not None
        return [reason.code for reason in found.reasons]

    now[0] += POLICY.long_wait
    assert codes() == []
    now[0] += 1
    assert codes() == ["waiting-for-lane"]
    now[0] += SECOND
    assert codes() == ["waiting-for-lane"]
    assert [(event.kind, event.reason) for event in store.events(ID)] == [("waiting", "waiting-for-lane")]
    found = store.machine(ID)
    assert found is not None
    assert found.reasons[0].since == 100 * SECOND
    assert queue.take() == ID
    now[0] += POLICY.long_wait * 2
    assert codes() == ["waiting-for-lane"], "who works on it takes it away"
    assert len(queue) == 0
