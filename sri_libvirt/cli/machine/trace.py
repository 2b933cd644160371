"""`sri-libvirt machine trace`: where the time of what was asked last of a machine went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import click

from sri_libvirt.cli import output as out
from sri_libvirt.cli import show
from sri_libvirt.cli.find import find_ever, open_store
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.config import Settings
from sri_libvirt.errors import NotFound
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import SECOND, Event
from sri_libvirt.traces import Span

BAR = 40
AFTER = SECOND
"""How long after the last span its outcome may be told."""

ASK_SECONDS = 10.0
"""How long a daemon that is busy may take to say what it has in its memory."""

IDLE = "idle"
"""The kind of a time in which nothing was done."""

_NO_CAUSES = frozenset({"UpdateMachineAnnotations", "Exec"})


@click.command()
@click.argument("machine")
@click.option("--run", "number", type=click.IntRange(min=1), default=1, help="1 is what was asked last, 2 before that.")
@settings_options("state_dir")
@out.form("table", "json")
def trace(machine: str, number: int, settings: Settings, output: str) -> None:
    """Show where the time of a create, power change, attach, detach or delete went, as spans that add up to the whole.

    The provider has the newest of all machines in its memory. `idle` is time in which nothing could be done, as while
    the guest shuts down; a call of libvirt is a part of the action or look before it.
    """
    from sri_libvirt.server import admin  # slow to load, and seldom wanted

    with open_store(settings) as reader:
        machine_id, clock = find_ever(reader, machine), reader.clock()
        door = StatePaths(settings.state_dir).admin_socket
        told = admin.ask(door, "trace", {"machine": machine_id}, seconds=ASK_SECONDS)
        events = reader.events(machine_id)
    spans = chosen([Span(**each) for each in told], number)
    whole = partitioned(spans)
    begin, end = whole[0].begin, whole[-1].end
    seen = [each for each in events if begin <= each.time <= end + AFTER]
    if output == "json":
        shown = [{**_data(each, begin)} for each in whole]
        calls = [_data(each, begin) for each in spans if each.kind == "call"]
        out.data(
            {
                "machine": machine_id,
                "cause": whole[0].name,
                "begin": show.timestamp(clock.to_wall(begin)),
                "total_seconds": (end - begin) / SECOND,
                "spans": shown,
                "calls": calls,
                "events": [show.event(each, clock) for each in seen],
            },
            "json",
        )
        return
    out.say(f"{whole[0].name} at {show.timestamp(clock.to_wall(begin))}, {show.took(end - begin)} in all")
    rows = list(_rows(whole, [each for each in spans if each.kind == "call"], seen, begin, end))
    out.table(("AFTER", "TOOK", "WHAT", "DEVICE", ""), rows)


def chosen(spans: Sequence[Span], number: int) -> list[Span]:
    """Those of the `number`-th cause from the end: an RPC, and what was done until the next. Raises NotFound."""
    causes = [each for each in spans if each.kind == "rpc" and each.name not in _NO_CAUSES]
    if len(causes) < number:
        raise NotFound("the provider has no such run of the machine in its memory, which holds the newest of all")
    cause = causes[-number]
    until = causes[-number + 1].begin if number > 1 else None
    return [cause, *(each for each in spans if each.kind != "rpc" and each.begin >= cause.begin
                     and (until is None or each.begin < until))]  # fmt: skip


def partitioned(spans: Sequence[Span]) -> list[Span]:
    """The outer ones, one after the other, with the times between them: no moment twice, and none left out."""
    found: list[Span] = []
    cursor = spans[0].begin
    for span in sorted((each for each in spans if each.kind != "call"), key=lambda each: (each.begin, each.end)):
        if span.begin > cursor:
            found.append(Span(IDLE, IDLE, cursor, span.begin))
            cursor = span.begin
        if span.end > cursor or not found:
            found.append(Span(span.kind, span.name, cursor, max(span.end, cursor), span.device, span.parent))
            cursor = max(span.end, cursor)
    return found


def _rows(
    whole: Sequence[Span], calls: Sequence[Span], events: Sequence[Event], begin: int, end: int
) -> Iterator[tuple[str, ...]]:
    """In their order: spans, below each the calls that began in it, and what the timeline says."""
    lines: list[tuple[int, int, tuple[str, ...]]] = []
    for span in whole:
        lines.append((span.begin, 0, _row(span, span.name, begin, end)))
    for call in calls:
        # Of two outer spans at a time the later one is cut at the front, and so might begin after its first call.
        within = next((each.begin for each in whole if each.begin < call.end <= each.end), call.begin)
        lines.append((max(call.begin, within), 1, _row(call, f"  libvirt: {call.name}", begin, end)))
    for event in events:
        lines.append((event.time, 2, (_after(event.time, begin), "", f"* {event.message}", "", "")))
    for _, _, cells in sorted(lines, key=lambda line: line[:2]):
        yield cells


def _row(span: Span, what: str, begin: int, end: int) -> tuple[str, ...]:
    whole = max(end - begin, 1)
    first = min((span.begin - begin) * BAR // whole, BAR - 1)
    length = max((span.end - span.begin) * BAR // whole, 1)
    mark = "." if span.kind == IDLE else "-" if span.kind == "call" else "#"
    bar = " " * first + mark * min(length, BAR - first)
    return (_after(span.begin, begin), show.took(span.end - span.begin) or "0 ms", what, span.device, bar)


def _after(time: int, begin: int) -> str:
    return f"{(time - begin) / SECOND:.3f} s"


def _data(span: Span, begin: int) -> dict[str, Any]:
    return {
        **{key: value or None for key, value in asdict(span).items() if key not in ("begin", "end")},
        "after_seconds": (span.begin - begin) / SECOND,
        "seconds": (span.end - span.begin) / SECOND,
    }
