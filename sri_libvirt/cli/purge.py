"""`sri-libvirt purge`: all machines of this host, gone with their disks."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import click

from sri_libvirt.cli import daemon
from sri_libvirt.cli import output as out
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.config import Settings
from sri_libvirt.paths import StatePaths
from sri_libvirt.store import Store


@click.command()
@click.option("--yes", is_flag=True, help="End and remove them; without it they are only listed.")
@click.option("--none", is_flag=True, help="Fail if there are any; removes nothing.")
@settings_options("state_dir", "libvirt_uri")
@out.form("table", "json", "yaml")
def purge(yes: bool, none: bool, settings: Settings, output: str) -> None:
    """List all that carries this store's marks; --yes ends all guests and removes everything, disks included.

    For the end of a host as a pool; the daemon must not run then. Nothing is removed while libvirt cannot be asked, or
    while something below the state directory is not this store's. Status 1 when something stays.
    """
    if yes and none:
        raise click.UsageError("--yes removes, and --none does not: give one of them")
    found = _removed(settings) if yes else _listed(settings)
    if output == "table":
        if found:
            headings = ("ID", "DOMAIN", "DIRECTORY", "SECRET", *(["OUTCOME"] if yes else []))
            out.table(headings, [_row(each)[: len(headings)] for each in found])
        else:
            out.say("nothing carries this store's marks")
    else:
        out.data(found, output)
    if any(each["outcome"].startswith("stays") for each in found):
        raise click.ClickException("not everything was removed")
    if none and found:
        raise click.ClickException(f"{len(found)} of this store's are there: delete the machines, or purge them")


def _listed(settings: Settings) -> list[dict[str, Any]]:
    from sri_libvirt.hypervisor.libvirt import LibvirtHypervisor
    from sri_libvirt.reconcile.purge import Purge, refuse_without_store

    paths, connect = StatePaths(settings.state_dir), LibvirtHypervisor(settings.libvirt_uri).connect
    if not paths.database.exists():
        refuse_without_store(paths, connect)
        return []
    with Store.open_read_only(paths) as reader:
        return Purge(reader, paths, connect).find()


def _removed(settings: Settings) -> list[dict[str, Any]]:
    from sri_libvirt.hypervisor.libvirt import LibvirtHypervisor
    from sri_libvirt.reconcile.purge import Purge, refuse_without_store

    paths, connect = StatePaths(settings.state_dir), LibvirtHypervisor(settings.libvirt_uri).connect
    if not paths.database.exists():
        refuse_without_store(paths, connect)
        return []
    with daemon.alone(paths), closing(Store.open(paths)) as store:
        whole = Purge(store, paths, connect)
        return whole.remove(lambda gone: store.write(lambda tx: tx.forget(gone)))


def _row(each: dict[str, Any]) -> tuple[str, ...]:
    there = ("yes" if each[what] else "no" for what in ("directory", "secret"))
    return (each["id"], each["domain"], *there, each["outcome"])
