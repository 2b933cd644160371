"""One program of a backend, and an address where it alone listens.

Which programs a backend has, and what they are told, does not belong here.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

Word = str | os.PathLike[str]
Argv = Sequence[Word]
Inside = Callable[[Argv], list[str]]

START_SECONDS = 60.0
"""How long a program may take to listen; two slow cores are shared by all workers."""

_ESTABLISHED, _LISTEN = "01", "0A"
"""States in /proc/net/tcp (the kernel's include/net/tcp_states.h)."""


def here(argv: Argv) -> list[str]:
    """The `inside` of what runs in no namespace."""
    return [os.fspath(word) for word in argv]


def loopback() -> str:
    """An address of 127.0.0.0/8 that nobody else has: servers on it can have the ports that are usual."""
    return f"127.{secrets.randbelow(254) + 1}.{secrets.randbelow(254) + 1}.{secrets.randbelow(254) + 1}"


def wait_until(condition: Callable[[], object], what: str, seconds: float = START_SECONDS) -> None:
    """Wait until the condition holds; AssertionError naming `what` when it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.01)


def listens(pid: int, address: str, port: int) -> bool:
    """Whether anybody listens there in the network namespace of a process."""
    return _count(pid, address, port, _LISTEN) > 0


def connections(pid: int, address: str, port: int) -> int:
    """How many are connected to who listens there in the network namespace of a process."""
    return _count(pid, address, port, _ESTABLISHED)


def _count(pid: int, address: str, port: int, state: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    except OSError:
        return 0
    where = f"{int.from_bytes(socket.inet_aton(address), 'little'):08X}:{port:04X}"
    return sum(line.split()[1] == where and line.split()[3] == state for line in lines)


def freeze(pid: int) -> None:
    """Stop a process, and return once none of its threads runs any more: the signal itself returns before."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: _is_stopped(pid), f"process {pid} stands still")


def _is_stopped(pid: int) -> bool:
    try:
        threads = [each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):
        return False  # a thread that has just ended
    return all(each.rpartition(")")[2].split()[0] in "TtZX" for each in threads)


class Daemon:
    """A program in the foreground, always started with the same arguments. `start()` it once made; `kill()` it always.

    `is_up` tells of its process id whether it serves. `log` takes what it writes. It dies with the test process.
    """

    def __init__(
        self,
        argv: Argv,
        is_up: Callable[[int], object],
        log: Path,
        inside: Inside = here,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._argv = ["setpriv", "--pdeathsig", "KILL", "--", *inside(argv)]
        self._name = os.fspath(argv[0])
        self._is_up = is_up
        self._log = log
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running program."""
        assert self._process is not None, f"{self._name} does not run"
        return self._process.pid

    def start(self) -> None:
        """Start it unless it runs; return once it is up."""
        if self._process is not None and self._process.poll() is None:
            return
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._env
            )
        wait_until(self._up_or_over, f"{self._name} is up (see {self._log})")

    def freeze(self) -> None:
        """From now on it answers nothing, and whoever connects hangs."""
        freeze(self.pid)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Let it end in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, frozen or not. Idempotent."""
        self._end(signal.SIGKILL)

    def _up_or_over(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"{self._name} ended: {self._log.read_text(errors='replace')[-2000:]}")
        return bool(self._is_up(self._process.pid))

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None


def run(argv: Argv, inside: Inside = here, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> bytes:
    """Run a program to its end and return what it writes; AssertionError, with its words, unless it succeeds."""
    done = subprocess.run(
        inside(argv),
        input=stdin,
        capture_output=True,
        timeout=START_SECONDS,
        check=False,
        env={**os.environ, **(env or {})},
    )
    assert done.returncode == 0, f"{argv[0]} failed with {done.returncode}: {done.stderr.decode()[-2000:]}"
    return done.stdout
