"""Opening the SQLite file, and SQLite's errors in our words.

WAL with synchronous=FULL: what was answered survives a power loss. The file is 0600 in a 0700 directory; SQLite gives
its `-wal` and `-shm` files the same mode. Tables and queries do not belong here.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from sri_libvirt.errors import StoreError

MODE = 0o600

FOLD_SECONDS = 5.0
"""How long `fold` waits for a program that reads the database, as our own commands do for a moment."""

READING_KIB = 256
"""Page cache of a reading connection, of which each lane has one: it reads one machine at a time."""

RESTORE = (
    "stop the daemon and put back a backup (`sri-libvirt store backups` lists them, "
    "`sri-libvirt store restore FILE` puts one back and keeps what it replaces)"
)
"""What to do about a file that cannot be used."""

_OTHERS = "another program has it open (`fuser -v` of that file names it): end that program"

ROOM = (
    "free some space on its file system; machines can be deleted and powered off, and devices detached, all the same, "
    "which makes room"
)
"""What to do about a file system that is full."""

_ADVICE = {
    "SQLITE_FULL": ROOM,
    "SQLITE_IOERR_SHMSIZE": ROOM,
    "SQLITE_READONLY": "its file or file system is read-only; make it writable and restart the daemon",
    "SQLITE_CANTOPEN": "see that the directory exists and that this user may write to it",
    "SQLITE_PERM": "see that this user may write to it",
    "SQLITE_IOERR": "its file system fails or is full; see the kernel log",
    "SQLITE_BUSY": _OTHERS,
    "SQLITE_LOCKED": _OTHERS,
    "SQLITE_CORRUPT": f"it is damaged: {RESTORE}",
    "SQLITE_NOTADB": f"it is no state database: {RESTORE}",
}


def failure(error: sqlite3.Error, path: Path) -> StoreError:
    """The StoreError for an SQLite error: what failed, where, and what to do."""
    name = getattr(error, "sqlite_errorname", "") or type(error).__name__
    advice = next((text for prefix, text in _ADVICE.items() if name.startswith(prefix)), "see the daemon's log")
    return StoreError(f"state database {path}: {error} ({name}): {advice}")


def is_full(error: BaseException | None) -> bool:
    """Whether there was no room on the file system."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOSPC
    name = getattr(error, "sqlite_errorname", "")
    return name in ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE")  # the latter: of the log's index


@contextmanager
def failures(path: Path) -> Iterator[None]:
    """Turn SQLite's errors, and the operating system's on this file, into StoreError."""
    try:
        yield
    except sqlite3.Error as error:
        raise failure(error, path) from error
    except PermissionError as error:
        raise StoreError(f"state database {path}: {error.strerror}: it is for root") from error
    except OSError as error:
        raise StoreError(f"state database {path}: {error.strerror}") from error


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        isolation_level=None,  # transactions are begun and ended by name
        check_same_thread=False,  # made by one thread, used by another; never by two at once
        timeout=10,
    )
    connection.row_factory = sqlite3.Row
    return connection


def open_writable(path: Path) -> sqlite3.Connection:
    """The one writing connection; makes the file (0600) if there is none. Raises StoreError."""
    with failures(path):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE))
        path.chmod(MODE)
        connection = _connect(path, "rw")
        try:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise StoreError(f"state database {path}: {found}: it is damaged: {RESTORE}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA temp_store = MEMORY")  # a savepoint needs no room on any file system
        except BaseException:
            connection.close()
            raise
        return connection


def open_copy(path: Path) -> sqlite3.Connection:
    """A new, empty file (0600) that another database is copied into. Raises StoreError; an existing file is one."""
    with failures(path):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE))
        return _connect(path, "rw")


def logs(path: Path) -> list[Path]:
    """What SQLite would replay into any file of the database's name."""
    return [path.with_name(path.name + suffix) for suffix in ("-journal", "-wal")]


def fold(path: Path) -> bool:
    """Bring all that is in the log into the file itself, which has no log then. False when there is no file, or it is
    too damaged for that.

    Raises StoreError, with file and log as they were, while another program has the database open.
    """
    if not path.exists() or not path.stat().st_size:
        return False
    end = time.monotonic() + FOLD_SECONDS
    while True:
        try:
            with closing(_connect(path, "rw")) as connection:
                connection.execute("PRAGMA journal_mode = DELETE")
            return True
        except sqlite3.DatabaseError as error:
            name = getattr(error, "sqlite_errorname", "")
            if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
                return False
            if not name.startswith("SQLITE_BUSY") or time.monotonic() >= end:
                raise failure(error, path) from error
        time.sleep(FOLD_SECONDS / 50)


def open_reading(path: Path) -> sqlite3.Connection:
    """A connection that cannot write; works beside a running daemon. Raises StoreError."""
    with failures(path):
        if not path.exists():
            raise StoreError(f"there is no state database at {path}: has the daemon run with this state directory?")
        connection = _connect(path, "ro")
        connection.execute(f"PRAGMA cache_size = -{READING_KIB}")
        return connection


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All reads within see one committed state."""
    connection.execute("BEGIN")
    try:
        yield connection
    finally:
        connection.execute("COMMIT")
