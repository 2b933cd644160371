"""The one writing thread: all works that wait are done in one SQLite transaction, with one sync of the disk, or none.

Each work has a savepoint, so that one that fails rolls back alone. Order is the promise: commit, then publish the
frames, then resolve the futures; so nobody hears of what a power loss could take back, and nobody who heard lists the
old state. What a work does, and who may ask for it, does not belong here.
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

from sri_libvirt import failpoints
from sri_libvirt.errors import StoreError
from sri_libvirt.resources import Usage
from sri_libvirt.store.database import failure
from sri_libvirt.store.frames import Frame, Listing
from sri_libvirt.store.transaction import Transaction

GROUP = 256
"""Works in one commit at most."""


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[Transaction], Any]
    future: Future[Any]
    synced: bool


class _Lost(Exception):
    """SQLite gave up the whole transaction in the middle of a work."""


class Writer:
    """Owns the writing connection from `start` to `close`. `usage` is what is claimed, as last committed."""

    def __init__(
        self, connection: sqlite3.Connection, path: Path, listing: Listing, clock: Callable[[], int], usage: Usage
    ) -> None:
        self._connection = connection
        self._path = path
        self._listing = listing
        self._clock = clock
        self.usage = usage
        self._usage_to_be = usage
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._syncs = True
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Transaction], Any], *, synced: bool = True) -> Future[Any]:
        """Queue a work; one that need not be `synced` waits for no disk. Raises StoreError once the store is closed."""
        job = _Job(work, Future(), synced)
        with self._lock:
            if self._closed:
                raise StoreError("the state database is closed: the daemon is stopping")
            self._jobs.put(job)
        return job.future

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
        with suppress(sqlite3.Error):  # the next open recovers from the log
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()

    def _take(self) -> tuple[list[_Job], bool]:
        """The works that wait, after waiting for one; and whether more may come."""
        group: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            if job.future.set_running_or_notify_cancel():
                group.append(job)
            if len(group) >= GROUP or self._jobs.empty():
                return group, True
            job = self._jobs.get()
        return group, False

    def _perform(self, group: list[_Job]) -> None:
        pending: dict[str, Frame | None] = {}
        self._usage_to_be = self.usage
        try:
            self._sync(any(job.synced for job in group))
            self._connection.execute("BEGIN IMMEDIATE")
            answers = [self._attempt(job, pending) for job in group]
            self._connection.execute("COMMIT")
        except Exception as error:
            self._abandon(group, error)
            return
        self._listing.publish(pending)
        self.usage = self._usage_to_be
        for job, (result, problem) in zip(group, answers, strict=True):
            problem = problem or _after(job)
            if problem is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(problem)

    def _sync(self, wanted: bool) -> None:
        """Whether the next commit syncs the disk, and with it all commits before it: they are in one log."""
        if wanted != self._syncs:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if wanted else 'NORMAL'}")
            self._syncs = wanted

    def _attempt(self, job: _Job, pending: dict[str, Frame | None]) -> tuple[Any, Exception | None]:
        """One work in its savepoint; its frames are added to `pending` if it succeeds."""
        self._connection.execute("SAVEPOINT work")
        transaction = Transaction(self._connection, self._listing, pending, self._clock, self._usage_to_be)
        try:
            failpoints.reach(f"before store.{failpoints.work_name(job.work)}", StoreError)
            result = job.work(transaction)
            changes = transaction.finish()
        except Exception as error:
            if not self._connection.in_transaction:
                raise _Lost from error
            self._connection.execute("ROLLBACK TO work")
            self._connection.execute("RELEASE work")
            return None, failure(error, self._path) if isinstance(error, sqlite3.Error) else error
        self._connection.execute("RELEASE work")
        pending.update(changes)
        self._usage_to_be = transaction.usage
        return result, None

    def _abandon(self, group: list[_Job], error: Exception) -> None:
        """Nothing of the group was stored: roll back and say so to everyone."""
        cause = error.__cause__ if isinstance(error, _Lost) else error
        with suppress(sqlite3.Error):  # if even that fails, the next group's BEGIN does, and comes here again
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        problem = (
            failure(cause, self._path)
            if isinstance(cause, sqlite3.Error)
            else StoreError(f"state database {self._path}: {cause}")
        )
        problem.__cause__ = cause
        for job in group:
            job.future.set_exception(problem)


def _after(job: _Job) -> Exception | None:
    """Pass the failpoint of a work that is on disk."""
    try:
        failpoints.reach(f"after store.{failpoints.work_name(job.work)}", StoreError)
    except StoreError as error:
        return error
    return None
