"""What a lane is doing that may hang: an action or a look, and the call of the hypervisor within it; since when each
goes on, and how long it may.

What passed its deadline may still succeed later (design 7), so nobody may act on its failure: its lane is given up
instead, and makes no further call. Who looks at the deadlines, and what becomes of the machine, does not belong here
(that is `watchdog.py` and `plan.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, cast

from sri_libvirt import failpoints
from sri_libvirt.errors import HypervisorError, Unreachable
from sri_libvirt.hypervisor.base import Connection
from sri_libvirt.records import SECOND
from sri_libvirt.traces import Lap

LOOK = "Look"
"""What a look is called, beside the actions."""

SLOW = frozenset({"connect", "define", "start", "destroy", "undefine", "offer"})
"""Calls that may take the whole deadline: QEMU is started, probed or ended."""

BRIEF = frozenset({"press_power_button"})
"""Calls that are a courtesy: QEMU hears them at once or hangs, and the machine's grace time goes on meanwhile."""

SHARES = {"slow": 1.0, "usual": 3 / 8, "brief": 1 / 16, "whole": 5 / 4}
"""Parts of the deadline. Usual calls, at 45 s of 120, outlast the 30 s for which libvirt itself waits for a domain that
another call holds: its refusal leaves the lane at work, our giving up would not. A whole action outlasts its slowest
call by a usual one."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call under way, or an action: one begins with a small letter, the other with a capital.

    `begun` and `deadline` are seconds of `time.monotonic`. `device` is the alias of the device that an action is for.
    """

    name: str
    machine_id: str
    begun: float
    deadline: float
    device: str = ""


class Calls:
    """What one lane does: an action, and in it one call at a time. `limit` is the deadline, in nanoseconds.

    The lane's thread does it; another thread may give it up.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit / SECOND
        self._lock = threading.Lock()
        self._machine_id = ""
        self._under_way: list[Call] = []  # the outer first
        self._given_up: Call | None = None
        self.laps: list[Lap] = []
        """What was done since the machine was named, the inner of two before the outer."""

    def of_machine(self, machine_id: str) -> None:
        """What is done from here on is on behalf of this machine."""
        self._machine_id = machine_id
        self.laps = []

    @contextmanager
    def making(self, name: str) -> Iterator[None]:
        """A call is under way within. Raises Unreachable, instead of beginning it, once the lane is given up."""
        share = "slow" if name in SLOW else "brief" if name in BRIEF else "usual"
        with self._lock:
            if self._given_up:
                raise Unreachable(f"libvirt is asked no more by this lane: its {self._given_up.name} was too late")
            self._begin(name, share)
        try:
            with failpoints.around(f"libvirt.{name}", HypervisorError):
                yield
        finally:
            self._end()

    @contextmanager
    def acting(self, name: str, device: str = "") -> Iterator[None]:
        """An action, or a look, is under way within: its calls, its files, its programs, its driver."""
        with self._lock:
            self._begin(name, "whole", device)
        try:
            yield
        finally:
            self._end()

    def give_up(self, now: float, hold: Callable[[str, str], None]) -> Call | None:
        """Give the lane up if what it does is past its deadline at `now`, and say what; None if not, or if it was.

        `hold(machine id, name)` is done before the lane can know that it is back. It goes on: nothing can end it but
        what it hangs in.
        """
        with self._lock:
            late = next((each for each in reversed(self._under_way) if now >= each.deadline), None)
            if self._given_up or late is None:
                return None
            self._given_up = late
            hold(late.machine_id, late.name)
            return late

    @property
    def given_up(self) -> Call | None:
        """What was too late."""
        return self._given_up

    @property
    def in_hypervisor(self) -> bool:
        """Whether a call of the hypervisor is under way."""
        with self._lock:
            return any(is_call(each.name) for each in self._under_way)

    def _begin(self, name: str, share: str, device: str = "") -> None:
        begun = time.monotonic()
        self._under_way.append(Call(name, self._machine_id, begun, begun + self._limit * SHARES[share], device))

    def _end(self) -> None:
        with self._lock:
            ended = self._under_way.pop()
        kind = "call" if is_call(ended.name) else "look" if ended.name == LOOK else "action"
        self.laps.append(Lap(kind, ended.name, ended.begun, time.monotonic(), ended.device))


def is_call(name: str) -> bool:
    """Whether what is called so is a call of the hypervisor; else it is an action or a look."""
    return name[:1].islower()


class _Watched:
    """A connection each of whose calls is made within `making(name)`, whatever calls there will be."""

    def __init__(self, connection: Connection, making: Callable[[str], AbstractContextManager[None]]) -> None:
        self._connection = connection
        self._making = making

    def close(self) -> None:
        self._connection.close()  # never hangs on a daemon, and is the last that a lane that is given up does

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._connection, name)

        def call(*arguments: Any, **options: Any) -> Any:
            with self._making(name):
                return method(*arguments, **options)

        return call


def watched(connection: Connection, making: Callable[[str], AbstractContextManager[None]]) -> Connection:
    """The connection, each call of which is made within `making(its name)`."""
    return cast(Connection, _Watched(connection, making))
