"""Work that may hang, on threads that can be left behind: nobody waits for it longer than a moment.

A look at a file takes no time, or for ever: `open` and `stat` of a dead NFS server or disk return when that is back,
and nothing ends them before, least of all a signal to a thread of ours. A child process would cost more than the look
(a fork of this large process, or an interpreter), and could not be ended either; a thread that waits in the kernel
costs nothing and holds nobody up (it does not hold Python's lock). So there is a thread for each piece of work, and
what bounds them is the place: where a piece of work is late no other is begun until it is back. Those who ask meanwhile
are told at once since when that is so; the late one's result is kept for who asks for the same again.

The work must have no effect but its result, for who asked may be gone when it ends. What it is, and what its result
means, does not belong here, nor work that is long because there is much to do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from sri_libvirt.errors import NotReady

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds that a piece of work is waited for; after that it is late."""

MOST = 32
"""Pieces of work under way at a time, late or not."""

KEPT = 60.0
"""Seconds that the result of late work is kept for: who waits for it asks again every few seconds."""

SLOW = "slow-storage"
ADVICE = (
    "A look at a file takes no time where its file system works: see findmnt, the server behind it and the kernel's "
    "log. It goes on by itself once that answers."
)


@dataclass(slots=True)
class _Look:
    """`begun` is in Unix nanoseconds, `ended` in seconds of `time.monotonic`, 0 until then."""

    what: str
    begun: int
    over: threading.Event = field(default_factory=threading.Event)
    late: bool = False
    ended: float = 0.0
    result: Callable[[], Any] = lambda: None


class Looks:
    """All such work of one process. Thread-safe. `clock` gives the Unix nanoseconds that people are told."""

    def __init__(self, clock: Callable[[], int] = time.time_ns, patience: float = PATIENCE) -> None:
        self._clock = clock
        self._patience = patience
        self._lock = threading.Lock()
        self._looks: dict[tuple[str, Hashable], _Look] = {}

    def result(self, place: str, key: Hashable, what: str, work: Callable[[], T]) -> T:
        """Do a piece of work at a place and return its result, or raise what it raised; NotReady when it is late.

        Whoever asks for the same `key` there meanwhile gets the same result. `what` says in words what is done, as in
        "looking at /images/a.raw", and `place` where: "the image directory /images".
        """
        with self._lock:
            look = self._looks.get((place, key))
            if look is None or (look.ended and time.monotonic() > look.ended + KEPT):
                self._refuse(place)
                look = self._begin(place, key, what, work)
        look.over.wait(0.0 if look.late else self._patience)
        with self._lock:
            if not look.ended:
                look.late = True
                raise self._late(place, look)
            if self._looks.get((place, key)) is look:
                del self._looks[place, key]
        result: T = look.result()
        return result

    def late(self) -> int:
        """How many pieces of work are late and not back yet."""
        with self._lock:
            return sum(look.late and not look.ended for look in self._looks.values())

    def _refuse(self, place: str) -> None:
        """Raise NotReady where nothing may be begun."""
        under_way = {each: look for each, look in self._looks.items() if not look.ended}
        for (where, _), look in under_way.items():
            if where == place and look.late:
                raise self._late(place, look)
        if len(under_way) >= MOST:
            raise NotReady(f"{len(under_way)} looks at files are under way, and no more are begun", ADVICE, SLOW)

    def _late(self, place: str, look: _Look) -> NotReady:
        since = datetime.fromtimestamp(look.begun // 10**9, UTC)
        problem = (
            f"{look.what} goes on since {since:%Y-%m-%d %H:%M:%S} UTC, and nothing more is begun at {place} before"
        )
        return NotReady(f"{problem} it is back", ADVICE, SLOW)

    def _begin(self, place: str, key: Hashable, what: str, work: Callable[[], T]) -> _Look:
        now = time.monotonic()
        self._looks = {each: look for each, look in self._looks.items() if not look.ended or now <= look.ended + KEPT}
        look = self._looks[place, key] = _Look(what, self._clock())

        def run() -> None:
            outcome = _outcome(work)
            with self._lock:
                look.result, look.ended = outcome, time.monotonic()
            look.over.set()

        threading.Thread(target=run, name="look", daemon=True).start()
        return look


def _outcome(work: Callable[[], T]) -> Callable[[], T]:
    """Do it; what gives its result, or raises its error, as often as it is asked."""
    try:
        result = work()
    except BaseException as error:
        failure = error

        def fail() -> T:
            raise failure

        return fail
    return lambda: result
