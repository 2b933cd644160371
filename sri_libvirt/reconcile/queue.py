"""Which machine is looked at next: a queue of (machine, time) in which a machine stands at most once.

A machine whose guest is to go is urgent: it is handed out before all others, and there are lanes that take no others,
so that no stop and no delete ever waits behind starts. A machine that is being worked on is not handed out again until
it is done; a wake meanwhile is kept. One whose work is late is held: it is handed out, and whoever takes it asks what
of it is still out. Why a machine is woken does not belong here (that is `sources.py`).
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

_Heap = list[tuple[int, int, str]]


@dataclass(frozen=True, slots=True)
class _Due:
    """When a machine is to be looked at, in which of the two heaps it stands, and from when on it could be taken."""

    time: int
    urgent: bool
    since: int = field(default=0, compare=False)


@dataclass(slots=True)
class _Rank:
    """One heap, and who waits for it."""

    changed: threading.Condition
    heap: _Heap = field(default_factory=list)


class WakeQueue:
    """Thread-safe. Times are integer Unix nanoseconds of `clock`; a wait in `take` is re-computed from the clock.

    `urgent` tells whether a machine's guest is to go; it is asked at each wake and must return at once.
    """

    def __init__(self, clock: Callable[[], int], urgent: Callable[[str], bool] = lambda _: False) -> None:
        self.urgent = urgent
        self._clock = clock
        self._lock = threading.Lock()
        self._usual = _Rank(threading.Condition(self._lock))
        self._first = _Rank(threading.Condition(self._lock))
        self._due: dict[str, _Due] = {}
        self._busy: set[str] = set()
        self._held: dict[str, list[str]] = {}
        self._rests: dict[str, int] = {}
        self._since: dict[str, int] = {}
        self._counter = 0
        self._closed = False

    def wake(self, machine_id: str, at: int | None = None, *, asked: bool = False) -> None:
        """Look at the machine at `at` (now if None); an earlier wake of it stands.

        `asked`: for something else than before, so that its rest is over.
        """
        urgent = self.urgent(machine_id)
        with self._lock:
            if asked:
                self._rests.pop(machine_id, None)
            time = self._clock() if at is None else at
            old = self._due.get(machine_id)
            if old is not None and old.time <= time:
                if old.urgent or not urgent:
                    return
                time = old.time
            self._push(machine_id, _Due(time, urgent))

    def take(self, urgent_only: bool = False) -> str | None:
        """Wait for the next machine that is due and not busy, and hand it out; None once the queue is closed."""
        mine = self._first if urgent_only else self._usual
        with self._lock:
            while not self._closed:
                wait = self._next_due(urgent_only)
                if isinstance(wait, str):
                    self._since[wait] = self._due.pop(wait).since
                    self._rests.pop(wait, None)
                    self._busy.add(wait)
                    return wait
                mine.changed.wait(wait)
            return None

    def since(self, machine_id: str) -> int:
        """From when on a machine that is handed out could have been; now of another."""
        with self._lock:
            return self._since.get(machine_id) or self._clock()

    def done(self, machine_id: str) -> None:
        """The machine may be handed out again."""
        urgent = self.urgent(machine_id)
        with self._lock:
            self._busy.discard(machine_id)
            self._since.pop(machine_id, None)
            if machine_id in self._due:
                self._push(machine_id, _Due(self._due[machine_id].time, urgent))

    def rest(self, machine_id: str, until: int) -> None:
        """Whatever wakes the machine that is worked on, nobody takes it before that, unless its guest is to go."""
        with self._lock:
            self._rests[machine_id] = until

    def hold(self, machine_id: str, work: str) -> None:
        """Whoever works on the machine is late in this: hand it out at once to another, who asks `held`."""
        urgent = self.urgent(machine_id)
        with self._lock:
            self._held.setdefault(machine_id, []).append(work)
            self._busy.discard(machine_id)
            self._push(machine_id, _Due(self._clock(), urgent))

    def release(self, machine_id: str, work: str) -> None:
        """What was late has come back: look at the machine now."""
        with self._lock:
            self._held[machine_id].remove(work)
            if not self._held[machine_id]:
                del self._held[machine_id]
        self.wake(machine_id)

    def held(self, machine_id: str) -> tuple[str, ...]:
        """Late work on the machine that is still out. Once it is empty, what is read of the domain is later."""
        with self._lock:
            return tuple(self._held.get(machine_id, ()))

    def waiting(self, before: int) -> dict[str, int]:
        """Machines that could have been taken before that time and wait for a lane, each with since when."""
        with self._lock:
            return {each: due.since for each, due in self._due.items() if due.since < before and each not in self._busy}

    def depth(self) -> int:
        """Machines that wait for a lane: those that are to be looked at later do not."""
        return len(self.waiting(self._clock() + 1))

    def close(self) -> None:
        """Hand out nothing more; wakes every waiting `take`."""
        with self._lock:
            self._closed = True
            self._usual.changed.notify_all()
            self._first.changed.notify_all()

    def __len__(self) -> int:
        """Machines that are to be looked at, now or later."""
        with self._lock:
            return len(self._due)

    def _push(self, machine_id: str, due: _Due) -> None:
        if not due.urgent:
            due = replace(due, time=max(due.time, self._rests.get(machine_id, 0)))
        self._due[machine_id] = replace(due, since=max(due.time, self._clock()))
        self._counter += 1
        heapq.heappush((self._first if due.urgent else self._usual).heap, (due.time, self._counter, machine_id))
        self._usual.changed.notify()
        if due.urgent:
            self._first.changed.notify()

    def _next_due(self, urgent_only: bool) -> str | float | None:
        """The machine to hand out now, or how many seconds to wait (None: until something changes)."""
        now = self._clock()
        waits: list[float] = []
        for rank in (self._first,) if urgent_only else (self._first, self._usual):
            time = self._soonest(rank)
            if time is not None and time <= now:
                return heapq.heappop(rank.heap)[2]
            if time is not None:
                waits.append((time - now) / 1e9)
        return min(waits, default=None)

    def _soonest(self, rank: _Rank) -> int | None:
        """When the first of the heap is due that stands there still; what is outdated, or put back by done(), goes."""
        while rank.heap:
            time, _, machine_id = rank.heap[0]
            if self._due.get(machine_id) == _Due(time, rank is self._first) and machine_id not in self._busy:
                return time
            heapq.heappop(rank.heap)
        return None
