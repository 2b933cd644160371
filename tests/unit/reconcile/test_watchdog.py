"""Whether the lanes are at work, as the watch over them says; their replacement is tested in tests/contract."""

from __future__ import annotations

import threading
import time
from unittest.mock import Mock

from sri_libvirt.reconcile import watchdog
from sri_libvirt.reconcile.lane import Loop
from sri_libvirt.reconcile.queue import WakeQueue
from sri_libvirt.reconcile.watchdog import Watchdog


def watch(queue: WakeQueue) -> Watchdog:
    return Watchdog(Mock(spec=Loop, queue=queue, call_deadline=1), 2, period=0.01)


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
