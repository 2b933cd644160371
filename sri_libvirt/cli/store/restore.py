"""`sri-libvirt store restore`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from sri_libvirt.cli import daemon
from sri_libvirt.cli import output as out
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.config import Settings
from sri_libvirt.paths import StatePaths
from sri_libvirt.server import cordon
from sri_libvirt.store import backup as copies


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@settings_options("state_dir")
def restore(file: Path, settings: Settings) -> None:
    """Put the backup FILE in the place of the state database; the daemon must not run.

    What it replaces is kept. Machines made since the backup are then unknown: their guests run on untouched, and
    `sri-libvirt sweep` removes them only by name. Those of the backup are not started and their devices not touched
    until the machinepoollet has compared them with the API, or `sri-libvirt store confirm` says that they may be.
    """
    paths = StatePaths(settings.state_dir)
    with daemon.alone(paths):
        facts, kept = copies.restore(paths, file, time.time_ns(), keep=(cordon.META_KEY,))
    out.say(f"{facts.path} is in place: {facts.machines} machines")
    out.say("they wait until the machinepoollet, or `sri-libvirt store confirm`, confirms what they should be")
    if kept:
        out.say(f"what it replaced is kept as {kept}")
