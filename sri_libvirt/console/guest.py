"""The guest's side of a session: two threads between a console, whose calls block, and who must not.

One reads whatever the guest prints, at once, for libvirt would keep it; the other types, which waits for the guest. A
console that libvirt has lost is opened again for some seconds, while the guest runs on. What the client is told does
not belong here (`session.py`).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import structlog

from sri_libvirt import failpoints
from sri_libvirt.console.ring import Ring
from sri_libvirt.errors import ConsoleHeld, ConsoleLost, HypervisorError, NoConsole
from sri_libvirt.hypervisor.base import Console
from sri_libvirt.records import SECOND

log = structlog.get_logger(__name__)

REOPEN_SECONDS = 10.0
"""How long a console that was lost is opened again."""

LOOK_SECONDS = 10.0
"""How often a console that is silent is compared with what the guest prints elsewhere."""

_LATE = 2 * SECOND
_PAUSE_SECONDS = 0.5
_REOPENED = b"\r\n[the console was lost for a moment; what was printed meanwhile is in the console log]\r\n"


class Open(Protocol):
    """Opens the console; `heard` is called when there is something to read. Raises HypervisorError."""

    def __call__(self, heard: Callable[[], None], *, take_over: bool = False) -> Console: ...


class Told(Protocol):
    """Who is told, from these threads; returns at once."""

    def printed(self) -> None:
        """There is something in the ring again."""

    def took(self, count: int) -> None:
        """The guest has taken so many of the bytes that were typed."""

    def ended(self, problem: str) -> None:
        """It is over; "" if the guest's QEMU has ended."""


class GuestSide:
    """One console. `begin` opens it; from then on `Told.ended` is called once it is closed, by itself or by `stop`.

    `log` is the guest's console log, which grows beside it.
    """

    def __init__(self, open_console: Open, told: Told, log: Path) -> None:
        self.ring = Ring()
        self._open = open_console
        self._told = told
        self._log = log
        self._heard_at = 0  # by the clock that files' times have
        self._heard = threading.Event()
        self._typed: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._console: Console | None = None

    @property
    def began(self) -> bool:
        """Whether it was opened."""
        return self._console is not None

    def begin(self, *, take_over: bool) -> None:
        """Open it, which may take long; `take_over` ends whoever has it. Raises HypervisorError."""
        failpoints.reach("before console.open", HypervisorError)
        self._heard_at = time.time_ns()
        self._console = self._open(self._heard.set, take_over=take_over)
        try:
            failpoints.reach("after console.open", HypervisorError)
            # Whoever reads also closes, so it comes last: what has come before ends with `stop`.
            for run, name in ((self._write, "console-type"), (self._read, "console-read")):
                threading.Thread(target=run, name=name, daemon=True).start()
        except (HypervisorError, RuntimeError) as error:  # a RuntimeError: the host has no threads for us any more
            self.stop()
            self._console.close()
            self._console = None
            raise HypervisorError(f"the machine's console was opened in vain: {error}") from error

    def type(self, data: bytes) -> None:
        """Have the guest take this, after all before; `Told.took` says when it has."""
        self._typed.put(data)

    def stop(self) -> None:
        """Give the console up. Returns at once; a thread that waits in a call ends with it."""
        self._stopping.set()
        self._heard.set()
        self._typed.put(None)

    def _read(self) -> None:
        self._heard.set()
        problem = ""
        try:
            while not self._stopping.is_set():
                try:
                    if self._read_all():
                        break
                except ConsoleLost as error:
                    ended = self._reopen(str(error))
                    if ended is not None:
                        problem = ended
                        break
        except Exception as error:
            log.exception("a bug: a console session ends")
            problem = f"a bug of the provider: {type(error).__name__}"
        self._stopping.set()
        self._typed.put(None)
        if self._console is not None:
            with failpoints.around("console.close", HypervisorError):
                self._console.close()
        self._told.ended(problem)

    def _read_all(self) -> bool:
        """Take what there is, then wait for more; whether the guest has ended. Raises ConsoleLost."""
        assert self._console is not None
        if not self._heard.wait(LOOK_SECONDS):
            self._compare()
        self._heard.clear()
        while not self._stopping.is_set() and (data := self._console.read()) is not None:
            if not data:
                return True
            self._heard_at = time.time_ns()
            failpoints.reach("console.read", ConsoleLost)
            if self.ring.put(data):
                self._told.printed()
        return False

    def _compare(self) -> None:
        """Raise ConsoleLost when the guest has printed something of which nothing has come.

        Of a guest that prints just then, libvirt 9.0 does not tell who loses its console by force (3 to 6 of 20, seen):
        nothing comes any more, and what is typed goes nowhere, without an error.
        """
        try:
            written = self._log.stat().st_mtime_ns
        except OSError:
            return
        if written > self._heard_at + _LATE:
            raise ConsoleLost("the machine's console was lost: nothing comes of what its guest prints")

    def _reopen(self, problem: str) -> str | None:
        """None once it is open again; else how it ended, "" if the guest's QEMU has."""
        assert self._console is not None
        self._console.drop()
        end, latest = time.monotonic() + REOPEN_SECONDS, ""
        while time.monotonic() < end and not self._stopping.is_set():
            try:
                self._console = self._open(self._heard.set)  # who has taken it over keeps it
            except NoConsole:
                return ""  # the guest has ended meanwhile
            except ConsoleHeld as error:
                return f"{problem}; {error}"
            except HypervisorError as error:  # libvirt is away, or has not seen yet that the guest has ended
                latest = f"; {error}"
                self._stopping.wait(_PAUSE_SECONDS)
                continue
            self._heard_at = time.time_ns()
            self._heard.set()
            if self.ring.put(_REOPENED):
                self._told.printed()
            return None
        return problem + latest

    def _write(self) -> None:
        while (data := self._typed.get()) is not None:
            count = len(data)
            while data and not self._stopping.is_set():
                try:
                    failpoints.reach("console.write", ConsoleLost)
                    assert self._console is not None
                    sent = self._console.write(data)
                except ConsoleLost:
                    break  # what was on its way is lost, as on a line that is cut; who reads sees to the rest
                if not sent:
                    break
                data = data[sent:]
            self._told.took(count)
