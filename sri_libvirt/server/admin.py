"""The admin socket, `<state-dir>/admin.sock` (0600): what the command line asks of a daemon that runs.

One JSON object on one line each way, then the connection ends: `{"command": …, "arguments": {…}}` is answered with
`{"result": …}` or `{"error": …}`, a sentence. The command `follow` alone has no end: each line of its answer holds the
ids of machines that have changed since the one before, `{"changed": […]}`, the first of them none. Made for this host's
root alone; machines are not made here, and what a command does does not belong here: `app.py` hands the commands in.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import structlog

from sri_libvirt.errors import ConfigError, FailedPrecondition, InvalidSpec, SRIError, Unavailable

MODE = 0o600
REQUEST_BYTES = 1 << 20
REQUEST_SECONDS = 10.0
"""How long a client may take to say what it wants."""

FOLLOW = "follow"
QUIET_SECONDS = 10.0
"""How often a follower is told that nothing has changed, so that each end knows that the other is there."""

Follow = Callable[[Callable[[frozenset[str]], None]], Callable[[], None]]
"""Calls what it is given, on any thread, with ids of machines that have changed, until what it returns is called."""

Command = Callable[[Mapping[str, Any]], Any]
"""Blocking; gets the arguments, returns what JSON can hold, raises SRIError."""

log = structlog.get_logger(__name__)


class AdminSocket:
    """Answers on the socket from `start` to `stop`; commands run on threads. The caller holds the state's lock."""

    def __init__(self, path: Path, commands: Mapping[str, Command], follow: Follow) -> None:
        self._path = path
        self._commands = commands
        self._follow = follow
        self._stopping = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. What is left of a daemon that was killed is replaced. Raises ConfigError."""
        try:
            listening = _listen(self._path)
        except OSError as error:
            raise ConfigError(f"admin socket {self._path}: {error.strerror}") from error
        # Not start_unix_server: since Python 3.13 that looks up the name that was bound, and the socket is moved.
        self._server = await asyncio.start_server(self._client, sock=listening, limit=REQUEST_BYTES)

    async def stop(self, grace: float) -> None:
        """Take no more; commands at work have `grace` seconds to be answered. Idempotent."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        self._stopping.set()
        self._path.unlink(missing_ok=True)
        if self._clients:
            _, late = await asyncio.wait(self._clients, timeout=grace)
            for client in late:
                client.cancel()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = asyncio.current_task()
        assert client is not None
        self._clients.add(client)
        try:
            answer = await self._answer(reader)
            if answer is None:
                await self._tell_of_changes(writer)
            else:
                await _say(writer, answer)
        except OSError as error:
            log.info("an admin client went away", error=str(error))
        finally:
            self._clients.discard(client)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> dict[str, Any] | None:
        """None for one who follows."""
        try:
            name, arguments = await _request(reader)
            if name == FOLLOW:
                return None
            if name not in self._commands:
                raise InvalidSpec("command", f"{name!r} is not one of {', '.join(self._commands)}")
            log.info("admin command", command=name)
            return {"result": await asyncio.to_thread(self._commands[name], arguments)}
        except SRIError as error:
            return {"error": str(error)}
        except Exception:
            log.exception("a bug: an admin command failed")
            return {"error": "the daemon met a bug of its own; its log says more"}

    async def _tell_of_changes(self, writer: asyncio.StreamWriter) -> None:
        loop, news, changed = asyncio.get_running_loop(), asyncio.Event(), set[str]()

        def noted(ids: frozenset[str]) -> None:
            changed.update(ids)
            news.set()

        def tell(ids: frozenset[str]) -> None:
            with suppress(RuntimeError):  # the loop has ended, and the provider with it
                loop.call_soon_threadsafe(noted, ids)

        stop = self._follow(tell)
        stopping = loop.create_task(self._stopping.wait())
        try:
            while not self._stopping.is_set():
                told = sorted(changed)
                changed.clear()
                news.clear()
                await _say(writer, {"changed": told})
                waiting = loop.create_task(news.wait())
                await asyncio.wait({waiting, stopping}, timeout=QUIET_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
        finally:
            stop()
            stopping.cancel()


async def _say(writer: asyncio.StreamWriter, answer: Mapping[str, Any]) -> None:
    writer.write(json.dumps(answer).encode() + b"\n")
    await writer.drain()


async def _request(reader: asyncio.StreamReader) -> tuple[str, Mapping[str, Any]]:
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            line = await reader.readline()
        request = json.loads(line)
        name, arguments = request["command"], request["arguments"]
    except TimeoutError:
        raise Unavailable("no request came") from None
    except (ValueError, KeyError, TypeError):
        raise InvalidSpec("request", 'it must be one line {"command": "…", "arguments": {…}}') from None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise InvalidSpec("request", "command must be a text and arguments an object")
    return name, arguments


def _listen(path: Path) -> socket.socket:
    """A listening socket that has its mode before anybody can find it."""
    listening = socket.socket(socket.AF_UNIX)
    try:
        made = path.with_name(path.name + ".new")
        made.unlink(missing_ok=True)
        with _short(made) as name:
            listening.bind(name)
        made.chmod(MODE)
        listening.listen()
        made.rename(path)
    except BaseException:
        listening.close()
        raise
    return listening


@contextmanager
def _short(path: Path) -> Iterator[str]:
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
            with _short(path) as name:
                door.connect(name)
            door.sendall(json.dumps({"command": FOLLOW, "arguments": {}}).encode() + b"\n")
            with door.makefile("rb") as reading:
                begun = False
                while line := reading.readline():
                    changed = frozenset(json.loads(line)["changed"])
                    if changed or not begun:
                        yield changed
                    begun = True
    except (OSError, ValueError, KeyError) as error:
        problem = (error.strerror or "it is silent") if isinstance(error, OSError) else "it speaks another language"
        raise Unavailable(f"the daemon cannot be followed at {path}: {problem}") from error


def ask(path: Path, command: str, arguments: Mapping[str, Any], *, seconds: float | None = None) -> Any:
    """Have the daemon behind the socket do a command, and wait for its result. Raises Unavailable, FailedPrecondition.

    FailedPrecondition holds the daemon's own words; Unavailable means that it cannot be asked, or was silent for so
    many seconds.
    """
    try:
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(seconds)
            with _short(path) as name:
                door.connect(name)
            door.sendall(json.dumps({"command": command, "arguments": dict(arguments)}).encode() + b"\n")
            with door.makefile("rb") as reading:
                line = reading.readline()
        answer = json.loads(line)
    except (OSError, ValueError) as error:
        problem = (error.strerror or "it is silent") if isinstance(error, OSError) else "it ended without an answer"
        raise Unavailable(f"the daemon cannot be asked at {path}: {problem}") from error
    if "error" in answer:
        raise FailedPrecondition(str(answer["error"]))
    return answer["result"]
