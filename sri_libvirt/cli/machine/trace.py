"""`sri-libvirt machine trace`: where the time of what was asked last of a machine went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import click

from sri_libvirt.cli import output as out
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.cli.reading import reading
from sri_libvirt.config import Settings
from sri_libvirt.errors import NotFound
from sri_libvirt.records import SECOND
from sri_libvirt.traces import Span
from sri_libvirt.views import show

BAR = 40
AFTER = SECOND
"""How long after the last span its outcome may be told."""

IDLE = "idle"
"""The kind of a time in which nothing was done."""

GUEST = "guest"
SPOKE = "the first byte on its console"

_MARKS = {IDLE: ".", "call": "-", GUEST: "="}

_NO_CAUSES = frozenset({"UpdateMachineAnnotations", "Exec"})


@click.command()
@click.argument("machine")
@click.option("--run", "number", type=click.IntRange(min=1), default=1, help="1 is what was asked last, 2 before that.")
@settings_options("state_dir")
@out.form("table", "json")
def trace(machine: str, number: int, settings: Settings, output: str) -> None:
    """Show where the time of a create, power change, attach, detach or delete went, as spans that add up to the whole.

    The provider has the newest of all machines in its memory. `idle` is time in which nothing could be done, as while
    the guest shuts down; a call of libvirt is a part of the action or look before it. A guest's time to the first byte
    on its console is shown where nothing else was done meanwhile, and only once that byte is there.
    """
    with reading(settings) as ask:
        told = ask("trace", machine=machine)
    spans = chosen([Span(**each) for each in told["spans"]], number)
    whole = partitioned(spans)
    begin, end = whole[0].begin, whole[-1].end
    worked = max(each.end for each in spans if each.kind != GUEST)  # a boot goes on beside what is asked for next
    seen = [each for each in told["events"] if begin <= each["at"] <= worked + AFTER]
    calls, boots = ([each for each in spans if each.kind == kind] for kind in ("call", GUEST))
    if output == "json":
        shown = [{**_data(each, begin)} for each in whole]
        out.data(
            {
                "machine": told["id"],
                "cause": whole[0].name,
                "begin": show.timestamp(begin),
                "total_seconds": (end - begin) / SECOND,
                "spans": shown,
                "calls": [_data(each, begin) for each in calls],
                "first_bytes": [_data(each, begin) for each in boots],
                "events": [{key: value for key, value in each.items() if key != "at"} for each in seen],
            },
            "json",
        )
        return
    of_guest = sum(each.end - each.begin for each in whole if each.kind == GUEST)
    share = f", {show.took(of_guest)} of it the guest's" if of_guest else ""
    out.say(f"{whole[0].name} at {show.timestamp(begin)}, {show.took(end - begin)} in all{share}")
    told_of = [(each["at"], each["message"]) for each in seen] + [(each.end, SPOKE) for each in boots]
    rows = list(_rows(whole, calls, told_of, begin, end))
    out.table(("AFTER", "TOOK", "WHAT", "DEVICE", ""), rows)


def chosen(spans: Sequence[Span], number: int) -> list[Span]:
    """Those of the `number`-th cause from the end: an RPC, and what was begun until the next. Raises NotFound."""
    causes = [each for each in spans if each.kind == "rpc" and each.name not in _NO_CAUSES]
    if len(causes) < number:
        raise NotFound("the provider has no such run of the machine in its memory, which holds the newest of all")
    cause = causes[-number]
    until = causes[-number + 1].begin if number > 1 else None
    starts = [each.begin for each in spans if each.kind == "action" and each.name == "Start"]

    def since(span: Span) -> int:
        """When it was begun: a guest with its start, though it runs from the end of that on."""
        before = [each for each in starts if each <= span.begin] if span.kind == GUEST else []
        return max(before, default=span.begin)

    return [cause, *(each for each in spans if each.kind != "rpc" and cause.begin <= since(each)
                     and (until is None or since(each) < until))]  # fmt: skip


def partitioned(spans: Sequence[Span]) -> list[Span]:
    """The outer ones, one after the other, with the times between them: no moment twice, and none left out.

    A guest boots while the provider works, so its time is what of it nothing else was done in.
    """
    boots = [each for each in spans if each.kind == GUEST]
    found: list[Span] = []
    cursor = spans[0].begin
    work = (each for each in spans if each.kind not in ("call", GUEST))
    for span in sorted(work, key=lambda each: (each.begin, each.end)):
        found += _between(cursor, span.begin, boots)
        cursor = max(cursor, span.begin)
        if span.end > cursor or not found:
            found.append(replace(span, begin=cursor, end=max(span.end, cursor)))
            cursor = max(span.end, cursor)
    return [*found, *_between(cursor, max((each.end for each in boots), default=cursor), boots)]


def _between(begin: int, end: int, boots: Sequence[Span]) -> Iterator[Span]:
    """What a time is in which the provider did nothing: a guest's while one boots, idle else."""
    for boot in boots:
        if max(begin, boot.begin) < min(end, boot.end):
            if begin < boot.begin:
                yield Span(IDLE, IDLE, begin, boot.begin)
            yield replace(boot, begin=max(begin, boot.begin), end=min(end, boot.end))
            begin = boot.end
    if begin < end:
        yield Span(IDLE, IDLE, begin, end)


def _rows(
    whole: Sequence[Span], calls: Sequence[Span], moments: Sequence[tuple[int, str]], begin: int, end: int
) -> Iterator[tuple[str, ...]]:
    """In their order: spans, below each the calls that began in it, and what happened when."""
    lines: list[tuple[int, int, tuple[str, ...]]] = []
    for span in whole:
        lines.append((span.begin, 0, _row(span, span.name, begin, end)))
    for call in calls:
        # Of two outer spans at a time the later one is cut at the front, and so might begin after its first call.
        within = next((each.begin for each in whole if each.begin < call.end <= each.end), call.begin)
        lines.append((max(call.begin, within), 1, _row(call, f"  libvirt: {call.name}", begin, end)))
    for at, message in moments:
        lines.append((at, 2, (_after(at, begin), "", f"* {message}", "", "")))
    for _, _, cells in sorted(lines, key=lambda line: line[:2]):
        yield cells


def _row(span: Span, what: str, begin: int, end: int) -> tuple[str, ...]:
    whole = max(end - begin, 1)
    first = min((span.begin - begin) * BAR // whole, BAR - 1)
    length = max((span.end - span.begin) * BAR // whole, 1)
    mark = _MARKS.get(span.kind, "#")
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
