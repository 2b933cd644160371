"""The tables, as an ordered list of migrations. A migration, once released, never changes; a new one is appended.

`PRAGMA user_version` counts the migrations that a file has had. What a column means stands in `records.py`; here it is
only kept. Data that a later feature needs does not belong here before that feature does.
"""

from __future__ import annotations

import sqlite3

from sri_libvirt.errors import StoreError

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # RPCs own labels to power_at, the loop the columns after it; frame is made of both (contract G.3).
        # uid, namespace and name are NULL where the label is absent: only a machine that carries all three is unique.
        """
        CREATE TABLE machine (
            id TEXT PRIMARY KEY,
            uid TEXT,
            namespace TEXT,
            name TEXT,
            labels TEXT NOT NULL,
            annotations TEXT NOT NULL,
            spec BLOB NOT NULL,
            class TEXT NOT NULL,
            generation INTEGER NOT NULL,
            created_at INTEGER NOT NULL,
            deleted_at INTEGER NOT NULL,
            power_at INTEGER NOT NULL,
            status BLOB NOT NULL,
            observed_generation INTEGER NOT NULL,
            profile TEXT,
            run TEXT NOT NULL,
            stop_event TEXT,
            reasons TEXT NOT NULL,
            frame BLOB NOT NULL
        ) STRICT
        """,
        """
        CREATE UNIQUE INDEX machine_uid ON machine (uid)
        WHERE uid IS NOT NULL AND namespace IS NOT NULL AND name IS NOT NULL
        """,
        """
        CREATE TABLE attachment (
            machine TEXT NOT NULL REFERENCES machine (id) ON DELETE CASCADE,
            kind TEXT NOT NULL,
            name TEXT NOT NULL,
            incarnation INTEGER NOT NULL,
            spec BLOB NOT NULL,
            wanted INTEGER NOT NULL,
            changed_at INTEGER NOT NULL,
            target TEXT NOT NULL,
            mac TEXT NOT NULL,
            serial TEXT NOT NULL,
            port INTEGER NOT NULL,
            backing TEXT,
            problem TEXT NOT NULL,
            problem_advice TEXT NOT NULL,
            problem_at INTEGER NOT NULL,
            PRIMARY KEY (machine, kind, name, incarnation)
        ) STRICT
        """,
        "CREATE INDEX attachment_mac ON attachment (mac) WHERE mac <> ''",
        """
        CREATE TABLE event (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            machine TEXT NOT NULL,
            time INTEGER NOT NULL,
            kind TEXT NOT NULL,
            reason TEXT NOT NULL,
            message TEXT NOT NULL,
            took INTEGER NOT NULL
        ) STRICT
        """,
        "CREATE INDEX event_machine ON event (machine, id)",
        # Machines that are no more, whose events are kept for a while.
        "CREATE TABLE gone (machine TEXT PRIMARY KEY, at INTEGER NOT NULL) STRICT",
        "CREATE INDEX gone_at ON gone (at)",
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
    ),
    # When a running guest was last asked to let a device go.
    ("ALTER TABLE attachment ADD COLUMN unplug_at INTEGER NOT NULL DEFAULT 0",),
    (
        # What each machine takes of the host (resources.py); gone with the machine, and never before its class's.
        """
        CREATE TABLE claim (
            machine TEXT NOT NULL REFERENCES machine (id) ON DELETE CASCADE,
            holder TEXT NOT NULL,
            resource TEXT NOT NULL,
            node INTEGER NOT NULL,
            amount INTEGER NOT NULL,
            PRIMARY KEY (machine, holder, resource, node)
        ) STRICT, WITHOUT ROWID
        """,
        # The code of the reason that a problem gives, "" for that of any device that is not ready.
        "ALTER TABLE attachment ADD COLUMN problem_code TEXT NOT NULL DEFAULT ''",
    ),
    (
        # Since when a machine of a restored backup waits for somebody to say that its wishes still hold; 0 for all
        # others.
        "ALTER TABLE machine ADD COLUMN unconfirmed_since INTEGER NOT NULL DEFAULT 0",
        # How often an event has come in a row, and when it came last, 0 if once only.
        "ALTER TABLE event ADD COLUMN count INTEGER NOT NULL DEFAULT 1",
        "ALTER TABLE event ADD COLUMN last INTEGER NOT NULL DEFAULT 0",
        # How often in a row a device was plugged soon after it had been plugged before, and when last.
        "ALTER TABLE attachment ADD COLUMN plugs INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE attachment ADD COLUMN plugged_at INTEGER NOT NULL DEFAULT 0",
        # Who has a volume: by its handle, and by what it is.
        "CREATE INDEX attachment_handle ON attachment (json_extract(backing, '$.handle')) WHERE kind = 'volume'",
        "CREATE INDEX attachment_held ON attachment (machine) WHERE problem_code = 'held'",
        "CREATE INDEX attachment_source ON attachment (json_extract(backing, '$.source')) WHERE kind = 'volume'",
    ),
    (
        # What a volume is, not what it is called: a LUN is one by any portal. A device's number comes with its next
        # prepare.
        """
        UPDATE attachment SET backing = json_set(json_remove(backing, '$.source'), '$.identity',
            CASE WHEN json_extract(backing, '$.protocol') = 'iscsi'
                THEN substr(json_extract(backing, '$.source'), 1, instr(json_extract(backing, '$.source'), '@') - 1)
                ELSE json_extract(backing, '$.source') END)
        WHERE CASE WHEN json_valid(backing) THEN json_extract(backing, '$.source') IS NOT NULL ELSE FALSE END
        """,
        "DROP INDEX attachment_source",
        "CREATE INDEX attachment_disk ON attachment (json_extract(backing, '$.identity')) WHERE kind = 'volume'",
    ),
    (
        # What a machine's image reference meant when it was asked.
        "ALTER TABLE attachment ADD COLUMN image TEXT",
        "CREATE INDEX attachment_image ON attachment (machine) WHERE image IS NOT NULL",
        # Files of the image cache by what was fetched, and what references by content hold.
        """
        CREATE TABLE image (
            name TEXT PRIMARY KEY,
            digest TEXT NOT NULL,
            format TEXT NOT NULL,
            size INTEGER NOT NULL,
            mtime_ns INTEGER NOT NULL,
            source TEXT NOT NULL,
            used INTEGER NOT NULL
        ) STRICT
        """,
        "CREATE TABLE reference (name TEXT PRIMARY KEY, pin TEXT NOT NULL, used INTEGER NOT NULL) STRICT",
    ),
    # What the duration of an event is of; nobody can say it of older ones.
    (
        "ALTER TABLE event ADD COLUMN measure TEXT NOT NULL DEFAULT ''",
        # By what a machine that is no more was called, and how its last guest ended.
        "ALTER TABLE gone ADD COLUMN record TEXT NOT NULL DEFAULT '{}'",
    ),
)

VERSION = len(MIGRATIONS)
"""The schema that this program reads and writes."""


def version(connection: sqlite3.Connection) -> int:
    """How many migrations the file has had; 0 for an empty one."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def check(connection: sqlite3.Connection, path: str) -> None:
    """Raise StoreError unless the file has exactly this program's schema; for readers, which never migrate."""
    found = version(connection)
    if found > VERSION:
        raise newer(found, path)
    if found < VERSION:
        raise StoreError(
            f"{path} has schema {found}, this program reads {VERSION}: start the daemon once to migrate it"
        )


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Bring the file to this program's schema, each step whole or not at all. Refuses a newer one with StoreError."""
    found = version(connection)
    if found > VERSION:
        raise newer(found, path)
    for number, statements in enumerate(MIGRATIONS[found:], start=found + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def newer(found: int, path: str) -> StoreError:
    """The refusal of a file that a newer program wrote."""
    return StoreError(
        f"{path} was written by a newer version (schema {found}, this one knows {VERSION}): "
        "install that version again, or put back the backup made before the upgrade (`sri-libvirt store backups`)"
    )
