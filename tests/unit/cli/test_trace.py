"""`machine trace`: spans that add up to the whole, whatever was done and however it overlaps."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sri_libvirt.cli.machine import trace
from sri_libvirt.errors import NotFound
from sri_libvirt.records import SECOND, Event
from sri_libvirt.server import admin
from sri_libvirt.store import Store
from sri_libvirt.traces import MOST, Lap, Span, Traces
from tests.unit.cli.conftest import NOW, WEB, Cli

MS = SECOND // 1000


def span(kind: str, name: str, begin: int, end: int, device: str = "") -> Span:
    return Span(kind, name, NOW + begin * MS, NOW + end * MS, device)


START = [
    span("rpc", "CreateMachine", 0, 5),
    span("wait", "for a lane", 3, 9),
    span("look", "Look", 9, 12),
    span("call", "snapshot", 10, 11),
    span("action", "PrepareDevice", 12, 40, "ua-vol-a-1"),
    span("action", "Start", 100, 500),
    span("call", "start", 101, 499),
    span("rpc", "UpdateMachineAnnotations", 501, 502),
    span("rpc", "UpdateMachinePower", 900, 905),
    span("action", "PressButton", 906, 910),
]


def test_the_spans_of_a_cause_are_one_after_the_other_and_name_what_was_idle() -> None:
    whole = trace.partitioned(trace.chosen(START, 2))
    assert [(each.name, (each.begin - NOW) // MS, (each.end - NOW) // MS) for each in whole] == [
        ("CreateMachine", 0, 5), ("for a lane", 5, 9), ("Look", 9, 12), ("PrepareDevice", 12, 40),
        ("idle", 40, 100), ("Start", 100, 500),
    ]  # fmt: skip
    assert [each.name for each in trace.partitioned(trace.chosen(START, 1))] == [
        "UpdateMachinePower",
        "idle",
        "PressButton",
    ]
    with pytest.raises(NotFound, match="no such run"):
        trace.chosen(START, 3)


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000), st.sampled_from(["wait", "look", "action", "call"])))
)
def test_spans_add_up_to_the_whole(given_spans: list[tuple[int, int, str]]) -> None:
    spans = [span("rpc", "CreateMachine", 0, 5)]
    spans += [span(kind, "x", begin, begin + length) for begin, length, kind in given_spans]
    whole = trace.partitioned(spans)
    outer = [each for each in spans if each.kind != "call"]
    total = max(each.end for each in outer) - spans[0].begin
    assert sum(each.end - each.begin for each in whole) == total
    assert all(one.end == other.begin for one, other in pairwise(whole))


def test_a_table_and_data(cli: Cli, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def ask(_path: object, command: str, arguments: object, *, seconds: float) -> list[dict[str, Any]]:
        asked.append((command, arguments))
        return [asdict(each) for each in START]

    monkeypatch.setattr(admin, "ask", ask)
    event = Event("state", "running", "the machine is running", NOW + 450 * MS)
    store.write(lambda tx: tx.add_event(WEB, event))
    lines = cli("machine", "trace", "default/web", "--run", "2").out.splitlines()
    assert asked == [("trace", {"machine": WEB})]
    assert lines[0] == "CreateMachine at 2023-11-14T22:13:20Z, 500 ms in all"
    assert [line.split()[0] for line in lines[2:]] == [
        "0.000", "0.005", "0.009", "0.010", "0.012", "0.040", "0.100", "0.101", "0.450",
    ]  # fmt: skip
    assert lines[-1].split(maxsplit=2)[2] == "* the machine is running"
    start = next(line for line in lines if " Start " in line)
    assert start.endswith("#" * 32)
    assert start.count("#") == 32, "four fifths of forty"
    found = json.loads(cli("machine", "trace", WEB, "--run", "2", "-o", "json").out)
    assert found["total_seconds"] == 0.5
    assert sum(each["seconds"] for each in found["spans"]) == pytest.approx(0.5)
    assert [each["name"] for each in found["calls"]] == ["snapshot", "start"]
    assert found["spans"][3]["device"] == "ua-vol-a-1"


@pytest.mark.usefixtures("store")
def test_a_call_stands_below_its_span_though_that_is_cut_at_the_front(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans = [
        span("rpc", "CreateMachine", 0, 17),
        span("look", "Look", 10, 28),
        span("call", "connect", 16, 24),
        span("action", "Start", 28, 100),
    ]
    monkeypatch.setattr(admin, "ask", lambda *_, **__: [asdict(each) for each in spans])
    lines = cli("machine", "trace", WEB).out.splitlines()[2:]
    assert [re.split(r"  +", line)[2] for line in lines] == ["CreateMachine", "Look", "libvirt: connect", "Start"]


def test_traces_keep_the_newest_of_all_by_the_steady_clock() -> None:
    traces = Traces(lambda: 7 * SECOND)
    now = time.monotonic()
    traces.add("a", [Lap("call", "start", now - 0.5, now - 0.1), Lap("action", "Start", now - 1.0, now)])
    outer, inner = traces.of("a")
    assert (outer.name, inner.name) == ("Start", "start")
    assert outer.end - outer.begin == pytest.approx(SECOND, abs=10)
    assert abs(outer.end - 7 * SECOND) < SECOND
    assert traces.of("b") == []
    for _ in range(MOST):
        traces.add("b", [Lap("look", "Look", now, now)])
    assert (traces.of("a"), len(traces.of("b"))) == ([], MOST)
