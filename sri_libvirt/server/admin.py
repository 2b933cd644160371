"""What the command line asks of a daemon that runs: sockets in the state directory.

One JSON object on one line each way, then the connection ends: `{"command": …, "arguments": {…}}` is answered with
`{"result": …}` or `{"error": …, "kind": …}`, a sentence and the class of error. The command `follow` alone has no end:
each line of its answer holds the ids of machines that have changed since the one before, `{"changed": […]}`, the first
of them none.

There are two: `admin.sock` (0600) is for root, and `read.sock` for whoever may use the SRI's own socket, so nothing can
be changed by it, and all there together take no more than a bounded part of the daemon. Machines are not made here, and
what a command does does not belong here: `app.py` hands the commands in.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from sri_libvirt.errors import ConfigError, FailedPrecondition, InvalidSpec, NotReady, SRIError, Unavailable
from sri_libvirt.resources import byte_words
from sri_libvirt.server.asking import FOLLOW, QUIET_SECONDS, short
from sri_libvirt.server.groups import group_id

ROOT_ONLY = 0o600
MOST_CLIENTS = 64
"""As many are answered at a time, and as many follow."""

MOST_ANSWERS = 16
"""As many commands are at work, or their answers being read, at a time; others wait for their turn."""

ANSWER_BYTES = 16 << 20
"""What is longer would take more of the daemon than an answer is worth, MOST_ANSWERS times."""

REQUEST_BYTES = 1 << 20
REQUEST_SECONDS = 10.0
"""How long a client may take to say what it wants."""

SAY_SECONDS = 10.0
"""How long a client may take to read what it is told."""

Follow = Callable[[Callable[[frozenset[str]], None]], Callable[[], None]]
"""Calls what it is given, on any thread, with ids of machines that have changed, until what it returns is called."""

Command = Callable[[Mapping[str, Any]], Any]
"""Blocking; gets the arguments, returns what JSON can hold, raises SRIError."""

log = structlog.get_logger(__name__)


class CommandSocket:
    """Answers on the socket from `start` to `stop`; commands run on threads. The caller holds the state's lock.

    `group` by name or number is who else may use it, as far as `mode` says; "" is nobody's. `workers` are at work at a
    time, which all have one processor: Python's lock. `told` is whether the log says what is asked for, as it does of
    changes.
    """

    def __init__(
        self,
        path: Path,
        commands: Mapping[str, Command],
        follow: Follow,
        *,
        mode: int = ROOT_ONLY,
        group: str = "",
        workers: int = MOST_ANSWERS,
        told: bool = True,
    ) -> None:
        self._path = path
        self._commands = commands
        self._follow = follow
        self._mode = mode
        self._group = group_id(group)
        self._told = told
        self._workers = ThreadPoolExecutor(workers, path.stem)
        self._turns = asyncio.Semaphore(MOST_ANSWERS)
        self._stopping = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._followers = 0

    async def start(self) -> None:
        """Listen. What is left of a daemon that was killed is replaced. Raises ConfigError."""
        try:
            listening = _listen(self._path, self._mode, self._group)
        except OSError as error:
            raise ConfigError(f"socket {self._path}: {error.strerror}") from error
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
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = asyncio.current_task()
        assert client is not None
        self._clients.add(client)
        writer.transport.set_write_buffer_limits(0)  # what is said is read, or its reader is left
        try:
            if len(self._clients) - self._followers > MOST_CLIENTS:
                await _say(writer, _refused(Unavailable(f"{MOST_CLIENTS} others are being answered: try again")))
                return
            await self._serve(reader, writer)
        except OSError as error:
            log.info("a client of a socket went away", socket=self._path.name, error=str(error))
            writer.transport.abort()  # a close would wait for it, for ever
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                raise
        finally:
            self._clients.discard(client)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            name, arguments = await _request(reader)
            if name == FOLLOW and self._followers >= MOST_CLIENTS:
                raise Unavailable(f"{MOST_CLIENTS} others follow: try again")
            if name != FOLLOW and name not in self._commands:
                raise InvalidSpec("command", f"{name!r} is not one of {', '.join(self._commands)}")
        except SRIError as error:
            await _say(writer, _refused(error))
            return
        if name == FOLLOW:
            self._followers += 1
            try:
                await self._tell_of_changes(writer)
            finally:
                self._followers -= 1
            return
        if self._told:
            log.info("admin command", command=name)
        async with self._turns:
            await _say(writer, await self._answer(name, arguments))

    async def _answer(self, name: str, arguments: Mapping[str, Any]) -> bytes:
        def work() -> bytes:
            return _line({"result": self._commands[name](arguments)})

        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._workers, work)
        except SRIError as error:
            return _refused(error)
        except Exception:
            log.exception("a bug: a command failed", socket=self._path.name, command=name)
            return _refused(FailedPrecondition("the daemon met a bug of its own; its log says more"))
        if len(answer) > ANSWER_BYTES:
            return _refused(FailedPrecondition(f"the answer has {byte_words(len(answer))}: ask for less at once"))
        return answer

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
                await _say(writer, _line({"changed": told}))
                waiting = loop.create_task(news.wait())
                await asyncio.wait({waiting, stopping}, timeout=QUIET_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
        finally:
            stop()
            stopping.cancel()


def _line(answer: Mapping[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


def _refused(error: SRIError) -> bytes:
    words = f"{error}. {error.advice}" if isinstance(error, NotReady) and error.advice else str(error)
    return _line({"error": words, "kind": type(error).__name__})


async def _say(writer: asyncio.StreamWriter, line: bytes) -> None:
    """Raises TimeoutError, which is an OSError, of a client that does not read."""
    writer.write(line)
    async with asyncio.timeout(SAY_SECONDS):
        await writer.drain()


async def _request(reader: asyncio.StreamReader) -> tuple[str, Mapping[str, Any]]:
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            line = await reader.readline()
        request = json.loads(line)
        name, arguments = request["command"], request["arguments"]
        json.dumps(request, ensure_ascii=False).encode()  # which halves of characters have none
    except TimeoutError:
        raise Unavailable("no request came") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InvalidSpec("request", 'it must be one line {"command": "…", "arguments": {…}}') from None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise InvalidSpec("request", "command must be a text and arguments an object")
    return name, arguments


def _listen(path: Path, mode: int, group: int | None) -> socket.socket:
    """A listening socket that has its owner and mode before anybody can find it."""
    listening = socket.socket(socket.AF_UNIX)
    try:
        made = path.with_name(path.name + ".new")
        made.unlink(missing_ok=True)
        with short(made) as name:
            listening.bind(name)
        made.chmod(ROOT_ONLY)
        if group is not None:
            os.chown(made, -1, group)
        made.chmod(mode)
        listening.listen()
        made.rename(path)
    except BaseException:
        listening.close()
        raise
    return listening
