"""The two tables of the image cache: which files are in it, and what references by content hold.

A file is needed as long as a machine's image row names it (`attachment.image`, its `parts`); who is chosen to go, and
the files themselves, do not belong here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence

from sri_libvirt.devices import ImagePin, pin_from_json, pin_to_json
from sri_libvirt.records import CachedImage

_PINNED = "SELECT part.value FROM attachment, json_each(attachment.image, '$.parts') AS part WHERE image IS NOT NULL"


def get(connection: sqlite3.Connection, name: str) -> CachedImage | None:
    """What is kept under a name."""
    row = connection.execute("SELECT * FROM image WHERE name = ?", (name,)).fetchone()
    return None if row is None else CachedImage(*row)


def every(connection: sqlite3.Connection) -> list[tuple[CachedImage, int]]:
    """All that is kept, the longest unused first, each with how many machines need it."""
    rows = connection.execute(
        f"""
        SELECT image.*, (SELECT count(*) FROM ({_PINNED}) AS pinned WHERE pinned.value = image.name)
        FROM image ORDER BY used, name
        """  # noqa: S608 (our own words)
    )
    return [(CachedImage(*row[:-1]), row[-1]) for row in map(tuple, rows)]


def reference(connection: sqlite3.Connection, name: str) -> ImagePin | None:
    """What a reference by content holds; None where nobody has asked."""
    row = connection.execute("SELECT pin FROM reference WHERE name = ?", (name,)).fetchone()
    return None if row is None else pin_from_json(row[0])


def pinned_by(connection: sqlite3.Connection, machine_id: str) -> list[str]:
    """What a machine needs."""
    return [row[0] for row in connection.execute(f"{_PINNED} AND machine = ?", (machine_id,))]


def keep(connection: sqlite3.Connection, image: CachedImage) -> None:
    """Remember a file; one of that name is replaced."""
    values = (image.name, image.digest, image.format, image.size, image.mtime_ns, image.source, image.used)
    connection.execute("INSERT OR REPLACE INTO image VALUES (?, ?, ?, ?, ?, ?, ?)", values)


def keep_reference(connection: sqlite3.Connection, name: str, pin: ImagePin, now: int) -> None:
    """Remember what a reference by content holds."""
    connection.execute("INSERT OR REPLACE INTO reference VALUES (?, ?, ?)", (name, pin_to_json(pin), now))


def use(connection: sqlite3.Connection, names: Iterable[str], now: int) -> None:
    """They were needed now."""
    connection.executemany("UPDATE image SET used = ? WHERE name = ?", [(now, name) for name in names])


def drop(
    connection: sqlite3.Connection, choose: Callable[[Sequence[CachedImage]], Sequence[CachedImage]]
) -> list[CachedImage]:
    """Forget those that are chosen of all that no machine needs; those of which no other has the digest."""
    free = [image for image, machines in every(connection) if not machines]
    chosen = choose(free)
    for image in chosen:
        forget(connection, image.name)
    kept = {row[0] for row in connection.execute("SELECT digest FROM image")}
    # A reference is of use as long as something of it is here.
    connection.execute(
        """
        DELETE FROM reference WHERE NOT EXISTS (
            SELECT 1 FROM json_each(reference.pin, '$.parts') AS part, image WHERE image.name = part.value
        )
        """
    )
    return [image for image in chosen if image.digest not in kept]


def forget(connection: sqlite3.Connection, name: str) -> None:
    """Forget a file."""
    connection.execute("DELETE FROM image WHERE name = ?", (name,))
