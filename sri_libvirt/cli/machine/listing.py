"""`sri-libvirt machine list`."""

from __future__ import annotations

import click

from sri_libvirt.cli.machine import output as out
from sri_libvirt.cli.machine import show
from sri_libvirt.cli.machine.find import open_store
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.config import Settings
from sri_libvirt.records import class_name


@click.command("list")
@settings_options("state_dir")
@out.form("table", "json", "yaml")
def list_machines(settings: Settings, output: str) -> None:
    """List the machines of this host."""
    with open_store(settings) as reader:
        (machines, damaged), clock = reader.readable(), reader.clock()
    if output != "table":
        shown = [show.brief(machine, clock) for machine in machines]
        out.data([*shown, *(show.unreadable(*each) for each in damaged.items())], output)
        return
    now = clock.wall()
    rows = [
        (
            machine.id,
            show.name(machine),
            class_name(machine.spec),
            show.power(machine),
            show.state(machine) + (" (deleting)" if machine.deleted_at else ""),
            show.ago(machine.created_at, now),
            machine.reasons[0].message if machine.reasons else "",
        )
        for machine in machines
    ]
    rows += [(each, "", "", "", "?", "", problem) for each, problem in damaged.items()]
    out.table(("ID", "NAME", "CLASS", "POWER", "STATE", "AGE", "WHY"), rows)
