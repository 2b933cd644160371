"""Slow work off the lanes: probes of backends, pulls of images. On threads of its own, and nobody waits for its end.

Whoever needs what such work finds asks for it where that is kept; where it is not there yet a job is begun, and the
machine that asked is woken at its end. A job leaves what it found with who began it, failures too; here nothing is
kept. A few jobs run at a time, of one group one, and of what else some have in common no more than they say; the rest
waits in the order in which it came. A group of which it is doubtful that it answers never gets the last thread of
several, so that the others have one whatever hangs.

How long a job may take is its own affair: it is a child process with a deadline, which `process.Cancel` ends at a stop.
What may hang in this process itself does not belong here (that is `looks.py`), nor when a job is due.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

import structlog

from sri_libvirt.errors import NotReady

log = structlog.get_logger(__name__)

THREADS = 8

MOST = 4096
"""Jobs that wait or run: more than a host has devices."""


@dataclass(slots=True)
class _Job:
    key: Hashable
    bounds: Mapping[Hashable, int]
    work: Callable[[], None]
    doubtful: bool
    waiters: set[str] = field(default_factory=set)
    runs: bool = False


class Jobs:
    """All slow work of one process. Thread-safe. `wake` is told of each machine that waited for a job at its end."""

    def __init__(self, wake: Callable[[str], None] = lambda _: None, threads: int = THREADS) -> None:
        self._wake = wake
        self._threads = threads
        self._lock = threading.Condition()
        self._jobs: dict[Hashable, _Job] = {}
        self._closed = False

    def begin(
        self,
        key: Hashable,
        work: Callable[[], None],
        *,
        waiter: str,
        group: Hashable,
        bounds: Mapping[Hashable, int] | None = None,
        doubtful: bool = False,
    ) -> None:
        """Have a piece of work done soon, unless it waits or runs already; `waiter` is woken at its end, "" is nobody.

        `bounds` has what it has in common with others, and how many of all who name that may run when this one begins.
        Raises NotReady when too much waits, or nothing is begun any more.
        """
        with self._lock:
            job = self._jobs.get(key)
            if job is None:
                if self._closed or len(self._jobs) >= MOST:
                    # No code of those whose end wakes: nobody is woken for this, so it is tried again by time.
                    raise NotReady(f"{len(self._jobs)} pieces of slow work wait, and no more are taken")
                job = self._jobs[key] = _Job(key, {**(bounds or {}), group: 1}, work, doubtful)
            if waiter:
                job.waiters.add(waiter)
            self._hand_out()

    def is_under_way(self, key: Hashable) -> bool:
        """Whether it waits or runs."""
        with self._lock:
            return key in self._jobs

    def counts(self) -> tuple[int, int]:
        """How many run, and how many wait."""
        with self._lock:
            running = sum(job.runs for job in self._jobs.values())
            return running, len(self._jobs) - running

    def stop(self, seconds: float) -> None:
        """Begin nothing more, and wait so long for what runs; what is left then ends with the process."""
        end = time.monotonic() + seconds
        with self._lock:
            self._closed = True
            self._jobs = {key: job for key, job in self._jobs.items() if job.runs}
            while self._jobs and (left := end - time.monotonic()) > 0:
                self._lock.wait(left)

    def _hand_out(self) -> None:
        """Begin what may be begun. The caller holds the lock."""
        running = [job for job in self._jobs.values() if job.runs]
        shared = Counter(each for job in running for each in job.bounds)
        doubtful = Counter(job.doubtful for job in running)[True]
        threads = self._threads - len(running)
        for job in self._jobs.values():
            if threads <= 0:
                return
            if job.runs or (job.doubtful and doubtful >= max(self._threads - 1, 1)):
                continue
            if any(shared[each] >= most for each, most in job.bounds.items()):
                continue
            shared.update(job.bounds.keys())
            doubtful += job.doubtful
            threads -= 1
            job.runs = True
            threading.Thread(target=self._run, args=(job,), name="job", daemon=True).start()

    def _run(self, job: _Job) -> None:
        try:
            job.work()
        except Exception:
            log.exception("a bug: a piece of slow work has failed")
        with self._lock:
            del self._jobs[job.key]
            if not self._closed:
                self._hand_out()
            self._lock.notify_all()
        for each in job.waiters:  # no more are added: it is not found any more
            self._wake(each)
