"""The one door to subprocesses: argument lists, a deadline, bounded output, no shell.

Runs on lanes, never on the asyncio loop (a fork there stalls every RPC). Secrets are given by `stdin`, never as an
argument. What a program's answer means does not belong here.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sri_libvirt import failpoints
from sri_libvirt.errors import SRIError


class ProcessError(SRIError):
    """A program failed, is missing or passed its deadline; the message names it and ends with its own words."""

    def __init__(self, message: str, returncode: int | None = None) -> None:
        super().__init__(message)
        self.returncode = returncode


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    deadline: float,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
) -> bytes:
    """Run a program to its end and return its standard output.

    `deadline` is in seconds; the program is killed when it passes. The environment is the caller's with LC_ALL=C, so
    that messages can be read, and `env` on top. Raises ProcessError.
    """
    program = os.fspath(argv[0])
    try:
        with failpoints.around(f"process.{Path(program).name}", ProcessError):
            done = subprocess.run(
                [os.fspath(word) for word in argv],
                input=stdin,
                capture_output=True,
                timeout=deadline,
                env={**os.environ, "LC_ALL": "C", **(env or {})},
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise ProcessError(f"{program} did not end within {deadline:g} s") from None
    except OSError as error:
        raise ProcessError(f"{program} cannot be run: {error.strerror}") from error
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        detail = words[-1][:500] if words else "no message"
        raise ProcessError(f"{program} failed with status {done.returncode}: {detail}", done.returncode)
    return done.stdout


@dataclass(frozen=True, slots=True)
class Measured:
    """How a program ended and what it cost. `returncode` is minus the signal's number if one ended it.

    `late` is set when it was killed at the deadline; `message` is the last line of its standard error.
    """

    returncode: int
    cpu_seconds: float
    late: bool
    message: str


def measure(argv: Sequence[str | os.PathLike[str]], *, deadline: float, cpu_seconds: int) -> Measured:
    """Run a program to its end and return how it ended and the CPU time it used, in user and kernel together.

    It is killed after `deadline` seconds of wall time or `cpu_seconds` of CPU time, which a busy host does not make
    shorter. It leaves no core dump. Raises ProcessError only when it cannot be started.
    """
    program = os.fspath(argv[0])
    with tempfile.TemporaryFile() as said:
        try:
            child = subprocess.Popen(
                [os.fspath(word) for word in argv],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env={**os.environ, "LC_ALL": "C"},
            )
        except OSError as error:
            raise ProcessError(f"{program} cannot be run: {error.strerror}") from error
        pid_fd = os.pidfd_open(child.pid)
        try:
            resource.prlimit(child.pid, resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
            resource.prlimit(child.pid, resource.RLIMIT_CORE, (0, 0))
            ended = select.poll()
            ended.register(pid_fd, select.POLLIN)
            late = not ended.poll(deadline * 1000)
        except ProcessLookupError:
            late = False  # it ended before it could be limited
        finally:
            signal.pidfd_send_signal(pid_fd, signal.SIGKILL)
            os.close(pid_fd)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        lines = said.read(1 << 16).decode(errors="replace").strip().splitlines()
    return Measured(child.returncode, usage.ru_utime + usage.ru_stime, late, lines[-1][:500] if lines else "")
