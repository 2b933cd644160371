"""Asking a daemon that runs, by its sockets in the state directory: their clients' side. See `admin.py`.

A command of the command line waits for what is loaded here, so that is little.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sri_libvirt.errors import FailedPrecondition, NotFound, SRIError, StoreError, Unavailable

FOLLOW = "follow"
QUIET_SECONDS = 10.0
"""How often a follower is told that nothing has changed, so that each end knows that the other is there."""

_KINDS: dict[str, type[SRIError]] = {each.__name__: each for each in (NotFound, StoreError, Unavailable)}
"""Errors that who asks may have to tell from others."""


@contextmanager
def short(path: Path) -> Iterator[str]:
    """A name of the path that fits into a socket's address (107 bytes), however deep the state directory is."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def follow(path: Path) -> Iterator[frozenset[str]]:
    """Ids of machines, whenever the daemon behind the socket says that they have changed; none at first, once it will.

    Ends when the daemon stops. Raises Unavailable when it cannot be asked, or is silent for too long.
    """
    try:
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(3 * QUIET_SECONDS)
            with short(path) as name:
                door.connect(name)
            _say(door, FOLLOW, {})
            with door.makefile("rb") as reading:
                begun = False
                while line := reading.readline():
                    told = json.loads(line)
                    if "error" in told:
                        raise Unavailable(f"the daemon cannot be followed at {path}: {told['error']}")
                    changed = frozenset(told["changed"])
                    if changed or not begun:
                        yield changed
                    begun = True
    except (OSError, ValueError, KeyError) as error:
        problem = (error.strerror or "it is silent") if isinstance(error, OSError) else "it speaks another language"
        raise Unavailable(f"the daemon cannot be followed at {path}: {problem}") from error


def ask(path: Path, command: str, arguments: Mapping[str, Any], *, seconds: float | None = None) -> Any:
    """Have the daemon behind the socket do a command, and wait for its result. Raises SRIError.

    Its own refusal is NotFound, StoreError, Unavailable or FailedPrecondition, with its words. Unavailable is also that
    it cannot be asked, because of the error that is its cause, or was silent for so many seconds.
    """
    try:
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(seconds)
            with short(path) as name:
                door.connect(name)
            _say(door, command, arguments)
            with door.makefile("rb") as reading:
                line = reading.readline()
        answer = json.loads(line)
    except (OSError, ValueError) as error:
        problem = (error.strerror or "it is silent") if isinstance(error, OSError) else "it ended without an answer"
        raise Unavailable(f"the daemon cannot be asked at {path}: {problem}") from error
    if "error" in answer:
        raise _KINDS.get(answer.get("kind"), FailedPrecondition)(str(answer["error"]))
    return answer["result"]


def _say(door: socket.socket, command: str, arguments: Mapping[str, Any]) -> None:
    with suppress(BrokenPipeError):  # who is one too many is told so unasked
        door.sendall(json.dumps({"command": command, "arguments": dict(arguments)}).encode() + b"\n")
