"""The calls that a lane makes to its hypervisor: which one is under way, since when, and how long it may take.

A call that passed its deadline may still succeed later (design 7), so nobody may act on its failure: its lane is given
up instead, and makes no further call. Who looks at the deadlines, and what becomes of the machine, does not belong here
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

SLOW = frozenset({"connect", "define", "start", "destroy", "undefine", "offer"})
"""Calls that may take the whole deadline: QEMU is started, probed or ended. All others have a quarter of it."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call under way. `begun` and `deadline` are seconds of `time.monotonic`."""

    name: str
    machine_id: str
    begun: float
    deadline: float


class Calls:
    """The calls of one lane, one at a time. `limit` is the deadline of slow calls, in nanoseconds.

    The lane's thread makes the calls; another thread may give them up.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit / SECOND
        self._lock = threading.Lock()
        self._machine_id = ""
        self._call: Call | None = None
        self._given_up: Call | None = None

    def of_machine(self, machine_id: str) -> None:
        """The calls from here on are on behalf of this machine."""
        self._machine_id = machine_id

    @contextmanager
    def making(self, name: str) -> Iterator[None]:
        """A call is under way within. Raises Unreachable, instead of beginning it, once the lane is given up."""
        begun = time.monotonic()
        limit = self._limit if name in SLOW else self._limit / 4
        with self._lock:
            if self._given_up:
                raise Unreachable(f"libvirt is asked no more by this lane: its {self._given_up.name} was too late")
            self._call = Call(name, self._machine_id, begun, begun + limit)
        try:
            with failpoints.around(f"libvirt.{name}", HypervisorError):
                yield
        finally:
            with self._lock:
                self._call = None

    def give_up(self, now: float, hold: Callable[[str, str], None]) -> Call | None:
        """Give the lane up if its call is past its deadline at `now`, and say which; None if it is not, or was before.

        `hold(machine id, call)` is done before the lane can know that the call is back. The call itself goes on:
        nothing can end it but its hypervisor.
        """
        with self._lock:
            if self._given_up or self._call is None or now < self._call.deadline:
                return None
            self._given_up = self._call
            hold(self._call.machine_id, self._call.name)
            return self._call

    @property
    def given_up(self) -> Call | None:
        """The call that was too late."""
        return self._given_up


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
