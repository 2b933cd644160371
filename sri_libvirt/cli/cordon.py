"""`sri-libvirt cordon` and `uncordon`: whether this host takes new machines."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from sri_libvirt.cli import daemon
from sri_libvirt.cli import output as out
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.config import Settings
from sri_libvirt.paths import StatePaths


@click.command()
@click.option("--reason", default="", help="What is told to whoever is refused.")
@settings_options("state_dir")
def cordon(reason: str, settings: Settings) -> None:
    """Take no new machines; those that exist go on.

    Status shows what exists and no more, CreateMachine is UNAVAILABLE with the reason. Remembered until `uncordon`.
    """
    change(settings, "cordon", reason)
    out.say("cordoned: no new machines are taken")


@click.command()
@settings_options("state_dir")
def uncordon(settings: Settings) -> None:
    """Take new machines again, and start what `drain` has switched off."""
    change(settings, "uncordon", "")
    out.say("uncordoned: new machines are taken")


def change(settings: Settings, command: str, reason: str) -> dict[str, Any]:
    """Have the daemon do it, or the store remember it for the next one."""
    paths = StatePaths(settings.state_dir)

    def here() -> dict[str, Any]:
        from sri_libvirt.server import cordon as keeper
        from sri_libvirt.store import Store

        if not paths.database.exists():
            raise click.ClickException(f"there is no state database in {paths.root}: has the daemon ever run?")
        store = Store.open(paths)
        try:
            return asdict(store.write(lambda tx: keeper.put(tx, command, reason, store.clock())))
        finally:
            store.close()

    state: dict[str, Any] = daemon.through(paths, command, {"reason": reason}, here)
    return state
