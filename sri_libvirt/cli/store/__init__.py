"""`sri-libvirt store`: backups of the state database, and whether it is sound."""

from __future__ import annotations

import click

from sri_libvirt.cli.lazy import LazyGroup

_ROOM = "sri_libvirt.cli.store"
COMMANDS = {
    "backup": (f"{_ROOM}.backup:backup", "Make a verified copy, also while the daemon runs."),
    "backups": (f"{_ROOM}.backup:backups", "List the backups."),
    "check": (f"{_ROOM}.check:check", "Read it whole and say what is wrong with it."),
    "confirm": (f"{_ROOM}.confirm:confirm", "After a restore: say that machines are still to be as it says."),
    "restore": (f"{_ROOM}.restore:restore", "Put a backup back; keeps what it replaces."),
}


@click.group(cls=LazyGroup, table=COMMANDS)
def store() -> None:
    """Look after the state database.

    The daemon backs it up by itself (--backup-period). Backups hold secrets of machines: keep them as you keep those.
    """
