"""`sri-libvirt sweep`: what carries this store's marks and belongs to no machine."""

from __future__ import annotations

from typing import Any

import click

from sri_libvirt.cli import daemon
from sri_libvirt.cli import output as out
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.config import Settings
from sri_libvirt.paths import StatePaths
from sri_libvirt.store import Store


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--yes", is_flag=True, help="Remove them; without it they are only listed.")
@click.option("--running", is_flag=True, help="Also end guests that run.")
@settings_options("state_dir", "libvirt_uri")
@out.form("table", "json", "yaml")
def sweep(ids: tuple[str, ...], yes: bool, running: bool, settings: Settings, output: str) -> None:
    """List domains, machine directories and secrets with this store's marks and without a machine; --yes removes them.

    So it does with rules of network filters that no guest needs any more, by the names of the devices that had them.
    With IDs only those. What carries other marks, or none, is never touched. After a restore of a backup only what is
    named is removed: it may be a machine that the backup does not know. Status 1 when something that was to go stays.
    """
    paths = StatePaths(settings.state_dir)
    arguments = {"ids": list(ids), "remove": yes, "running": running}
    found = daemon.through(paths, "sweep", arguments, lambda: _here(paths, settings.libvirt_uri, arguments))
    if output == "table":
        _print(found)
    else:
        out.data(found, output)
    if any(entry["outcome"].startswith("stays") for entry in found):
        raise click.ClickException("not everything was removed")


def _here(paths: StatePaths, libvirt_uri: str, arguments: dict[str, Any]) -> Any:
    from sri_libvirt.hypervisor.libvirt import LibvirtHypervisor
    from sri_libvirt.reconcile import orphans

    with Store.open_read_only(paths) as reader:
        return orphans.sweep(orphans.Orphans(reader, paths, LibvirtHypervisor(libvirt_uri).connect), arguments)


def _print(found: list[dict[str, Any]]) -> None:
    if not found:
        out.say("nothing: everything with this store's marks belongs to a machine")
        return
    rows = [
        (
            entry["id"],
            entry["domain"],
            "yes" if entry["directory"] else "no",
            "yes" if entry["secret"] else "no",
            "yes" if entry["filter"] else "no",
            entry["outcome"] or _note(entry),
        )
        for entry in found
    ]
    last = "OUTCOME" if found[0]["outcome"] else "NOTE"
    out.table(("ID", "DOMAIN", "DIRECTORY", "SECRET", "FILTER", last), rows)


def _note(entry: dict[str, Any]) -> str:
    if entry["held"]:
        return str(entry["held"])
    return "only by name: the store is a restored backup" if entry["by_name"] else ""
