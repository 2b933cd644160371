"""`sri-libvirt machine events`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import click

from sri_libvirt import printable
from sri_libvirt.cli import output as out
from sri_libvirt.cli.machine.following import follow
from sri_libvirt.cli.options import Duration
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.cli.reading import Ask, reading
from sri_libvirt.config import Settings
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import SECOND
from sri_libvirt.views import show

HEADINGS = ("TIME", "REASON", "TOOK", "MESSAGE")
OF_ALL = ("TIME", "MACHINE", "REASON", "TOOK", "MESSAGE")
LATE = 60 * SECOND
"""How long after its time a line that comes once more may be written down."""

Line = Mapping[str, Any]
"""A line of a timeline, with its number."""


@click.command()
@click.argument("machine", required=False)
@click.option("-A", "--all", "everybody", is_flag=True, help="Of all machines, also of those that are gone.")
@click.option("-f", "--follow", "followed", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--since", type=Duration(), help="Only of the last, as 10m or 2h.")
@settings_options("state_dir")
@out.form("table", "json", "yaml")
def events(
    machine: str | None, *, everybody: bool, followed: bool, since: int | None, settings: Settings, output: str
) -> None:
    """Show a machine's timeline, or those of all, oldest first.

    TOOK says how long something lasted, or how long after what has caused it it came. A machine that is gone is known
    for a week. Followed as JSON, each line is one object.
    """
    if (machine is None) != everybody:
        raise click.UsageError("give either a MACHINE or --all")
    if followed and output == "yaml":
        raise click.UsageError("--follow goes with a table or with -o json")
    with reading(settings) as ask:
        wanted = {"machine": machine} if machine is not None else {}
        if followed:
            found = ask("events", **wanted, ago=since)
            told = partial(_print_line, output=output, of_all=everybody)
            _follow(ask, StatePaths(settings.state_dir), found["ids"], found["since"], told)
        else:
            _print(_whole(ask, **wanted, ago=since)["events"], output, of_all=everybody)


def _whole(ask: Ask, **wanted: Any) -> dict[str, Any]:
    """The answer with all lines, which may be more than one holds."""
    whole: dict[str, Any] = ask("events", **wanted)
    more = whole["more"]
    while more:
        rest = {"ids": whole["ids"], "since": whole["since"], "after": wanted.get("after")}
        told = ask("events", **rest, beyond=whole["events"][-1]["number"])
        whole["events"] += told["events"]
        more = told["more"]
    return whole


def _follow(
    ask: Ask, paths: StatePaths, machines: Sequence[str] | None, since: int, tell: Callable[[Line], None]
) -> None:
    """Tell what there is, then what comes: new lines, and those that have come once more."""
    latest, counts = 0, dict[int, int]()

    def act(changed: frozenset[str] | None) -> bool:
        nonlocal latest, since
        wanted = machines if changed is None else sorted(changed.intersection(machines or changed))
        if wanted == []:
            return True
        told = _whole(ask, ids=wanted, since=since, after=latest)
        for line in told["events"]:
            if counts.get(line["number"]) != line["count"]:
                counts[line["number"]] = line["count"]
                tell(line)
        latest = max(counts, default=latest)
        since = max(since, told["now"] - LATE)
        return True

    follow(ask, paths, act)


def _cells(line: Line, *, of_all: bool) -> tuple[str, ...]:
    took = show.took(round((line["took_seconds"] or 0) * SECOND), line["took_of"] or "")
    machine = (line["machine"],) if of_all else ()
    return (line["time"], *machine, line["reason"], took, _told(line))


def _print(found: Sequence[Line], output: str, *, of_all: bool) -> None:
    if output != "table":
        out.data([_data(line, of_all=of_all) for line in found], output)
        return
    rows = [_cells(line, of_all=of_all) for line in found]
    out.table(OF_ALL if of_all else HEADINGS, rows, shorten="MESSAGE")


def _print_line(line: Line, output: str, *, of_all: bool) -> None:
    if output == "json":
        out.document(printable.json_text(_data(line, of_all=of_all)))
    else:
        out.row(_cells(line, of_all=of_all))
    out.flush()


def _data(line: Line, *, of_all: bool) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key != "number" and (of_all or key != "machine")}


def _told(line: Line) -> str:
    """What happened and, of what happened more than once in a row, how often."""
    message: str = line["message"]
    return message if line["count"] == 1 else f"{message} ({line['count']} times, last {line['last']})"
