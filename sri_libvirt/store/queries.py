"""What is asked of the tables, on whatever connection: the writer's, a reader's, the CLI's.

Nothing here writes, and nothing begins or ends a transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress

from sri_libvirt.devices import NicBackend
from sri_libvirt.errors import StoreError
from sri_libvirt.records import Attachment, Departed, Event, Key, Machine
from sri_libvirt.resources import Claim, Usage
from sri_libvirt.store import codec

_MACHINE = """
    SELECT rowid AS sequence, id, labels, annotations, spec, class, generation, created_at, deleted_at, power_at,
           status, observed_generation, profile, run, stop_event, reasons, unconfirmed_since
    FROM machine
"""
_ATTACHMENT = """
    SELECT machine, kind, name, incarnation, spec, wanted, changed_at, target, mac, serial, port,
           backing, problem, problem_advice, problem_at, unplug_at, problem_code, plugs,
           plugged_at, image
    FROM attachment
"""


def machine(connection: sqlite3.Connection, machine_id: str, *, devices: bool = True) -> Machine | None:
    """The machine, or None; with its attachments, unless the machine alone is asked for."""
    row = connection.execute(f"{_MACHINE} WHERE id = ?", (machine_id,)).fetchone()
    if row is None:
        return None
    if not devices:
        return codec.machine(row, ())
    attachments = connection.execute(f"{_ATTACHMENT} WHERE machine = ? ORDER BY kind, name, incarnation", (machine_id,))
    return codec.machine(row, attachments)


def attachment(connection: sqlite3.Connection, machine_id: str, key: Key) -> Attachment | None:
    """One device of a machine, or None."""
    found = connection.execute(
        f"{_ATTACHMENT} WHERE machine = ? AND kind = ? AND name = ? AND incarnation = ?", (machine_id, *key)
    ).fetchone()
    return None if found is None else codec.attachment(found)


def machines(connection: sqlite3.Connection) -> list[Machine]:
    """All machines, oldest first. Raises StoreError, naming it, when a record cannot be read."""
    found, damaged = readable(connection)
    if damaged:
        raise StoreError(next(iter(damaged.values())))
    return found


def readable(connection: sqlite3.Connection) -> tuple[list[Machine], dict[str, str]]:
    """The machines whose record can be read, oldest first; and, by id, what is wrong with the others."""
    attachments: defaultdict[str, list[sqlite3.Row]] = defaultdict(list)
    for row in connection.execute(f"{_ATTACHMENT} ORDER BY kind, name, incarnation"):
        attachments[row["machine"]].append(row)
    found: list[Machine] = []
    damaged: dict[str, str] = {}
    for row in connection.execute(f"{_MACHINE} ORDER BY created_at, id"):
        try:
            found.append(codec.machine(row, attachments[row["id"]]))
        except StoreError as error:
            damaged[row["id"]] = str(error)
    return found, damaged


def events(connection: sqlite3.Connection, machine_id: str, limit: int) -> list[Event]:
    """The newest `limit` events of a machine, also of one that is gone; oldest first."""
    rows = connection.execute("SELECT * FROM event WHERE machine = ? ORDER BY id DESC LIMIT ?", (machine_id, limit))
    return [codec.event(row) for row in rows][::-1]


def timelines(
    connection: sqlite3.Connection, machines: Sequence[str] | None, since: int, after: int, beyond: int, most: int
) -> list[tuple[int, Event]]:
    """Lines of these machines, or of all, in their order, each with its number: those with a number above `after`, or
    without one those that came at `since` (steady time) or later; and those that came once more at `since` or later.
    Of all these the first `most` with a number above `beyond`.
    """
    where = "id > ? AND (id > ? AND time >= ? OR last >= ?)"
    if machines is not None:
        where += f" AND machine IN ({', '.join('?' * len(machines))})"
    rows = connection.execute(
        f"SELECT * FROM event WHERE {where} ORDER BY id LIMIT ?",  # noqa: S608 (our own words)
        (beyond, after, 0 if after else since, since, *(machines or ()), most),
    )
    return [(row["id"], codec.event(row)) for row in rows]


def latest(connection: sqlite3.Connection) -> int:
    """The latest steady time that anything here was stored with; 0 of an empty store."""
    run = ", ".join(
        f"json_extract(run, '$.{each}')"
        for each in ("started_at", "stopped_at", "pressed_at", "last_press_at", "resumed_at")
    )
    found = connection.execute(
        f"""
        SELECT max(at) FROM (
            SELECT max(power_at, deleted_at, {run}, ifnull(json_extract(stop_event, '$.at'), 0)) AS at FROM machine
            UNION ALL SELECT max(changed_at, problem_at, unplug_at) FROM attachment
            UNION ALL SELECT max(time) FROM event
            UNION ALL SELECT max(at) FROM gone
        )
        """  # noqa: S608 (names are our own)
    ).fetchone()[0]
    return int(found or 0)


def machine_ids(connection: sqlite3.Connection) -> list[str]:
    """Ids of all machines, oldest first."""
    return [row[0] for row in connection.execute("SELECT id FROM machine ORDER BY rowid")]


def gone(connection: sqlite3.Connection) -> set[str]:
    """Ids of machines that were here and are no more, as far back as that is kept."""
    return {row[0] for row in connection.execute("SELECT machine FROM gone")}


def departed(connection: sqlite3.Connection) -> list[Departed]:
    """The same, with what is known of them, the latest first."""
    rows = connection.execute("SELECT machine, at, record FROM gone ORDER BY at DESC, rowid DESC")
    return [codec.departed(row["machine"], row["at"], row["record"]) for row in rows]


def claims(connection: sqlite3.Connection, machine_id: str) -> list[Claim]:
    """What a machine has of the host."""
    rows = connection.execute(
        "SELECT resource, amount, node, holder FROM claim WHERE machine = ? ORDER BY holder, resource, node",
        (machine_id,),
    )
    return [Claim(*row) for row in rows]


def all_claims(connection: sqlite3.Connection) -> dict[str, list[Claim]]:
    """What each machine has of the host, by id."""
    found: dict[str, list[Claim]] = {}
    rows = connection.execute(
        "SELECT machine, resource, amount, node, holder FROM claim ORDER BY machine, holder, resource, node"
    )
    for machine, *claim in rows:
        found.setdefault(machine, []).append(Claim(*claim))
    return found


def usage(connection: sqlite3.Connection) -> Usage:
    """What all machines have of the host, and how many there are of each class."""
    sums = connection.execute("SELECT resource, SUM(amount), node FROM claim GROUP BY resource, node")
    counts = connection.execute("SELECT json_extract(class, '$.name'), COUNT(*) FROM machine GROUP BY 1")
    return Usage(machines=dict(map(tuple, counts))).plus(Claim(*row) for row in sums)


def unclaimed(connection: sqlite3.Connection) -> list[str]:
    """Ids of machines whose class claims nothing: those of an older version."""
    rows = connection.execute(
        "SELECT id FROM machine WHERE NOT EXISTS (SELECT 1 FROM claim WHERE machine = id AND holder = '')"
    )
    return [row[0] for row in rows]


def stranger_with(connection: sqlite3.Connection, may_be: Callable[[str], bool], besides: str) -> str:
    """The machine, other than that one, whose guest has what may be it open without a record; "" for none."""
    rows = connection.execute(
        """
        SELECT machine.id, json_extract(stranger.value, '$.source')
        FROM machine, json_each(machine.run, '$.strangers') AS stranger WHERE machine.id <> ?
        """,
        (besides,),
    )
    return next((str(machine_id) for machine_id, opened in rows if may_be(opened)), "")


def holder(connection: sqlite3.Connection, handle: str, identity: str, besides: str) -> str:
    """The machine, other than that one, that has a volume of this handle or identity ready; "" for none."""
    found = connection.execute(
        """
        SELECT machine FROM attachment
        WHERE kind = 'volume' AND json_extract(backing, '$.handle') = ? AND machine <> ?
        UNION ALL
        SELECT machine FROM attachment
        WHERE kind = 'volume' AND json_extract(backing, '$.identity') = ? AND machine <> ?
        LIMIT 1
        """,
        (handle, besides, identity, besides),
    ).fetchone()
    return str(found[0]) if found else ""


def mac_owner(connection: sqlite3.Connection, mac: str) -> tuple[str, str] | None:
    """The machine and network interface that hold a MAC, plugged or not."""
    row = connection.execute("SELECT machine, name FROM attachment WHERE mac = ? LIMIT 1", (mac,)).fetchone()
    return None if row is None else (row["machine"], row["name"])


def mac_user(
    connection: sqlite3.Connection, mac: str, machine: str, name: str, *, ready: bool
) -> tuple[str, str] | None:
    """The machine and network interface, other than that one, that has a MAC, wanted or not; `ready`: and is so."""
    row = connection.execute(
        "SELECT machine, name FROM attachment WHERE mac = ? AND (machine <> ? OR name <> ?) "
        "AND (backing IS NOT NULL OR NOT ?) LIMIT 1",
        (mac, machine, name, ready),
    ).fetchone()
    return None if row is None else (row["machine"], row["name"])


def duid_user(connection: sqlite3.Connection, duid: str, machine: str, name: str) -> tuple[str, str] | None:
    """The machine and network interface, other than that one, that has an address for this DUID ready."""
    row = connection.execute(
        "SELECT machine, name FROM attachment WHERE kind = 'nic' AND json_extract(backing, '$.duid') = ? "
        "AND (machine <> ? OR name <> ?) LIMIT 1",
        (duid, machine, name),
    ).fetchone()
    return None if row is None else (row["machine"], row["name"])


def address_user(
    connection: sqlite3.Connection, backend: NicBackend, machine: str, name: str
) -> tuple[str, str, str] | None:
    """The first address of a backend that another network interface has that is ready on the same link, and whose."""
    found = connection.execute(
        """
        SELECT json_each.value AS address, machine, name FROM attachment, json_each(backing, '$.addresses')
        WHERE attachment.kind = 'nic' AND (machine <> ? OR name <> ?)
        AND json_extract(backing, '$.kind') = ? AND coalesce(json_extract(backing, '$.vlan'), 0) = ?
        AND ? IN (
            json_extract(backing, '$.network'), json_extract(backing, '$.bridge'), json_extract(backing, '$.device')
        )
        AND json_each.value IN (SELECT value FROM json_each(?))
        LIMIT 1
        """,
        (machine, name, backend.kind, backend.vlan, backend.source, json.dumps(backend.addresses)),
    ).fetchone()
    return None if found is None else (found["address"], found["machine"], found["name"])


def prepared_volumes(connection: sqlite3.Connection) -> list[Attachment]:
    """Wanted volumes of all machines that are ready; without those whose record cannot be read."""
    found = []
    for row in connection.execute(f"{_ATTACHMENT} WHERE kind = 'volume' AND wanted AND backing IS NOT NULL"):
        with suppress(StoreError):
            found.append(codec.attachment(row))
    return found


def prepared_nics(connection: sqlite3.Connection) -> list[Attachment]:
    """Wanted network interfaces of all machines that are ready; without those whose record cannot be read."""
    found = []
    for row in connection.execute(f"{_ATTACHMENT} WHERE kind = 'nic' AND wanted AND backing IS NOT NULL"):
        with suppress(StoreError):
            found.append(codec.attachment(row))
    return [row for row in found if row.backing is not None]  # of an older version's some are to be made anew


def unconfirmed(connection: sqlite3.Connection) -> list[str]:
    """Ids of machines of a restored backup that nobody has confirmed yet."""
    return [row[0] for row in connection.execute("SELECT id FROM machine WHERE unconfirmed_since > 0")]


def meta(connection: sqlite3.Connection, key: str) -> str | None:
    """A value of the store as a whole."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])
