"""`machine trace`: spans that add up to the whole, whatever was done and however it overlaps."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sri_libvirt.cli.machine import trace
from sri_libvirt.errors import NotFound
from sri_libvirt.paths import StatePaths
from sri_libvirt.reconcile.firstbyte import NAME
from sri_libvirt.records import SECOND, Event
from sri_libvirt.server import asking
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


def test_a_guest_boots_where_nothing_else_is_done() -> None:
    spans = [
        span("rpc", "CreateMachine", 0, 5),
        span("action", "Start", 5, 100),
        span("guest", NAME, 90, 900),  # it runs before the start is on record
        span("look", "Look", 120, 130),
        span("action", "PlugDevice", 700, 800),
        span("action", "UnplugDevice", 950, 960),
    ]
    whole = trace.partitioned(spans)
    assert [(each.name, (each.begin - NOW) // MS, (each.end - NOW) // MS) for each in whole] == [
        ("CreateMachine", 0, 5), ("Start", 5, 100), (NAME, 100, 120), ("Look", 120, 130), (NAME, 130, 700),
        ("PlugDevice", 700, 800), (NAME, 800, 900), ("idle", 900, 950), ("UnplugDevice", 950, 960),
    ]  # fmt: skip
    assert trace.partitioned(spans[:3])[-1] == span("guest", NAME, 100, 900), "which is a part of the whole"


def test_a_boot_is_in_the_run_that_has_its_start_though_others_are_begun_meanwhile(
    cli: Cli, store: Store, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    StatePaths(state_dir).admin_socket.touch()
    spans = [
        span("rpc", "CreateMachine", 0, 5),
        span("action", "Start", 1_000, 4_000),
        span("rpc", "AttachVolume", 2_000, 2_005),
        span("guest", NAME, 3_990, 34_000),
        span("action", "PlugDevice", 4_100, 4_200),
    ]
    monkeypatch.setattr(asking, "ask", lambda *_, **__: [asdict(each) for each in spans])
    for at, message in ((4_000, "the guest is started"), (20_000, "something of later")):
        event = Event("state", "x", message, NOW + at * MS)
        store.write(lambda tx, event=event: tx.add_event(WEB, event))  # type: ignore[misc]
    created = json.loads(cli("machine", "trace", WEB, "--run", "2", "-o", "json").out)
    assert (created["cause"], created["total_seconds"], len(created["first_bytes"])) == ("CreateMachine", 34.0, 1)
    assert "something of later" not in [each["message"] for each in created["events"]]
    attached = json.loads(cli("machine", "trace", WEB, "-o", "json").out)
    assert (attached["cause"], attached["total_seconds"], attached["first_bytes"]) == ("AttachVolume", 2.2, [])


KINDS = ["wait", "look", "action", "call", "guest"]


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000), st.sampled_from(KINDS))))
def test_spans_add_up_to_the_whole(given_spans: list[tuple[int, int, str]]) -> None:
    spans = [span("rpc", "CreateMachine", 0, 5)]
    spans += [span(kind, "x", begin, begin + length) for begin, length, kind in given_spans]
    whole = trace.partitioned(spans)
    outer = [each for each in spans if each.kind != "call"]
    total = max(each.end for each in outer) - spans[0].begin
    assert sum(each.end - each.begin for each in whole) == total
    assert all(one.end == other.begin for one, other in pairwise(whole))


@pytest.mark.usefixtures("store")
def test_the_first_byte_is_told_though_others_worked_meanwhile(
    cli: Cli, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    StatePaths(state_dir).admin_socket.touch()
    spans = [
        span("rpc", "CreateMachine", 0, 5),
        span("action", "Start", 5, 100),
        span("guest", NAME, 95, 600),
        span("action", "PlugDevice", 200, 500),
    ]
    monkeypatch.setattr(asking, "ask", lambda *_, **__: [asdict(each) for each in spans])
    first, _, *lines = cli("machine", "trace", WEB).out.splitlines()
    assert first.endswith("600 ms in all, 200 ms of it the guest's")
    rows = [re.split(r"  +", line) for line in lines]
    assert [row[2] for row in rows[:-1]] == ["CreateMachine", "Start", NAME, "PlugDevice", NAME]
    assert rows[-1] == ["0.600 s", "* the first byte on its console"]
    assert lines[-2].count("=") == 6
    found = json.loads(cli("machine", "trace", WEB, "-o", "json").out)
    assert sum(each["seconds"] for each in found["spans"]) == pytest.approx(0.6)
    assert [(each["after_seconds"], each["seconds"]) for each in found["first_bytes"]] == [(0.095, 0.505)]


def test_a_table_and_data(cli: Cli, store: Store, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    StatePaths(state_dir).admin_socket.touch()
    asked: list[Any] = []

    def ask(_path: object, command: str, arguments: object, *, seconds: float) -> list[dict[str, Any]]:
        asked.append((command, arguments))
        return [asdict(each) for each in START]

    monkeypatch.setattr(asking, "ask", ask)
    event = Event("state", "running", "the machine is running", NOW + 450 * MS)
    store.write(lambda tx: tx.add_event(WEB, event))
    lines = cli("machine", "trace", "default/web", "--run", "2").out.splitlines()
    assert asked == [("spans", {"machine": WEB})]
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
    cli: Cli, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    StatePaths(state_dir).admin_socket.touch()
    spans = [
        span("rpc", "CreateMachine", 0, 17),
        span("look", "Look", 10, 28),
        span("call", "connect", 16, 24),
        span("action", "Start", 28, 100),
    ]
    monkeypatch.setattr(asking, "ask", lambda *_, **__: [asdict(each) for each in spans])
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
