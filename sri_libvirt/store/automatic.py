"""Backups that the daemon makes by itself: one a period, the newest few kept.

What a backup is does not belong here (that is `backup.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from sri_libvirt.errors import StoreError
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import SECOND
from sri_libvirt.store import backup

log = structlog.get_logger(__name__)

QUIET = 60 * SECOND
"""No backup so soon after a start (or a failed one): the daemon has better things to do."""


class AutomaticBackups(threading.Thread):
    """A backup every `period` nanoseconds, counted over restarts; the newest `keep` stay."""

    def __init__(self, paths: StatePaths, period: int, keep: int, clock: Callable[[], int]) -> None:
        super().__init__(name="backups", daemon=True)
        self._paths = paths
        self._period = period
        self._keep = keep
        self._clock = clock
        self._ending = threading.Event()

    def run(self) -> None:
        quiet = min(QUIET, self._period)
        wait = max(self.due_in(), quiet)
        while not self._ending.wait(wait / SECOND):
            wait = self._period if self.once() else quiet

    def once(self) -> bool:
        """Make one now and drop those that are too many; False, with a word in the log, when that failed."""
        now = self._clock()
        target = backup.next_automatic(self._paths.backups, now)
        try:
            facts = backup.backup(self._paths.database, target, now)
            dropped = backup.prune(self._paths.backups, self._keep)
        except (StoreError, OSError) as error:
            log.warning("no backup of the state database was made; it is tried again", error=str(error))
            return False
        log.info("backed up", file=str(target), machines=facts.machines, bytes=facts.bytes, dropped=len(dropped))
        return True

    def stop(self) -> None:
        """End the thread; returns when it has."""
        self._ending.set()
        self.join()

    def due_in(self) -> int:
        """Nanoseconds until the next one is due, never more than a period; not above 0 when it is overdue."""
        newest = next(reversed(backup.automatic(self._paths.backups)), None)
        now = self._clock()
        try:
            made = backup.copied_at(newest) if newest else 0
        except StoreError:
            made = 0  # what cannot be read is no backup
        return min(made, now) + self._period - now
