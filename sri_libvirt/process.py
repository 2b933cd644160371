"""The one door to subprocesses: argument lists, a deadline, bounded output, no shell.

Runs on lanes, never on the asyncio loop (a fork there stalls every RPC). Secrets are given by `stdin`, never as an
argument. What a program's answer means does not belong here.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

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
        done = subprocess.run(
            [os.fspath(word) for word in argv],
            input=stdin,
            capture_output=True,
            timeout=deadline,
            env={**os.environ, "LC_ALL": "C", **(env or {})},
            check=False,
        )
    except FileNotFoundError:
        raise ProcessError(f"{program} is not installed") from None
    except subprocess.TimeoutExpired:
        raise ProcessError(f"{program} did not end within {deadline:g} s") from None
    except OSError as error:
        raise ProcessError(f"{program} cannot be run: {error.strerror}") from error
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        detail = words[-1][:500] if words else "no message"
        raise ProcessError(f"{program} failed with status {done.returncode}: {detail}", done.returncode)
    return done.stdout
