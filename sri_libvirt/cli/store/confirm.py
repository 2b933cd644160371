"""`sri-libvirt store confirm`."""

from __future__ import annotations

import click

from sri_libvirt.cli import daemon
from sri_libvirt.cli import output as out
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.cli.reading import open_store
from sri_libvirt.config import Settings
from sri_libvirt.paths import StatePaths
from sri_libvirt.views.find import find


@click.command()
@click.argument("machine", nargs=-1)
@settings_options("state_dir")
def confirm(machine: tuple[str, ...], settings: Settings) -> None:
    """Say of machines of a restored backup that they are still to be as it says: MACHINE, or all that wait.

    A machinepoollet does so by itself. Without one, look first whether a volume has gone to another machine since.
    """
    ids: list[str] = []
    if machine:
        with open_store(settings) as reader:
            ids = [find(reader, word).id for word in machine]
    paths = StatePaths(settings.state_dir)

    def here() -> dict[str, int]:
        from sri_libvirt.server import confirming
        from sri_libvirt.store import Store

        if not paths.database.exists():
            raise click.ClickException(f"there is no state database in {paths.root}: has the daemon ever run?")
        store = Store.open(paths)
        try:
            store.write(lambda tx: confirming.begin(tx, store.clock()))
            return {"confirmed": len(store.write(lambda tx: confirming.confirm(tx, ids, "the operator")))}
        finally:
            store.close()

    done = daemon.through(paths, "confirm", {"ids": ids}, here)
    out.say(f"{done['confirmed']} machines are confirmed")
