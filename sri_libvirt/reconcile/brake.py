"""How long to wait before what was in vain is done again: growing pauses, and when they are forgiven. Pure.

Whatever a guest, a tenant or a backend can make happen again and again is braked by these. What is counted where does
not belong here.
"""

from __future__ import annotations

from sri_libvirt.records import SECOND

MOST = 300 * SECOND
"""The longest pause, in nanoseconds."""

CALM = 60 * SECOND
"""How much longer than its pause something must have held to count as mended, in nanoseconds."""


def back_off(failures: int, first: int = SECOND) -> int:
    """How long to wait after that many failures in a row: `first` and twice as long each time, up to MOST."""
    return min(first << min(failures - 1, 16), MOST) if failures else 0


def due(times: int, last: int, first: int = SECOND) -> int:
    """When something that was done `times` in a row, the last time at `last`, may be done again."""
    return last + back_off(times, first)


def again(times: int, last: int, now: int, first: int = SECOND) -> int:
    """The count to be when it is done once more at `now`: 1 if what was done last has held for long enough."""
    return 1 if now > due(times, last, first) + CALM else times + 1
