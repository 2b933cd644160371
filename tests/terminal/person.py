"""A program at a terminal, and a person there who types and reads."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import pexpect
from pexpect.fdpexpect import fdspawn

SECONDS = 60.0
"""For what is expected."""


class Person:
    """Runs a program at a terminal of its own. `close()` it always.

    pexpect only reads: its own start of programs forks, which gRPC's threads in this process do not survive.
    """

    def __init__(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        ours, theirs = pty.openpty()
        try:
            self._process = subprocess.Popen(
                ["setsid", "--ctty", *argv], stdin=theirs, stdout=theirs, stderr=theirs,
                env={**os.environ, **(env or {})},
            )  # fmt: skip
        finally:
            os.close(theirs)
        self._screen = fdspawn(ours, encoding="utf-8", timeout=SECONDS)

    def expect(self, pattern: str) -> str:
        """Read until this comes; what came before it."""
        self._screen.expect(pattern)
        return str(self._screen.before)

    def type(self, keys: str) -> None:
        self._screen.send(keys)

    def insist(self, keys: str, pattern: str, pause: float = 3.0) -> None:
        """Type this, now and then again, until that comes: a shell between two commands takes no notice."""
        end = time.monotonic() + SECONDS
        self.type(keys)
        while self._screen.expect([pattern, pexpect.TIMEOUT], timeout=pause):
            assert time.monotonic() < end, f"no {pattern} by {keys!r}"
            self.type(keys)

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of the terminal's window."""
        termios.tcsetwinsize(self._screen.child_fd, (rows, columns))

    def kill(self, number: int = signal.SIGTERM) -> None:
        os.kill(self._process.pid, number)

    def status(self) -> int:
        """The program's exit status, once it has ended; a signal's number is negative."""
        self._screen.expect(pexpect.EOF)
        return self._process.wait(SECONDS)

    def close(self) -> None:
        """End the program, and take its terminal away. Idempotent."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(SECONDS)
        with suppress(OSError):
            self._screen.close()
