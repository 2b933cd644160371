"""The bounded timeline: each machine's first and newest events, and for a while those of machines that are gone.

What is an event, and what it says, does not belong here.
"""

from __future__ import annotations

import sqlite3

from sri_libvirt.records import SECOND, Event

FIRST = 20
"""Events kept from a machine's beginning: how it came to be is asked for long after."""

NEWEST = 500
"""Events kept besides."""

MESSAGE = 2000
"""Characters of a message; QEMU's own words can be any number."""

GONE_FOR = 7 * 24 * 3600 * SECOND
"""How long the events of a machine that is gone are kept, in nanoseconds."""

GONE = 200
"""Of how many machines that are gone the events are kept."""


def add(connection: sqlite3.Connection, machine_id: str, event: Event) -> bool:
    """Add an event, or count it if it is the latest once more. Of a machine that was never here: nothing. Whether it is
    a new line."""
    said = (machine_id, event.kind, event.reason, event.message[:MESSAGE], event.time, event.took, event.measure)
    again = connection.execute(
        """
        UPDATE event SET count = count + 1, last = ?5, took = ?6, measure = ?7
        WHERE id = (SELECT max(id) FROM event WHERE machine = ?1) AND (kind, reason, message) = (?2, ?3, ?4)
        """,
        said,
    )
    if again.rowcount:
        return False
    done = connection.execute(
        """
        INSERT INTO event (machine, kind, reason, message, time, took, measure) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7
        WHERE EXISTS (SELECT 1 FROM machine WHERE id = ?1) OR EXISTS (SELECT 1 FROM gone WHERE machine = ?1)
        """,
        said,
    )
    kept = connection.execute("SELECT count(*) FROM event WHERE machine = ?", (machine_id,)).fetchone()[0]
    if done.rowcount and kept > FIRST + NEWEST:
        _drop(connection, machine_id, kept - FIRST - NEWEST)
    return bool(done.rowcount)


def _drop(connection: sqlite3.Connection, machine_id: str, number: int) -> None:
    """Drop events beyond the first, each time the oldest of the sort (kind and reason) that there is most of.

    So nobody who can make the same few things happen for ever, a guest or a tenant, wipes out what else has happened.
    """
    connection.execute(
        """
        DELETE FROM event WHERE id IN (
            SELECT id FROM (
                SELECT id, count(*) OVER (PARTITION BY kind, reason) AS share FROM event WHERE machine = ?1
                AND id > (SELECT id FROM event WHERE machine = ?1 ORDER BY id LIMIT 1 OFFSET ?2)
            ) ORDER BY share DESC, id LIMIT ?3
        )
        """,
        (machine_id, FIRST - 1, number),
    )


def machine_gone(connection: sqlite3.Connection, machine_id: str, now: int, record: str) -> None:
    """Keep the events of a machine that is no more, and drop those that were kept long enough."""
    connection.execute("INSERT OR REPLACE INTO gone (machine, at, record) VALUES (?, ?, ?)", (machine_id, now, record))
    overdue = connection.execute(
        "SELECT machine FROM (SELECT machine, at FROM gone ORDER BY at DESC LIMIT -1 OFFSET ?)"
        " UNION SELECT machine FROM gone WHERE at < ?",
        (GONE, now - GONE_FOR),
    ).fetchall()
    for (machine,) in overdue:
        connection.execute("DELETE FROM event WHERE machine = ?", (machine,))
        connection.execute("DELETE FROM gone WHERE machine = ?", (machine,))
