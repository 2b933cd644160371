"""The wake queue: order, no double hand-out, no lost wake."""

from __future__ import annotations

import threading

from sri_libvirt.reconcile.queue import WakeQueue


class Clock:
    def __init__(self) -> None:
        self.now = 100

    def __call__(self) -> int:
        return self.now


def test_due_machines_come_in_the_order_of_their_times() -> None:
    clock = Clock()
    queue = WakeQueue(clock)
    queue.wake("late", 90)
    queue.wake("early", 80)
    assert [queue.take(), queue.take()] == ["early", "late"]


def test_an_earlier_wake_stands_and_a_sooner_one_wins() -> None:
    clock = Clock()
    queue = WakeQueue(clock)
    queue.wake("a", 90)
    queue.wake("a", 500)
    assert queue.take() == "a"
    queue.done("a")
    assert len(queue) == 0
    queue.wake("b", 5000)
    queue.wake("b")
    assert queue.take() == "b"
    queue.done("b")
    assert len(queue) == 0


def test_a_busy_machine_is_not_handed_out_but_its_wake_is_kept() -> None:
    clock = Clock()
    queue = WakeQueue(clock)
    queue.wake("a")
    assert queue.take() == "a"
    queue.wake("a")
    queue.wake("b")
    assert queue.take() == "b"
    queue.done("a")
    assert queue.take() == "a"


def test_a_waiting_lane_is_woken_by_a_wake_and_by_close() -> None:
    queue = WakeQueue(Clock())
    got: list[str | None] = []
    first = threading.Thread(target=lambda: got.append(queue.take()))
    first.start()
    queue.wake("a")
    first.join(5)
    second = threading.Thread(target=lambda: got.append(queue.take()))
    second.start()
    queue.close()
    second.join(5)
    assert got == ["a", None]


def test_a_wake_in_the_future_waits_for_its_time() -> None:
    clock = Clock()
    queue = WakeQueue(clock)
    queue.wake("a", clock.now + 10**15)
    got: list[str | None] = []
    lane = threading.Thread(target=lambda: got.append(queue.take()))
    lane.start()
    clock.now += 10**15
    queue.wake("b", clock.now)
    lane.join(5)
    assert got == ["a"]
    queue.close()


def test_a_held_machine_is_handed_to_another_at_once_and_again_when_its_call_is_back() -> None:
    queue = WakeQueue(Clock())
    queue.wake("a")
    assert queue.take() == "a"
    queue.hold("a", "start")
    assert queue.take() == "a"
    assert queue.held("a") == ("start",)
    queue.release("a", "start")  # the other one still works on it
    queue.wake("b")
    assert queue.take() == "b"
    queue.done("a")
    assert queue.take() == "a"
    assert queue.held("a") == ()


def test_a_machine_can_be_held_by_several_calls() -> None:
    queue = WakeQueue(Clock())
    queue.hold("a", "attach_device")
    queue.hold("a", "destroy")
    queue.release("a", "attach_device")
    assert queue.held("a") == ("destroy",)


# --- machines whose guest is to go ---------------------------------------------------------------


def urgent_queue(urgent: set[str]) -> WakeQueue:
    return WakeQueue(Clock(), urgent.__contains__)


def test_what_is_to_go_is_handed_out_before_what_was_due_earlier() -> None:
    queue = urgent_queue({"stop"})
    queue.wake("start", 1)
    queue.wake("stop", 90)
    assert [queue.take(), queue.take()] == ["stop", "start"]


def test_a_lane_for_stops_takes_nothing_else() -> None:
    queue = urgent_queue({"stop"})
    queue.wake("start")
    got: list[str | None] = []
    lane = threading.Thread(target=lambda: got.append(queue.take(urgent_only=True)))
    lane.start()
    queue.wake("stop")
    lane.join(10)
    assert got == ["stop"]
    assert queue.take() == "start"


def test_a_wake_of_a_usual_machine_is_not_lost_on_the_lane_for_stops() -> None:
    queue = urgent_queue(set())
    got: list[str | None] = []
    stops = threading.Thread(target=lambda: queue.take(urgent_only=True))
    usual = threading.Thread(target=lambda: got.append(queue.take()))
    stops.start()
    usual.start()
    queue.wake("start")
    usual.join(10)
    assert got == ["start"]
    queue.close()
    stops.join(10)
    assert not stops.is_alive()


def test_a_machine_that_waits_becomes_urgent_by_a_wake() -> None:
    urgent: set[str] = set()
    queue = urgent_queue(urgent)
    queue.wake("a", 10)
    queue.wake("b", 20)
    urgent.add("b")
    queue.wake("b")
    assert [queue.take(), queue.take()] == ["b", "a"]
    assert len(queue) == 0


def test_a_busy_machine_becomes_urgent_by_a_wake_meanwhile() -> None:
    urgent: set[str] = set()
    queue = urgent_queue(urgent)
    queue.wake("a")
    assert queue.take() == "a"
    urgent.add("a")
    queue.wake("a")
    queue.wake("b", 1)
    queue.done("a")
    assert [queue.take(), queue.take()] == ["a", "b"]


def test_a_machine_that_is_urgent_no_more_goes_back_to_the_others() -> None:
    urgent = {"a"}
    queue = urgent_queue(urgent)
    queue.wake("a")
    assert queue.take(urgent_only=True) == "a"
    urgent.clear()
    queue.done("a")
    queue.wake("a")
    queue.wake("b", 1)
    assert [queue.take(), queue.take()] == ["b", "a"]


def test_who_sleeps_does_not_wait_for_a_lane() -> None:
    clock = Clock()
    queue = WakeQueue(clock)
    queue.wake("due", 90)
    queue.wake("now")
    queue.wake("sleeper", 500)
    assert (queue.depth(), len(queue)) == (2, 3)
    assert queue.take() == "due"
    assert queue.depth() == 1
    clock.now = 500
    assert queue.depth() == 2


def test_who_waits_for_a_lane_since_when() -> None:
    clock = Clock()
    queue = WakeQueue(clock)
    for machine_id, at in (("busy", 1), ("waits", 10), ("is not due", 150)):
        queue.wake(machine_id, at)
    assert queue.take() == "busy"
    queue.wake("busy", 2)
    assert queue.waiting(100) == {}
    assert queue.waiting(101) == {"waits": 100}, "since it was woken, whatever time was named"
    clock.now = 160
    queue.done("busy")
    assert queue.waiting(160) == {"waits": 100, "is not due": 150}
    assert queue.waiting(161) == {"waits": 100, "is not due": 150, "busy": 160}


def test_a_machine_at_rest_is_woken_by_nothing_but_what_is_asked_or_to_go() -> None:
    clock, gone = Clock(), set[str]()
    queue = WakeQueue(clock, gone.__contains__)
    for end in ("time", "asked", "urgent"):
        queue.wake("a")
        assert queue.take() == "a"
        queue.wake("a")  # an event of its own
        queue.rest("a", clock.now + 500)
        queue.done("a")
        queue.wake("a")
        queue.wake("other")
        assert queue.take() == "other"
        queue.done("other")
        assert queue.waiting(clock.now + 1) == {}
        if end == "time":
            clock.now += 500
        elif end == "asked":
            queue.wake("a", asked=True)
        else:
            gone.add("a")
            queue.wake("a")
        assert queue.take() == "a"
        queue.done("a")
        assert len(queue) == 0
