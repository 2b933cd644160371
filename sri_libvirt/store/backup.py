"""Verified copies of the state database: made beside the writer, read whole before they count, put back whole.

A copy says of itself when it was made (`COPIED`), so that a store that was one is known for it however it came back:
what was made after the copy is unknown to it and must not pass for abandoned. Who may restore does not belong here (the
caller holds the lock of the state directory), nor when a backup is due.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from google.protobuf.message import DecodeError

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import StoreError
from sri_libvirt.paths import StatePaths, install, sync_directory
from sri_libvirt.records import SECOND
from sri_libvirt.store import database, queries, schema

COPIED = "copied_at"
"""Key in `meta`: when this file was copied last, in steady nanoseconds; absent in a store that never was one."""

AUTOMATIC = "auto"
"""First word of the names of backups that the daemon makes, and drops again, by itself."""

STAMP = "%Y%m%dT%H%M%SZ"

_SHOWN = 10
_AUTOMATIC_NAME = re.compile(rf"{AUTOMATIC}-(?:(\d{{6,}})-)?\d{{8}}T\d{{6}}Z\.sqlite")
"""Numbered, for a wall clock that was set tells nothing of their order; the first releases did not number them."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a database file is. `copied_at` is 0 unless it is a copy; `problems` is empty when it is sound."""

    path: Path
    bytes: int
    instance: str = ""
    schema: int = 0
    machines: int = 0
    copied_at: int = 0
    problems: tuple[str, ...] = ()


def inspect(path: Path) -> Facts:
    """Read a database whole: pages, indices, references, records. Raises StoreError when it cannot be read at all."""
    connection = database.open_reading(path)
    with closing(connection), database.failures(path):
        facts = Facts(path, path.stat().st_size)
        try:
            return _inspect(connection, facts)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            return replace(facts, problems=(str(error),))


def _inspect(connection: sqlite3.Connection, facts: Facts) -> Facts:
    with database.snapshot(connection):
        pages = connection.execute(f"PRAGMA integrity_check({_SHOWN})")
        problems = [str(row[0]) for row in pages if row[0] != "ok"]
        found = schema.version(connection)
        if found > schema.VERSION:
            problems.append(str(schema.newer(found, str(facts.path))))
        if problems or not found or found > schema.VERSION:
            return replace(facts, schema=found, problems=tuple(problems or ("it is empty",)))
        lost = connection.execute("PRAGMA foreign_key_check").fetchmany(_SHOWN)
        problems += [f"a row of {row[0]} belongs to no {row[2]}" for row in lost]
        if found == schema.VERSION:
            problems += _damaged(connection)
        return replace(
            facts,
            instance=queries.meta(connection, "instance") or "",
            schema=found,
            machines=int(connection.execute("SELECT count(*) FROM machine").fetchone()[0]),
            copied_at=int(queries.meta(connection, COPIED) or 0),
            problems=tuple(problems),
        )


def _damaged(connection: sqlite3.Connection) -> Iterator[str]:
    """Records that SQLite reads and this program does not."""
    for row in connection.execute("SELECT id, frame FROM machine"):
        try:
            pb.Machine.FromString(row["frame"])
            queries.machine(connection, row["id"])
        except DecodeError:
            yield f"the listing of machine {row['id']} is damaged"
        except StoreError as error:
            yield str(error)


def backup(source: Path, target: Path, now: int) -> Facts:
    """Copy what is committed now to a new file `target` (0600), verified and durable when this returns.

    Works beside the writer. Raises StoreError, and leaves nothing, when the copy is not sound, cannot be written, or
    there is a file of that name.
    """
    unfinished = target.with_name(f".{target.name}.unfinished")
    with database.failures(target):
        if target.exists():
            raise StoreError(f"{target} exists: a backup overwrites nothing; give another name")
        try:
            facts = _verified_copy(source, unfinished, now)
            install(unfinished, target, database.MODE)
        finally:
            unfinished.unlink(missing_ok=True)
    return replace(facts, path=target)


def _verified_copy(
    source: Path, unfinished: Path, now: int, meta: Mapping[str, str | None] = MappingProxyType({})
) -> Facts:
    unfinished.unlink(missing_ok=True)
    with closing(database.open_reading(source)) as reading, closing(database.open_copy(unfinished)) as writing:
        with database.failures(source):
            reading.backup(writing)
        writing.execute("PRAGMA journal_mode = DELETE")  # one file, readable where nothing can be written
        writing.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (COPIED, str(now)))
        for key, value in meta.items():
            writing.execute("DELETE FROM meta WHERE key = ?", (key,))
            if value is not None:
                writing.execute("INSERT INTO meta (key, value) VALUES (?, ?)", (key, value))
    facts = inspect(unfinished)
    if facts.problems:
        raise StoreError(f"state database {source} is damaged, no copy is made of it: {'; '.join(facts.problems)}")
    return facts


def restore(paths: StatePaths, source: Path, now: int, keep: Iterable[str] = ()) -> tuple[Facts, Path | None]:
    """Put a backup in the place of the database. Returns what it is, and where the replaced one is kept, if any.

    Values of `meta` that are named by `keep` stay as they are, if the replaced database can be read.
    The caller holds the lock of the state directory. Raises StoreError, with everything as it was, when the backup is
    not sound or is of a newer schema, or while another program has the database open. Killed at any moment, it leaves
    the old database or the new one, whole; of an old one that is damaged at least its kept copy and a store that says
    so, never one that has silently lost something.
    """
    facts = inspect(source)
    if facts.problems:
        raise StoreError(f"{source} is not put back: {'; '.join(facts.problems)}")
    current = paths.database
    unfinished = paths.store / ".restored.unfinished"
    with database.failures(current):
        paths.prepare()
        if current.exists() and current.samefile(source):
            raise StoreError(f"{source} is the state database itself, not a backup of it")
        try:
            _verified_copy(source, unfinished, now, _present(current, keep))
            kept = _keep(current, paths.backups / f"replaced-{stamp(now)}.sqlite")
            install(unfinished, current, database.MODE)
        finally:
            unfinished.unlink(missing_ok=True)
    return replace(facts, path=source), kept


def _present(current: Path, keys: Iterable[str]) -> dict[str, str | None]:
    """What the database that is replaced says now; nothing of one that cannot be read."""
    with suppress(StoreError, sqlite3.Error), closing(database.open_reading(current)) as reading:
        return {key: queries.meta(reading, key) for key in keys}
    return {}


def _keep(current: Path, kept: Path) -> Path | None:
    """Give the database, with all that is in its log, a second name; no log is left that SQLite would replay into what
    takes its place."""
    whole = database.fold(current)
    parts = [current, *database.logs(current)]
    for part in parts:
        with suppress(FileNotFoundError):
            os.link(part, kept.with_name(kept.name + part.name.removeprefix(current.name)))
    sync_directory(kept.parent)
    if not whole:  # first the file, without which a start says that it is lost; then what cannot be folded into it
        for part in parts:
            part.unlink(missing_ok=True)
    return kept if kept.exists() else None


def stamp(now: int) -> str:
    """The time in a backup's name: UTC, to the second."""
    return time.strftime(STAMP, time.gmtime(now // SECOND))


def listed(directory: Path) -> list[Path]:
    """The backups of a directory, oldest first, whoever made them."""
    if not directory.is_dir():
        return []
    return sorted(directory.glob("*.sqlite"), key=lambda path: (path.stat().st_mtime_ns, path.name))


def automatic(directory: Path) -> list[Path]:
    """The backups that the daemon made by itself, oldest first."""
    found = {path: _AUTOMATIC_NAME.fullmatch(path.name) for path in directory.glob("*.sqlite")}
    numbers = {path: int(match[1] or 0) for path, match in found.items() if match}
    return sorted(numbers, key=lambda path: (numbers[path], path.name))


def next_automatic(directory: Path, now: int) -> Path:
    """The name of the next one."""
    latest = next(reversed(automatic(directory)), None)
    match = _AUTOMATIC_NAME.fullmatch(latest.name) if latest else None
    number = int(match[1] or 0) + 1 if match else 1
    return directory / f"{AUTOMATIC}-{number:06d}-{stamp(now)}.sqlite"


def copied_at(path: Path) -> int:
    """When a backup was made, by the steady clock of its store; 0 if it does not say. Raises StoreError."""
    with closing(database.open_reading(path)) as connection, database.failures(path):
        return int(queries.meta(connection, COPIED) or 0)


def prune(directory: Path, keep: int) -> list[Path]:
    """Drop all automatic backups but the newest `keep` (at least 1); returns what was dropped. Others stay."""
    dropped = automatic(directory)[:-keep]
    for path in dropped:
        path.unlink(missing_ok=True)
    return dropped
