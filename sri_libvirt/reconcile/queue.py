"""Which machine is looked at next: a queue of (machine, time) in which a machine stands at most once.

A machine that is being worked on is not handed out again until it is done; a wake meanwhile is kept. One whose call is
late is held: it is handed out, and whoever takes it asks which calls of it are still out. Why a machine is woken does
not belong here (that is `sources.py`).
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable


class WakeQueue:
    """Thread-safe. Times are integer Unix nanoseconds of `clock`; a wait in `take` is re-computed from the clock."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._heap: list[tuple[int, int, str]] = []
        self._due: dict[str, int] = {}
        self._busy: set[str] = set()
        self._held: dict[str, list[str]] = {}
        self._counter = 0
        self._closed = False

    def wake(self, machine_id: str, at: int | None = None) -> None:
        """Look at the machine at `at` (now if None); an earlier wake of it stands."""
        with self._changed:
            time = self._clock() if at is None else at
            if machine_id in self._due and self._due[machine_id] <= time:
                return
            self._due[machine_id] = time
            self._push(machine_id, time)
            self._changed.notify()

    def take(self) -> str | None:
        """Wait for the next machine that is due and not busy, and hand it out; None once the queue is closed."""
        with self._changed:
            while not self._closed:
                wait = self._next_due()
                if isinstance(wait, str):
                    del self._due[wait]
                    self._busy.add(wait)
                    return wait
                self._changed.wait(wait)
            return None

    def done(self, machine_id: str) -> None:
        """The machine may be handed out again."""
        with self._changed:
            self._busy.discard(machine_id)
            if machine_id in self._due:
                self._push(machine_id, self._due[machine_id])
                self._changed.notify()

    def hold(self, machine_id: str, call: str) -> None:
        """Whoever worked on the machine is late in this call: hand it out at once to another, who asks `held`."""
        with self._changed:
            self._held.setdefault(machine_id, []).append(call)
            self._busy.discard(machine_id)
            self._due[machine_id] = self._clock()
            self._push(machine_id, self._due[machine_id])
            self._changed.notify()

    def release(self, machine_id: str, call: str) -> None:
        """The late call has come back: look at the machine now."""
        with self._changed:
            self._held[machine_id].remove(call)
            if not self._held[machine_id]:
                del self._held[machine_id]
        self.wake(machine_id)

    def held(self, machine_id: str) -> tuple[str, ...]:
        """Late calls of the machine that are still out. Once it is empty, what is read of the domain is later."""
        with self._changed:
            return tuple(self._held.get(machine_id, ()))

    def close(self) -> None:
        """Hand out nothing more; wakes every waiting `take`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        """Machines that wait, due or not."""
        with self._changed:
            return len(self._due)

    def _push(self, machine_id: str, time: int) -> None:
        self._counter += 1
        heapq.heappush(self._heap, (time, self._counter, machine_id))

    def _next_due(self) -> str | float | None:
        """The machine to hand out now, or how many seconds to wait (None: until something changes)."""
        while self._heap:
            time, _, machine_id = self._heap[0]
            if self._due.get(machine_id) != time or machine_id in self._busy:
                heapq.heappop(self._heap)  # outdated, or put back by done()
                continue
            delay = time - self._clock()
            if delay > 0:
                return delay / 1e9
            heapq.heappop(self._heap)
            return machine_id
        return None
