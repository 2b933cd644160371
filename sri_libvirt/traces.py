"""Where the time of machines has gone lately: what was done for them, from when until when, in this process's memory.

The newest few thousand, whosever they are: a question after a slow start finds it, and nothing grows. What is worth
keeping for longer is in the machines' timelines. How it is shown does not belong here.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sri_libvirt.records import SECOND

MOST = 4096
"""Spans that are kept of all machines: some hundred starts."""


@dataclass(frozen=True, slots=True)
class Span:
    """Something that was done for a machine, from `begin` to `end` (steady time, nanoseconds).

    `kind` is "rpc", "wait" (for a lane), "look", "action", "call" (of libvirt, within one of the two before) or "guest"
    (from the end of its start until its console's first byte, whatever else is done meanwhile);
    `device` is the alias of the device that an action is for, `parent` what an RPC's caller has called his own span
    (traceparent, www.w3.org/TR/trace-context).
    """

    kind: str
    name: str
    begin: int
    end: int
    device: str = ""
    parent: str = ""


@dataclass(frozen=True, slots=True)
class Lap:
    """A span by the monotonic clock, in seconds, as it was taken."""

    kind: str
    name: str
    begun: float
    ended: float
    device: str = ""
    parent: str = ""


class Traces:
    """The newest spans. Safe from any thread."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._spans: deque[tuple[str, Span]] = deque(maxlen=MOST)

    def add(self, machine_id: str, laps: Iterable[Lap]) -> None:
        """Keep what was done for a machine."""
        ahead = self._clock() - int(time.monotonic() * SECOND)
        for lap in laps:
            begin, end = (ahead + int(each * SECOND) for each in (lap.begun, lap.ended))
            with self._lock:
                self._spans.append((machine_id, Span(lap.kind, lap.name, begin, end, lap.device, lap.parent)))

    def of(self, machine_id: str) -> list[Span]:
        """A machine's, in the order of their beginnings, the outer of two first."""
        with self._lock:
            found = [span for each, span in self._spans if each == machine_id]
        return sorted(found, key=lambda span: (span.begin, -span.end))
