"""Reading the store: a pool of read connections for the daemon, and the CLI's read-only view of the file.

Nothing here writes or migrates, so the CLI works beside a running daemon and after its end.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from sri_libvirt import clock as clocks
from sri_libvirt.devices import ImagePin
from sri_libvirt.errors import StoreError
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import META_DOUBT, Attachment, CachedImage, Departed, Event, Key, Machine
from sri_libvirt.resources import Claim, Usage
from sri_libvirt.store import database, images, queries, schema

EVENTS = 1000
"""Events read of one machine unless asked otherwise; more than are kept."""


class Reader:
    """The committed state, from any thread. A connection is used by one thread at a time and kept for the next."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False

    @classmethod
    def open(cls, paths: StatePaths) -> Reader:
        """Read a state directory. Raises StoreError if there is no store or it has another schema."""
        reader = cls(paths.database)
        with reader._snapshot() as connection:
            schema.check(connection, str(paths.database))
        return reader

    @property
    def instance(self) -> str:
        """UUID of this store."""
        return self.meta("instance") or ""

    def machine(self, machine_id: str) -> Machine | None:
        """The machine, or None."""
        with self._snapshot() as connection:
            return queries.machine(connection, machine_id)

    def attachment(self, machine_id: str, key: Key) -> Attachment | None:
        """One device of a machine, or None."""
        with self._snapshot() as connection:
            return queries.attachment(connection, machine_id, key)

    def machines(self) -> list[Machine]:
        """All machines, oldest first."""
        with self._snapshot() as connection:
            return queries.machines(connection)

    def readable(self) -> tuple[list[Machine], dict[str, str]]:
        """The machines whose record can be read, oldest first; and, by id, what is wrong with the others."""
        with self._snapshot() as connection:
            return queries.readable(connection)

    def machine_ids(self) -> list[str]:
        """Ids of all machines, oldest first."""
        with self._snapshot() as connection:
            return queries.machine_ids(connection)

    def stranger_with(self, may_be: Callable[[str], bool], besides: str) -> str:
        """The machine, other than that one, whose guest has what may be it open without a record; "" for none."""
        with self._snapshot() as connection:
            return queries.stranger_with(connection, may_be, besides)

    def holder(self, handle: str, besides: str) -> str:
        """The machine, other than that one, that has a volume of this handle ready, wanted or not; "" for none."""
        with self._snapshot() as connection:
            return queries.holder(connection, handle, "", besides)

    def mac_owner(self, mac: str) -> tuple[str, str] | None:
        """The machine and network interface that hold a MAC, plugged or not."""
        with self._snapshot() as connection:
            return queries.mac_owner(connection, mac)

    def mac_user(self, besides: Attachment, *, ready: bool) -> tuple[str, str] | None:
        """Another machine and network interface that has the MAC of this one; `ready`: and has it ready."""
        with self._snapshot() as connection:
            return queries.mac_user(connection, besides.mac, besides.machine, besides.name, ready=ready)

    def duid_user(self, duid: str, besides: Attachment) -> tuple[str, str] | None:
        """Another machine and network interface that has an address for this DUID ready."""
        with self._snapshot() as connection:
            return queries.duid_user(connection, duid, besides.machine, besides.name)

    def prepared_volumes(self) -> list[Attachment]:
        """Wanted volumes of all machines that are ready."""
        with self._snapshot() as connection:
            return queries.prepared_volumes(connection)

    def prepared_nics(self) -> list[Attachment]:
        """Wanted network interfaces of all machines that are ready."""
        with self._snapshot() as connection:
            return queries.prepared_nics(connection)

    def image(self, name: str) -> CachedImage | None:
        """A file of the image cache, by what was fetched; None if it is not there."""
        with self._snapshot() as connection:
            return images.get(connection, name)

    def images(self) -> list[tuple[CachedImage, int]]:
        """The image cache, the longest unused first, each with how many machines need it."""
        with self._snapshot() as connection:
            return images.every(connection)

    def reference(self, name: str) -> ImagePin | None:
        """What an image reference by content holds; None where that is not known any more."""
        with self._snapshot() as connection:
            return images.reference(connection, name)

    def gone(self) -> set[str]:
        """Ids of machines that were here and are no more, as far back as that is kept."""
        with self._snapshot() as connection:
            return queries.gone(connection)

    def departed(self) -> list[Departed]:
        """Machines that were here and are no more, the latest first, as far back as that is kept."""
        with self._snapshot() as connection:
            return queries.departed(connection)

    def events(self, machine_id: str, limit: int = EVENTS) -> list[Event]:
        """The newest events of a machine, oldest first; also of one that is gone since a short time."""
        with self._snapshot() as connection:
            return queries.events(connection, machine_id, limit)

    def timelines(
        self, machines: Sequence[str] | None = None, *, since: int, after: int, beyond: int, most: int
    ) -> list[tuple[int, Event]]:
        """Lines of these machines, or of all, also of those that are gone, in their order, each with its number: those
        with a number above `after`, or without one those that came at `since` (steady time) or later; and those that
        came once more at `since` or later. Of all these the first `most` with a number above `beyond`.
        """
        with self._snapshot() as connection:
            return queries.timelines(connection, machines, since, after, beyond, most)

    def claims(self, machine_id: str) -> list[Claim]:
        """What a machine has of the host."""
        with self._snapshot() as connection:
            return queries.claims(connection, machine_id)

    def all_claims(self) -> dict[str, list[Claim]]:
        """What each machine has of the host, by id."""
        with self._snapshot() as connection:
            return queries.all_claims(connection)

    def usage(self) -> Usage:
        """What all machines have of the host, and how many there are of each class."""
        with self._snapshot() as connection:
            return queries.usage(connection)

    def clock(self) -> clocks.SteadyClock:
        """The clock that the stored times are of; by the wall clock where no daemon has run in this boot."""
        stored = clocks.of_text(self.meta(clocks.META_CLOCK))
        if stored is None:
            return clocks.SteadyClock.by(time.time_ns)
        from sri_libvirt.host.boot import Host  # whoever is shown no times does not wait for it

        return clocks.SteadyClock.of(stored, lambda: 0, clocks.HostClocks(Host().boot_id))

    def meta(self, key: str) -> str | None:
        """A value of the store as a whole."""
        with self._snapshot() as connection:
            return queries.meta(connection, key)

    def file(self) -> tuple[int, int] | None:
        """Which file has the database's name now: device and inode; None when there is none."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    @property
    def doubt(self) -> str:
        """Why this store, which is empty, may be the wrong one (`reconcile/beginning.py`); "" of any other."""
        words = self.meta(META_DOUBT)
        return words if words and not self.machine_ids() else ""

    def close(self) -> None:
        """Close the connections. Reads after that raise StoreError."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._closed:
                raise StoreError("the state database is closed: the daemon is stopping")
            connection = self._idle.pop() if self._idle else None
        connection = connection or database.open_reading(self._path)
        try:
            with database.failures(self._path), database.snapshot(connection):
                yield connection
        except BaseException:
            connection.close()
            raise
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()
