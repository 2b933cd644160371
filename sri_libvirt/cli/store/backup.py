"""`sri-libvirt store backup` and `store backups`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from sri_libvirt.cli import output as out
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.config import Settings, absolute_path
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import SECOND
from sri_libvirt.store import backup as copies
from sri_libvirt.views import show


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@settings_options("state_dir")
def backup(file: Path | None, settings: Settings) -> None:
    """Copy the state database to FILE, read the copy whole, and say where it is.

    Without FILE it goes to the other backups, below the state directory. Nothing is overwritten. It is made here, also
    while the daemon runs, for whom FILE may be another place (a service has a /tmp of its own).
    """
    paths = StatePaths(settings.state_dir)
    now = time.time_ns()
    target = absolute_path(str(file)) if file else paths.backups / f"manual-{copies.stamp(now)}.sqlite"
    made = copies.backup(paths.database, target, now)
    out.say(f"{target}: {made.machines} machines, verified")


@click.command()
@settings_options("state_dir")
@out.form("table", "json", "yaml")
def backups(settings: Settings, output: str) -> None:
    """List the backups below the state directory, oldest first."""
    files = copies.listed(StatePaths(settings.state_dir).backups)
    if output != "table":
        out.data([{"file": str(file), "bytes": file.stat().st_size} for file in files], output)
        return
    now = time.time_ns()
    rows = [(str(file), show.ago(int(file.stat().st_mtime) * SECOND, now), str(file.stat().st_size)) for file in files]
    out.table(("FILE", "AGE", "BYTES"), rows)
