"""`sri-libvirt machine events`."""

from __future__ import annotations

import click

from sri_libvirt.cli.machine import output as out
from sri_libvirt.cli.machine import show
from sri_libvirt.cli.machine.find import find, open_store
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.clock import SteadyClock
from sri_libvirt.config import Settings
from sri_libvirt.records import Event


@click.command()
@click.argument("machine")
@settings_options("state_dir")
@out.form("table", "json", "yaml")
def events(machine: str, settings: Settings, output: str) -> None:
    """Show a machine's timeline, oldest first; by its whole id also of one that is gone."""
    with open_store(settings) as reader:
        clock = reader.clock()
        timeline = reader.events(machine) or reader.events(find(reader, machine).id)
    if output != "table":
        out.data([show.event(event, clock) for event in timeline], output)
        return
    rows = [
        (
            show.timestamp(clock.to_wall(each.time)) or "",
            each.reason,
            show.took(each.took, each.measure),
            _told(each, clock),
        )
        for each in timeline
    ]
    out.table(("TIME", "REASON", "TOOK", "MESSAGE"), rows, shorten="MESSAGE")


def _told(event: Event, clock: SteadyClock) -> str:
    """What happened and, of what happened more than once in a row, how often."""
    if event.count == 1:
        return event.message
    return f"{event.message} ({event.count} times, last {show.timestamp(clock.to_wall(event.latest))})"
