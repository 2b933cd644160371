"""A guest's console at two file descriptors of this process: what is typed at one goes to the guest, what it prints to
the other.

How a terminal is treated does not belong here (`terminal.py`).
"""

from __future__ import annotations

import errno
import os
import select
import selectors
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sri_libvirt.console.guest import GuestSide, Open

LEAVE = b"\x1d"
"""Ctrl-], as in telnet and virsh."""

AHEAD_BYTES = 64 * 1024
"""Typed and not yet taken by the guest: beyond that a file or a pipe is not read, and a terminal's keys are lost."""

CLOSE_SECONDS = 2.0
"""How long libvirt may take to give the console up before this process ends all the same."""

_READ_BYTES = 16 * 1024
_BELL = b"\a"


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended, in words; `problem` where it should not have."""

    words: str
    problem: str = ""


class Conversation:
    """One session. `leave` is what ends it when it is typed, b"" for nothing; `linger` are the seconds for which output
    is printed after the end of the input."""

    def __init__(
        self, open_console: Open, console_log: Path, keyboard: int, screen: int, *, leave: bytes, linger: float
    ) -> None:
        self._guest = GuestSide(open_console, self, console_log)
        self._keyboard, self._screen = keyboard, screen
        self._leave, self._linger = leave, linger
        self._stirred = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._taken: deque[int] = deque()
        self._over: deque[str] = deque()
        self._ahead = 0
        self._input_ended_at: float | None = None

    # Told by the guest's threads.

    def printed(self) -> None:
        os.eventfd_write(self._stirred, 1)

    def took(self, count: int) -> None:
        self._taken.append(count)
        os.eventfd_write(self._stirred, 1)

    def ended(self, problem: str) -> None:
        self._over.append(problem)
        os.eventfd_write(self._stirred, 1)

    # What the command does with it.

    def begin(self, *, take_over: bool) -> None:
        """Open the console. Raises HypervisorError."""
        self._guest.begin(take_over=take_over)

    def run(self) -> Ended:
        """Carry bytes until the guest ends, the user leaves, or the input has ended long enough."""
        try:
            with selectors.PollSelector() as selector:  # epoll knows no files
                selector.register(self._stirred, selectors.EVENT_READ)
                return self._carry(selector)
        except BrokenPipeError:
            return Ended("nobody reads what it prints any more")
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return Ended("the terminal is gone")
        finally:
            self._give_up()

    def _carry(self, selector: selectors.BaseSelector) -> Ended:
        while True:
            more = self._print()
            if self._over and not more:
                problem = self._over[0]
                return Ended("the guest has ended", problem)
            if self._input_ended_at is not None and time.monotonic() >= self._input_ended_at + self._linger:
                return Ended("the input has ended")
            self._watch_keyboard(selector)
            for key, _ in selector.select(0 if more else self._until_next()):
                if key.fd == self._stirred:
                    with suppress(BlockingIOError):
                        os.eventfd_read(self._stirred)
                elif self._type(os.read(self._keyboard, _READ_BYTES)):
                    return Ended("left; the guest goes on")

    def _until_next(self) -> float | None:
        if self._input_ended_at is None:
            return None
        return max(0.0, self._input_ended_at + self._linger - time.monotonic())

    def _watch_keyboard(self, selector: selectors.BaseSelector) -> None:
        while self._taken:
            self._ahead -= self._taken.popleft()
        wanted = self._input_ended_at is None and (bool(self._leave) or self._ahead < AHEAD_BYTES)
        if wanted != (self._keyboard in selector.get_map()):
            if wanted:
                selector.register(self._keyboard, selectors.EVENT_READ)
            else:
                selector.unregister(self._keyboard)

    def _type(self, data: bytes) -> bool:
        """Have the guest take it; whether the user leaves."""
        if not data:
            self._input_ended_at = time.monotonic()
            return bool(self._leave)  # a terminal that is gone
        data, leaving, _ = data.partition(self._leave) if self._leave else (data, b"", b"")
        if self._ahead >= AHEAD_BYTES:
            self._write(_BELL)
        elif data:
            self._ahead += len(data)
            self._guest.type(data)
        return bool(leaving)

    def _print(self) -> bool:
        """Print a piece, if there is one; a guest that prints without end is left all the same."""
        data = self._guest.ring.take(_READ_BYTES)
        self._write(data)
        return bool(data)

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._screen, data) :]
            except BlockingIOError:  # of a terminal that some other program has left so
                select.select([], [self._screen], [])

    def _give_up(self) -> None:
        """Let the next one have it, as soon as this process has ended."""
        self._guest.stop()
        end = time.monotonic() + CLOSE_SECONDS
        while not self._over and time.monotonic() < end:
            time.sleep(0.01)
