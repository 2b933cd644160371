"""Which of the failpoints that a flow passes are worth a run of their own; what must come of it is for the tests."""

from __future__ import annotations

from sri_libvirt.reconcile.lane import LOOKS

READS = tuple(f"libvirt.{name}" for name in (*LOOKS, "network", "leases"))
"""Calls that change nothing."""


def distinct(points: list[tuple[int, str]], kind: str) -> list[tuple[int, str]]:
    """The points without those at which the harm is the same as at a neighbour: nothing happens between the two."""
    kept, last = [], ""
    for nth, point in points:
        when, what = point.split(" ", 1)
        if kind == "fail":
            same = when == "after" and what.endswith(READS)
        else:
            done = when == "after" and what.startswith("perform.") and last.startswith("after")
            same = what.endswith(READS) or point.startswith("before perform.") or done
        if not same:
            kept.append((nth, point))
        last = point
    return kept
