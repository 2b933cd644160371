"""The clock of all that is compared or waited for: it never jumps, whatever becomes of the host's wall clock.

Nanoseconds that look like Unix time. Within a boot it is CLOCK_BOOTTIME, counted from an anchor that the store keeps,
so that a restart of the provider changes nothing; a new boot goes on from the wall clock, or from the latest time that
the store knows if the wall clock is behind that. A wall clock that is set while the host runs (NTP, a dead battery, an
operator) then neither ends a wait, nor begins one, nor puts what happened into another order. What is shown to people
is told by the wall clock as it is at that moment. Which times are stored does not belong here (`records.py`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

META_CLOCK = "clock"
"""Key of the anchor in the store."""

_SET = 1_000_000_000
"""A wall clock that is off by less than a second has been slewed or read a moment later, and was not set."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A moment by two clocks: `boottime` of the boot `boot_id`, and `steady`. Nanoseconds."""

    boot_id: str
    boottime: int
    steady: int

    def text(self) -> str:
        """As the store keeps it."""
        return json.dumps(asdict(self), sort_keys=True)


def of_text(text: str | None) -> Anchor | None:
    """The anchor that a store keeps; None of one that has none yet."""
    return Anchor(**json.loads(text)) if text else None


def boottime() -> int:
    """Nanoseconds since this host has booted, sleep included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class HostClocks:
    """What the host tells: which boot this is, how long it lasts (nanoseconds), and the wall clock, right or not."""

    boot_id: Callable[[], str]
    elapsed: Callable[[], int] = boottime
    wall: Callable[[], int] = time.time_ns


class SteadyClock:
    """Tells the steady time when called; `wall` tells the wall clock's. Thread-safe."""

    def __init__(self, anchor: Anchor, elapsed: Callable[[], int], wall: Callable[[], int]) -> None:
        self.anchor = anchor
        self.wall = wall
        self._elapsed = elapsed

    @classmethod
    def of(cls, stored: Anchor | None, latest: Callable[[], int], host: HostClocks) -> SteadyClock:
        """The clock of a store that keeps this anchor and whose latest time is `latest`, which is asked at a new boot.

        Its own anchor is the stored one if that is of this boot, else a new one. How long the host was down only the
        wall clock can tell; one that is behind what is known counts as no time at all.
        """
        boot_id, elapsed = host.boot_id(), host.elapsed()
        if stored is None or stored.boot_id != boot_id or stored.boottime > elapsed:
            stored = Anchor(boot_id, elapsed, max(host.wall(), latest(), stored.steady if stored else 0))
        return cls(stored, host.elapsed, host.wall)

    @classmethod
    def by(cls, source: Callable[[], int]) -> SteadyClock:
        """A clock that is both, and as steady as its source: of a store that keeps no anchor, and of tests."""
        return cls(Anchor("", 0, 0), source, source)

    def __call__(self) -> int:
        return self.anchor.steady + self._elapsed() - self.anchor.boottime

    def of_wall(self, at: int) -> int:
        """The steady time of a moment that somebody stamped by the wall clock; 0 stays 0, "not known"."""
        return at - self._ahead() if at else 0

    def to_wall(self, at: int) -> int:
        """When a steady time was, by the wall clock as it is now; 0 stays 0, "never"."""
        return at + self._ahead() if at else 0

    def _ahead(self) -> int:
        ahead = self.wall() - self()
        return ahead if abs(ahead) >= _SET else 0
