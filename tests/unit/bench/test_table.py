"""What a bench says of its figures."""

from __future__ import annotations

import json

import pytest

from bench.table import Figure, Report, median, p99


@pytest.mark.parametrize(
    ("figure", "reached"),
    [
        (Figure("x", "ms", 3.0, goal=3), True),
        (Figure("x", "ms", 3.1, goal=3), False),
        (Figure("x", "ms", 1.0, goal=3, p99=7.0, p99_goal=6), False),
        (Figure("x", "ms", 1.0, goal=3, p99=7.0), True),
        (Figure("x", "ms", 1.0), None),
    ],
)
def test_a_goal_is_reached_by_median_and_p99(figure: Figure, reached: bool | None) -> None:
    assert figure.reached is reached


def test_percentiles() -> None:
    assert p99([float(number) for number in range(1, 1001)]) == 991
    assert p99([5.0, 1.0]) == 5
    assert median([3.0, 1.0, 2.0]) == 2


def test_text_and_json_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.table.machine", lambda: "this machine")
    slow = Figure("slow", "ms", 31.4, goal=30, alternative="ms bare", alternative_value=2.5, note="made of waiting")
    report = Report([slow], {"other": "no guest"})
    line = next(line for line in report.text().splitlines() if line.startswith("slow  "))
    assert [" ".join(word.split()) for word in line.split("  ") if word.strip()] == [
        "slow", "31.4 ms", "30", "NOT", "2.5 ms bare", "fake",
    ]  # fmt: skip
    assert "slow: made of waiting" in report.text()
    assert "other: not measured: no guest" in report.text()
    said = json.loads(report.json())
    assert (said["machine"], said["missing"]) == ("this machine", {"other": "no guest"})
    assert (said["figures"][0]["value"], said["figures"][0]["reached"]) == (31.4, False)
