"""Asking libvirt for guests' figures again and again, on a thread of its own, and what they are a second.

A call that hangs makes what is known old, which is told, and nothing else late. What is shown does not belong here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sri_libvirt.errors import SRIError
from sri_libvirt.hypervisor.statistics import Figures

Read = Callable[[], Mapping[str, Figures]]
"""Asks for the figures of all guests, by id; may take long. Raises SRIError."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What a guest uses. None: not known, as of one that was seen only once. Bytes a second; `cpu` in CPUs."""

    cpu: float | None = None
    steal: float | None = None
    resident: int | None = None
    read: float | None = None
    written: float | None = None
    received: float | None = None
    sent: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """The latest of all guests, `age` seconds old, None if none was had yet; `problem` says why there is no newer."""

    rates: Mapping[str, Rates] = field(default_factory=dict)
    age: float | None = None
    problem: str = ""


class Sampler:
    """Samples every `seconds` from `start` on."""

    def __init__(self, read: Read, seconds: float) -> None:
        self._read = read
        self._seconds = seconds
        self._lock = threading.Lock()
        self._new = threading.Event()
        self._before: Mapping[str, Figures] = {}
        self._rates: Mapping[str, Rates] = {}
        self._at: float | None = None
        self._problem = ""

    def start(self) -> None:
        """From now on, until the process ends."""
        threading.Thread(target=self._run, name="statistics", daemon=True).start()

    def wait(self, seconds: float) -> None:
        """Until there is a newer sample, or a problem; at most so long."""
        self._new.wait(seconds)
        self._new.clear()

    def latest(self) -> Sample:
        """What is known now."""
        with self._lock:
            age = None if self._at is None else time.monotonic() - self._at
            return Sample(self._rates, age, self._problem)

    def _run(self) -> None:
        while True:
            begun = time.monotonic()
            self.sample()
            time.sleep(max(self._seconds - (time.monotonic() - begun), 0.05))

    def sample(self) -> None:
        """Take one."""
        try:
            found, problem = self._read(), ""
        except SRIError as error:
            found, problem = None, str(error)
        with self._lock:
            self._problem = problem
            if found is not None:
                self._rates = {each: rates(self._before.get(each), now) for each, now in found.items()}
                self._before, self._at = found, time.monotonic()
        self._new.set()


def rates(before: Figures | None, now: Figures) -> Rates:
    """What a guest has used between two moments; a counter that went back belongs to another run, and is not known."""
    if before is None or now.at <= before.at:
        return Rates(resident=now.resident)

    def rate(name: str) -> float | None:
        first, last = getattr(before, name), getattr(now, name)
        return None if first is None or last is None or last < first else (last - first) / (now.at - before.at)

    counters = {name: rate(name) for name in ("cpu", "steal", "read", "written", "received", "sent")}
    return Rates(resident=now.resident, **counters)
