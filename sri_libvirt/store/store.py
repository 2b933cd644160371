"""The store as the daemon uses it: works for the writer's thread, reads from any thread, the listing from memory.

One process per state directory is the caller's to ensure (`paths.lock`). Waking machines does not belong here.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import DecodeError

from sri_libvirt import clock as clocks
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import ImagePin
from sri_libvirt.errors import StoreError
from sri_libvirt.host.boot import Host
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import Attachment, CachedImage, Event, Key, Machine
from sri_libvirt.resources import Usage
from sri_libvirt.store import backup, database, queries, schema
from sri_libvirt.store.changes import Changed
from sri_libvirt.store.frames import Frame, Listing
from sri_libvirt.store.reader import EVENTS, Reader
from sri_libvirt.store.reserve import Reserve
from sri_libvirt.store.transaction import Transaction
from sri_libvirt.store.writer import Writer

T = TypeVar("T")

THIS_HOST = clocks.HostClocks(Host().boot_id)


class Store:
    """All state of one provider. Made by `open`, ended by `close`. `clock` is the one that its times are of."""

    def __init__(
        self, instance: str, clock: clocks.SteadyClock, writer: Writer, reader: Reader, listing: Listing
    ) -> None:
        self.instance = instance
        self.clock = clock
        self._writer = writer
        self._reader = reader
        self._listing = listing
        self._file = reader.file()

    @classmethod
    def open(
        cls,
        paths: StatePaths,
        clock: Callable[[], int] | None = None,
        *,
        host: clocks.HostClocks = THIS_HOST,
    ) -> Store:
        """Make or migrate the file, read the listing, start the writer. Raises StoreError with what to do.

        Its time is steady, by the `host` and the anchor that it keeps; or that of a test's `clock`.
        """
        try:
            paths.prepare()
        except OSError as error:
            raise StoreError(f"state directory {paths.root} cannot be made: {error}") from error
        _refuse_to_begin_anew(paths)
        reserve = Reserve(paths.reserve)
        connection = _at_the_cost_of(reserve, lambda: database.open_writable(paths.database))
        try:
            with database.failures(paths.database):
                _keep_older(connection, paths, (clock or host.wall)())
            begun = _at_the_cost_of(reserve, lambda: _begin(connection, paths.database, clock, host))
        except BaseException:
            connection.close()
            raise
        instance, steady, listing, usage = begun
        writer = Writer(connection, paths.database, listing, steady, usage, reserve)
        return cls(instance, steady, writer, Reader(paths.database), listing)

    @classmethod
    def open_read_only(cls, paths: StatePaths) -> Reader:
        """The CLI's view; never migrates. Raises StoreError if there is no store or it has another schema."""
        return Reader.open(paths)

    def submit(self, work: Callable[[Transaction], T], *, synced: bool = True, relieving: bool = False) -> Future[T]:
        """Have a work done; the future resolves once it is on disk and listed.

        It fails with whatever the work raised, which undid the work, or with StoreError when nothing could be stored.
        One that need not be `synced` survives the end of this process at once, and a power loss once a work after it
        is synced: for steps of the loop, which takes them anew, never for what a client hears of. One that is
        `relieving` belongs to the end of a machine, a run or a device: it is stored on a full file system, too, where
        all others may change nothing. It may be done more than once, and counts once.
        """
        return self._writer.submit(work, synced=synced, relieving=relieving)

    def write(self, work: Callable[[Transaction], T], *, synced: bool = True, relieving: bool = False) -> T:
        """Do a work and wait for it. Not from within a work, nor on the asyncio loop."""
        return self.submit(work, synced=synced, relieving=relieving).result()

    def follow(self, told: Changed) -> Callable[[], None]:
        """Tell of the machines that each commit from now on changes, until what is returned is called."""
        return self._writer.changes.follow(told)

    def machine(self, machine_id: str) -> Machine | None:
        """The machine as last committed."""
        return self._reader.machine(machine_id)

    def attachment(self, machine_id: str, key: Key) -> Attachment | None:
        """One device of a machine as last committed."""
        return self._reader.attachment(machine_id, key)

    def machine_ids(self) -> list[str]:
        """Ids of all machines: live before deleting ones, newest first."""
        return self._listing.ids()

    def frames(self, machine_id: str = "", selector: Mapping[str, str] | None = None) -> list[bytes]:
        """Serialised machines as a list reply holds them, in the order of `machine_ids`; no SQL."""
        return self._listing.select(machine_id, selector or {})

    def states(self) -> Mapping[str, tuple[pb.MachineState, bool]]:
        """The listed state of every machine, and whether it is being deleted; no SQL."""
        return self._listing.states()

    def is_to_go(self, machine_id: str, *, drained: bool) -> bool:
        """Whether a machine's guest is to go, as it is listed; `drained`: as every guest is. No SQL."""
        frame = self._listing.get(machine_id)
        return frame is not None and frame.is_to_go(drained)

    def usage(self) -> Usage:
        """What is claimed, and how many machines there are of each class, as last committed; no SQL."""
        return self._writer.usage

    def full(self) -> bool:
        """Whether there is no room on its file system, so that nothing is stored but what makes room."""
        return self._writer.tight

    def events(self, machine_id: str, limit: int = EVENTS) -> list[Event]:
        """The newest events of a machine, oldest first."""
        return self._reader.events(machine_id, limit)

    def stranger_with(self, may_be: Callable[[str], bool], *, besides: str) -> str:
        """The machine, other than that one, whose guest has what may be it open without a record; "" for none."""
        return self._reader.stranger_with(may_be, besides)

    def holder(self, handle: str, *, besides: str) -> str:
        """The machine, other than that one, that has a volume of this handle ready, wanted or not; "" for none."""
        return self._reader.holder(handle, besides)

    def mac_owner(self, mac: str) -> tuple[str, str] | None:
        """The machine and network interface that hold a MAC, plugged or not."""
        return self._reader.mac_owner(mac)

    def mac_user(self, besides: Attachment, *, ready: bool) -> tuple[str, str] | None:
        """Another machine and network interface that has the MAC of this one; `ready`: and has it ready."""
        return self._reader.mac_user(besides, ready=ready)

    def duid_user(self, duid: str, besides: Attachment) -> tuple[str, str] | None:
        """Another machine and network interface that has an address for this DUID ready."""
        return self._reader.duid_user(duid, besides)

    def prepared_volumes(self) -> list[Attachment]:
        """Wanted volumes of all machines that are ready."""
        return self._reader.prepared_volumes()

    def prepared_nics(self) -> list[Attachment]:
        """Wanted network interfaces of all machines that are ready."""
        return self._reader.prepared_nics()

    def image(self, name: str) -> CachedImage | None:
        """A file of the image cache, by what was fetched; None if it is not there."""
        return self._reader.image(name)

    def images(self) -> list[tuple[CachedImage, int]]:
        """The image cache, the longest unused first, each with how many machines need it."""
        return self._reader.images()

    def reference(self, name: str) -> ImagePin | None:
        """What an image reference by content holds; None where that is not known any more."""
        return self._reader.reference(name)

    def gone(self) -> set[str]:
        """Ids of machines that were here and are no more, as far back as that is kept."""
        return self._reader.gone()

    def meta(self, key: str) -> str | None:
        """A value of the store as a whole."""
        return self._reader.meta(key)

    def misplaced(self) -> str:
        """What is wrong when its name is another file's by now, as after a mount over it; "" when nothing is."""
        if self._reader.file() == self._file:
            return ""
        return "the state database is not any more where it was opened: something was mounted, unmounted or moved there"

    def close(self) -> None:
        """Do what was submitted, then close the file. Idempotent."""
        self._writer.close()
        self._reader.close()


def _refuse_to_begin_anew(paths: StatePaths) -> None:
    """Raise StoreError when the database is lost and its machines are not: a new one would make them all again."""
    with database.failures(paths.database):
        begun = paths.database.exists() and paths.database.stat().st_size > 0
        if not begun and next(paths.machines.iterdir(), None) is not None:
            raise StoreError(
                f"state database {paths.database} is lost, though there are machines in {paths.machines}: "
                f"{database.RESTORE}; to begin anew without these machines move that directory away"
            )


def _at_the_cost_of(reserve: Reserve, step: Callable[[], T]) -> T:
    """Take a step of the opening; on a full file system with as much of the reserve as it needs."""
    while True:
        try:
            return step()
        except StoreError as error:
            if not database.is_full(error.__cause__) or not reserve.give():
                raise


def _begin(
    connection: sqlite3.Connection, path: Path, clock: Callable[[], int] | None, host: clocks.HostClocks
) -> tuple[str, clocks.SteadyClock, Listing, Usage]:
    """Bring the schema up to date, and read what is kept in memory."""
    with database.failures(path):
        schema.migrate(connection, str(path))
        instance = _instance(connection)
        steady = clocks.SteadyClock.by(clock) if clock else _steady(connection, host)
        return instance, steady, Listing(_frames(connection)), queries.usage(connection)


def _keep_older(connection: sqlite3.Connection, paths: StatePaths, now: int) -> None:
    """Back up a file of an older schema before it is migrated: the way back to the older program."""
    found = schema.version(connection)
    if 0 < found < schema.VERSION:
        backup.backup(paths.database, paths.backups / f"schema-{found}-{backup.stamp(now)}.sqlite", now)


def _instance(connection: sqlite3.Connection) -> str:
    """The store's own UUID, made at its first open."""
    connection.execute("INSERT OR IGNORE INTO meta (key, value) VALUES ('instance', ?)", (str(uuid.uuid4()),))
    return queries.meta(connection, "instance") or ""


def _steady(connection: sqlite3.Connection, host: clocks.HostClocks) -> clocks.SteadyClock:
    """The store's clock; its anchor is kept."""
    stored = clocks.of_text(queries.meta(connection, clocks.META_CLOCK))
    clock = clocks.SteadyClock.of(stored, lambda: queries.latest(connection), host)
    if clock.anchor != stored:
        connection.execute(
            "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (clocks.META_CLOCK, clock.anchor.text())
        )
    return clock


def _frames(connection: sqlite3.Connection) -> dict[str, Frame]:
    """The listing as stored: a machine whose record is damaged stays listed (contract A.12)."""
    frames: dict[str, Frame] = {}
    for row in connection.execute("SELECT rowid AS sequence, id, frame FROM machine"):
        try:
            frames[row["id"]] = Frame.read(pb.Machine.FromString(row["frame"]), row["frame"], row["sequence"])
        except DecodeError as error:
            raise StoreError(f"the listing of machine {row['id']} is damaged: {database.RESTORE}") from error
    return frames
