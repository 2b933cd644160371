"""The one writing thread: all works that wait are done in one SQLite transaction, with one sync of the disk, or none.

Each work has a savepoint, so that one that fails rolls back alone. Order is the promise: commit, then publish the
frames, then resolve the futures; so nobody hears of what a power loss could take back, and nobody who heard lists the
old state. What timelines have got by it is logged then, each line once. On a full file system only works that make room
change anything, one at a time, at the cost of the reserve, until that is whole again. What a work does, and who may ask
for it, does not belong here.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from sri_libvirt import failpoints
from sri_libvirt.errors import StoreError
from sri_libvirt.records import SECOND, Event
from sri_libvirt.resources import Usage
from sri_libvirt.store.changes import Changes
from sri_libvirt.store.database import ROOM, failure, is_full
from sri_libvirt.store.frames import Frame, Listing
from sri_libvirt.store.reserve import Reserve
from sri_libvirt.store.transaction import Transaction

log = structlog.get_logger(__name__)

GROUP = 256
"""Works in one commit at most."""

ROOM_SECONDS = 1.0
"""How often to look for room while the reserve is not whole."""


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[Transaction], Any]
    future: Future[Any]
    synced: bool
    relieving: bool


class _Lost(Exception):
    """SQLite gave up the whole transaction in the middle of a work, or had no room for it."""


class Writer:
    """Owns the writing connection from `start` to `close`. `usage` is what is claimed, as last committed."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        listing: Listing,
        clock: Callable[[], int],
        usage: Usage,
        reserve: Reserve,
    ) -> None:
        self._connection = connection
        self._path = path
        self._listing = listing
        self._clock = clock
        self.usage = usage
        self.changes = Changes()
        self._usage_to_be = usage
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._syncs = True
        self._reserve = reserve
        self._tight = not reserve.refill()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def submit(
        self, work: Callable[[Transaction], Any], *, synced: bool = True, relieving: bool = False
    ) -> Future[Any]:
        """Queue a work; one that need not be `synced` waits for no disk. Raises StoreError once the store is closed."""
        job = _Job(work, Future(), synced, relieving)
        with self._lock:
            if self._closed:
                raise StoreError("the state database is closed: the daemon is stopping")
            self._jobs.put(job)
        return job.future

    @property
    def tight(self) -> bool:
        """Whether nothing is stored but what makes room."""
        return self._tight

    def close(self) -> None:
        """Do what was submitted, fold the log into the file, close. Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        more = True
        while more:
            group, more = self._take()
            if group:
                self._perform(group)
            if self._tight:
                self._tight = not self._reserve.refill()
        with suppress(sqlite3.Error):  # the next open recovers from the log
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()

    def _take(self) -> tuple[list[_Job], bool]:
        """The works that wait, after waiting for one (or for room); and whether more may come."""
        group: list[_Job] = []
        try:
            job = self._jobs.get(timeout=ROOM_SECONDS if self._tight else None)
        except queue.Empty:
            return group, True
        while job is not None:
            if job.future.set_running_or_notify_cancel():
                group.append(job)
            if len(group) >= GROUP or self._jobs.empty():
                return group, True
            job = self._jobs.get()
        return group, False

    def _perform(self, group: list[_Job]) -> None:
        problem = self._commit(group)
        if problem is None:
            return
        relieving = [job for job in group if job.relieving] if is_full(problem) else []
        self._abandon([job for job in group if job not in relieving], problem)
        for job in relieving:
            while (problem := self._commit([job])) is not None:
                if not is_full(problem) or not self._make_room():
                    self._abandon([job], problem)
                    break

    def _make_room(self) -> bool:
        """Let the next commit begin the log anew, with a slice of the reserve; False when nothing is left of that."""
        self._tight = True
        given = self._reserve.give()
        with suppress(sqlite3.Error):  # it has no room either: the next slice is for it, too
            self._connection.execute("PRAGMA wal_checkpoint(RESTART)")
        return given

    def _commit(self, group: list[_Job]) -> Exception | None:
        """Do the works in one commit and answer them; or what nothing was stored for, and nobody answered."""
        pending: dict[str, Frame | None] = {}
        told: list[tuple[str, Event]] = []
        changed: set[str] = set()
        self._usage_to_be = self.usage
        try:
            self._sync(any(job.synced for job in group))
            self._connection.execute("BEGIN IMMEDIATE")
            answers = [self._attempt(job, pending, told, changed) for job in group]
            self._connection.execute("COMMIT")
        except Exception as error:
            with suppress(sqlite3.Error):  # if even that fails, the next group's BEGIN does, and comes here again
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            return error.__cause__ if isinstance(error, _Lost) and isinstance(error.__cause__, Exception) else error
        self._listing.publish(pending)
        self.usage = self._usage_to_be
        for job, (result, problem) in zip(group, answers, strict=True):
            problem = problem or _after(job)
            if problem is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(problem)
        self.changes.tell(changed)
        with suppress(OSError, ValueError):  # who reads the log is gone, which is no reason to store nothing more
            for machine_id, event in told:
                took = {"seconds": round(event.took / SECOND, 4)} if event.took else {}
                log.info(event.message, machine=machine_id, kind=event.kind, reason=event.reason, **took)
        return None

    def _sync(self, wanted: bool) -> None:
        """Whether the next commit syncs the disk, and with it all commits before it: they are in one log."""
        if wanted != self._syncs:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if wanted else 'NORMAL'}")
            self._syncs = wanted

    def _attempt(
        self, job: _Job, pending: dict[str, Frame | None], told: list[tuple[str, Event]], changed: set[str]
    ) -> tuple[Any, Exception | None]:
        """One work in its savepoint; if it succeeds its frames are added to `pending`, its events to `told` and the
        machines that it has changed to `changed`.
        """
        self._connection.execute("SAVEPOINT work")
        transaction = Transaction(self._connection, self._listing, pending, self._clock, self._usage_to_be)
        before = self._connection.total_changes
        try:
            failpoints.reach(f"before store.{failpoints.work_name(job.work)}", StoreError)
            result = job.work(transaction)
            changes = transaction.finish()
            if self._tight and not job.relieving and self._connection.total_changes != before:
                raise StoreError(f"state database {self._path}: its file system is full: {ROOM}")
        except Exception as error:
            if not self._connection.in_transaction or is_full(error):
                raise _Lost from error
            self._connection.execute("ROLLBACK TO work")
            self._connection.execute("RELEASE work")
            return None, failure(error, self._path) if isinstance(error, sqlite3.Error) else error
        self._connection.execute("RELEASE work")
        pending.update(changes)
        self._usage_to_be = transaction.usage
        told += transaction.events
        changed |= transaction.changed
        changed.update(changes)
        return result, None

    def _abandon(self, group: list[_Job], error: Exception) -> None:
        """Nothing of the group was stored: say so to everyone."""
        problem = (
            failure(error, self._path)
            if isinstance(error, sqlite3.Error)
            else StoreError(f"state database {self._path}: {error}")
        )
        problem.__cause__ = error
        for job in group:
            job.future.set_exception(problem)


def _after(job: _Job) -> Exception | None:
    """Pass the failpoint of a work that is on disk."""
    try:
        failpoints.reach(f"after store.{failpoints.work_name(job.work)}", StoreError)
    except StoreError as error:
        return error
    return None
