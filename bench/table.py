"""Figures, and how they are shown: a table for people, JSON for scripts.

How a figure comes about does not belong here.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Figure:
    """One measured figure. `goal` and `peer` are in `unit` too; None: there is none.

    `alternative` is what was measured beside it, `on` where it ran ("fake": the fake hypervisor; "libvirt": real QEMU),
    `note` what it is made of.
    """

    name: str
    unit: str
    value: float
    goal: float | None = None
    peer: str = ""
    p99: float | None = None
    p99_goal: float | None = None
    alternative: str = ""
    alternative_value: float | None = None
    on: str = "fake"
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether both goals are; None without a goal."""
        if self.goal is None:
            return None
        late = self.p99 is not None and self.p99_goal is not None and self.p99 > self.p99_goal
        return self.value <= self.goal and not late


@dataclass
class Report:
    """All figures of a run, the machine that it ran on, and what could not be measured."""

    figures: list[Figure] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """The table, the notes below it."""
        rows = [("figure", "ours", "goal", "", "beside it", "peer", "on"), *map(_row, self.figures)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [machine(), ""]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        lines += ["", *(f"{figure.name}: {figure.note}" for figure in self.figures if figure.note)]
        lines += [f"{name}: not measured: {why}" for name, why in self.missing.items()]
        return "\n".join(lines)

    def json(self) -> str:
        """The same, for scripts."""
        figures = [{**asdict(figure), "reached": figure.reached} for figure in self.figures]
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return json.dumps({"machine": machine(), "time": when, "figures": figures, "missing": self.missing}, indent=2)


def machine() -> str:
    """The machine in a line."""
    model = next((line for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "").partition(":")[2]
    system = next((line for line in _lines("/etc/os-release") if line.startswith("PRETTY_NAME")), "").partition("=")[2]
    memory = psutil.virtual_memory().total / (1 << 30)
    words = (system.strip('"'), f"Linux {platform.release()}", f"Python {platform.python_version()}")
    cpu = f"{psutil.cpu_count()} x {model.strip() or platform.machine()}"
    return ", ".join((cpu, f"{memory:.0f} GiB", *words, "guests under TCG"))


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def p99(values: Sequence[float]) -> float:
    """The 99th percentile; of fewer than a hundred values the greatest."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


def _row(figure: Figure) -> tuple[str, ...]:
    ours = f"{_number(figure.value)} {figure.unit}"
    ours += f", p99 {_number(figure.p99)}" if figure.p99 is not None else ""
    goal = _number(figure.goal) if figure.goal is not None else ""
    goal += f", p99 {_number(figure.p99_goal)}" if figure.p99_goal is not None else ""
    verdict = {None: "", True: "ok", False: "NOT"}[figure.reached]
    beside = f"{_number(figure.alternative_value)} {figure.alternative}" if figure.alternative_value is not None else ""
    return (figure.name, ours, goal, verdict, beside, figure.peer, figure.on)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
