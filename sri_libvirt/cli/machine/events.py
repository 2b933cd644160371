"""`sri-libvirt machine events`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from sri_libvirt import printable
from sri_libvirt.cli import output as out
from sri_libvirt.cli import show
from sri_libvirt.cli.find import find_ever, open_store
from sri_libvirt.cli.machine.following import changes
from sri_libvirt.cli.options import Duration
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.clock import SteadyClock
from sri_libvirt.config import Settings
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import SECOND, Event
from sri_libvirt.store import Reader

HEADINGS = ("TIME", "REASON", "TOOK", "MESSAGE")
LATE = 60 * SECOND
"""How long after its time a line that comes once more may be written down."""

OF_ALL = ("TIME", "MACHINE", "REASON", "TOOK", "MESSAGE")


@click.command()
@click.argument("machine", required=False)
@click.option("-A", "--all", "everybody", is_flag=True, help="Of all machines, also of those that are gone.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--since", type=Duration(), help="Only of the last, as 10m or 2h.")
@settings_options("state_dir")
@out.form("table", "json", "yaml")
def events(
    machine: str | None, *, everybody: bool, follow: bool, since: int | None, settings: Settings, output: str
) -> None:
    """Show a machine's timeline, or those of all, oldest first.

    TOOK says how long something lasted, or how long after what has caused it it came. A machine that is gone is known
    for a week. Followed as JSON, each line is one object.
    """
    if (machine is None) != everybody:
        raise click.UsageError("give either a MACHINE or --all")
    if follow and output == "yaml":
        raise click.UsageError("--follow goes with a table or with -o json")
    with open_store(settings) as reader:
        machines = [find_ever(reader, machine)] if machine is not None else None
        clock = reader.clock()
        least = max(clock() - since, 0) if since is not None else 0
        if not follow:
            found = [event for _, event in reader.timelines(machines, since=least)]
            _print(found, clock, output, of_all=everybody)
            return
        for each in _followed(reader, StatePaths(settings.state_dir), machines, least):
            _print_line(each, clock, output, of_all=everybody)


def _followed(reader: Reader, paths: StatePaths, machines: Sequence[str] | None, since: int) -> Iterator[Event]:
    """What there is, then what comes: new lines, and those that have come once more."""
    latest, counts = 0, dict[int, int]()
    for changed in changes(paths):
        wanted = machines if changed is None else sorted(changed.intersection(machines or changed))
        if wanted == []:
            continue
        for number, event in reader.timelines(wanted, since=since, after=latest):
            if counts.get(number) != event.count:
                counts[number] = event.count
                yield event
        latest = max(counts, default=latest)
        since = max(since, reader.clock()() - LATE)


def _cells(event: Event, clock: SteadyClock, *, of_all: bool) -> tuple[str, ...]:
    time = show.timestamp(clock.to_wall(event.time)) or ""
    took = show.took(event.took, event.measure)
    machine = (event.machine,) if of_all else ()
    return (time, *machine, event.reason, took, _told(event, clock))


def _print(found: Sequence[Event], clock: SteadyClock, output: str, *, of_all: bool) -> None:
    if output != "table":
        out.data([_data(event, clock, of_all=of_all) for event in found], output)
        return
    rows = [_cells(event, clock, of_all=of_all) for event in found]
    out.table(OF_ALL if of_all else HEADINGS, rows, shorten="MESSAGE")


def _print_line(event: Event, clock: SteadyClock, output: str, *, of_all: bool) -> None:
    if output == "json":
        out.document(printable.json_text(_data(event, clock, of_all=of_all)))
    else:
        out.row(_cells(event, clock, of_all=of_all))
    out.flush()


def _data(event: Event, clock: SteadyClock, *, of_all: bool) -> dict[str, object]:
    return {**({"machine": event.machine} if of_all else {}), **show.event(event, clock)}


def _told(event: Event, clock: SteadyClock) -> str:
    """What happened and, of what happened more than once in a row, how often."""
    if event.count == 1:
        return event.message
    return f"{event.message} ({event.count} times, last {show.timestamp(clock.to_wall(event.latest))})"
