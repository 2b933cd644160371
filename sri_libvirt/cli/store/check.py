"""`sri-libvirt store check`."""

from __future__ import annotations

from pathlib import Path

import click

from sri_libvirt.cli import output as out
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.config import Settings
from sri_libvirt.paths import StatePaths
from sri_libvirt.store import backup as copies
from sri_libvirt.store.database import RESTORE


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@settings_options("state_dir")
def check(file: Path | None, settings: Settings) -> None:
    """Read the state database, or a backup FILE, whole: pages, indices, every record. Status 1 if it is damaged.

    It only reads, so it works beside a running daemon.
    """
    path = file or StatePaths(settings.state_dir).database
    facts = copies.inspect(path)
    for problem in facts.problems:
        out.say(problem)
    if facts.problems:
        raise click.ClickException(f"{path} cannot be used: {RESTORE}")
    out.say(f"{path}: sound, {facts.machines} machines, schema {facts.schema}, instance {facts.instance}")
