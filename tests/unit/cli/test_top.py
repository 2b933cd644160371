"""`top`: what counters are a second, what is told of figures that are old, and the order of guests."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from sri_libvirt.cli import top as command
from sri_libvirt.cli.top.sampling import Rates, Sample, Sampler, rates
from sri_libvirt.errors import Unreachable
from sri_libvirt.hypervisor import statistics
from sri_libvirt.hypervisor.statistics import Figures
from tests.unit.cli.conftest import DB, WEB, Cli

FIRST = Figures(at=10.0, cpu=1.0, steal=0.5, resident=100, read=1000, written=0, received=7, sent=None)
LAST = Figures(at=12.0, cpu=2.0, steal=0.5, resident=200, read=3000, written=10, received=5, sent=9)


def test_what_libvirt_says() -> None:
    values: dict[str, Any] = {
        "state.state": 1, "cpu.time": 1_500_000_000, "balloon.rss": 2048, "vcpu.current": 2,
        "vcpu.0.delay": 250_000_000, "vcpu.1.delay": 250_000_000, "vcpu.0.time": 7,
        "net.count": 2, "net.0.rx.bytes": 1, "net.1.rx.bytes": 2, "net.0.tx.bytes": 5,
        "block.count": 1, "block.0.rd.bytes": 512, "block.0.wr.bytes": 1024,
    }  # fmt: skip
    assert statistics.figures(values, 7.0) == Figures(7.0, 1.5, 0.5, 2048 * 1024, 512, 1024, 3, 5)
    assert statistics.figures({}, 7.0) == Figures(7.0, None, None, None, None, None, None, None)
    assert statistics.figures({"net.count": 0}, 7.0).received == 0, "a guest without network receives nothing"


def test_counters_become_what_they_are_a_second() -> None:
    assert rates(FIRST, LAST) == Rates(cpu=0.5, steal=0.0, resident=200, read=1000.0, written=5.0)
    assert rates(None, LAST) == Rates(resident=200), "it was seen once only"
    assert rates(LAST, replace(LAST, at=13.0, cpu=0.1)).cpu is None, "it was started anew"


def test_a_call_that_hangs_or_fails_leaves_what_was_known_and_is_told_of() -> None:
    answers: list[Mapping[str, Figures] | Exception] = [{WEB: FIRST}, {WEB: LAST}, Unreachable("it is away")]

    def read() -> Mapping[str, Figures]:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    sampler = Sampler(read, 0.1)
    assert sampler.latest() == Sample()
    sampler.sample()
    sampler.sample()
    assert sampler.latest().rates[WEB].cpu == 0.5
    sampler.sample()
    latest = sampler.latest()
    assert (latest.rates[WEB].cpu, latest.problem) == (0.5, "it is away")
    assert latest.age is not None


def test_a_sampler_that_waits_for_libvirt_keeps_nobody_waiting() -> None:
    hangs = threading.Event()

    def read() -> Mapping[str, Figures]:
        hangs.wait(60)
        return {}

    sampler = Sampler(read, 0.01)
    sampler.start()
    sampler.wait(0.05)
    assert sampler.latest() == Sample()
    hangs.set()


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the next look finds."""
    found: dict[str, Any] = {"rates": {WEB: Rates(cpu=0.25, resident=1 << 28, read=2048.0)}, "age": 0.5}
    monkeypatch.setattr(command, "_reader", lambda _: dict)
    monkeypatch.setattr(Sampler, "start", lambda _: None)
    monkeypatch.setattr(Sampler, "wait", lambda *_: None)
    monkeypatch.setattr(Sampler, "latest", lambda _: Sample(**found))
    return found


@pytest.mark.usefixtures("store")
def test_a_table_and_data(cli: Cli, sample: dict[str, Any]) -> None:
    lines = [" ".join(line.split()) for line in cli("top", "-b", "-n", "1").out.splitlines()]
    assert lines[0] == "NAME STATE CPU STEAL MEMORY OF READ/s WRITE/s RECV/s SENT/s ID"
    assert lines[1] == f"default/web RUNNING 25 % - 256 MiB 1 GiB 2 KiB - - - {WEB}"
    found = json.loads(cli("top", "-n", "1", "-o", "json").out)
    assert (found["age_seconds"], found["problem"]) == (0.5, None)
    one, other = found["machines"]
    assert (one["cpu_share"], one["resident_bytes"], one["id"]) == (0.25, 1 << 28, WEB)
    assert (other["cpu_share"], other["id"]) == (None, DB)
    sample["rates"][DB] = Rates(cpu=0.1, received=5.0)
    order = {
        key: [each["id"] for each in json.loads(cli("top", "-n", "1", "--sort", key, "-o", "json").out)["machines"]]
        for key in ("cpu", "network", "name", "disk")
    }
    assert order == {"cpu": [WEB, DB], "network": [DB, WEB], "name": [DB, WEB], "disk": [WEB, DB]}


@pytest.mark.usefixtures("store")
def test_figures_that_are_old_are_called_so(cli: Cli, sample: dict[str, Any]) -> None:
    assert "libvirt" not in cli("top", "-b", "-n", "1").out
    sample["age"] = 20.0
    assert cli("top", "-b", "-n", "1").out.startswith("libvirt does not answer: these figures are 20 s old\n")
    sample["problem"] = "it is away"
    assert cli("top", "-b", "-n", "1").out.startswith("no newer figures: it is away\n")
    sample["age"] = None
    assert (cli("top", "-b", "-n", "1").status, cli("top", "-b", "-n", "1").err) == (1, "sri-libvirt: it is away\n")
