"""`sri-libvirt machine describe`: one page of a machine, also of one that is gone."""

from __future__ import annotations

import click

from sri_libvirt.cli import output as out
from sri_libvirt.cli.machine import page
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.cli.reading import reading
from sri_libvirt.config import Settings


@click.command()
@click.argument("machine")
@settings_options("state_dir", "libvirt_uri", "procfs")
@out.form("text", "json", "yaml")
def describe(machine: str, settings: Settings, output: str) -> None:
    """Show all of one machine on a page; of one that is gone what is still known, by its name too.

    libvirt, the daemon and the backends of volumes are asked, for some seconds at most; without them the rest is shown.
    """
    with reading(settings) as ask:
        found = ask("describe", machine=machine)
    if output == "text":
        page.show(found)
    else:
        out.data(found, output)
