"""The listener of console sessions: an HTTP/1.1 request with a token in its path becomes a session, or is refused.

Only a 101 uses a token up: kubectl asks by WebSocket first and, refused, by SPDY at the same URL. A machine has one
session at a time. No call of libvirt is made in this asyncio loop. How a session goes does not belong here
(`session.py`), nor what a request may say (`negotiation.py`).
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

import h11
import structlog

from sri_libvirt.config import is_loopback, split_host_port
from sri_libvirt.console.negotiation import NOT_FOUND, Refusal, Upgrade, head, negotiate, refusal, token_of
from sri_libvirt.console.place import Consoles, Counts, Place
from sri_libvirt.console.protocol import Outcome
from sri_libvirt.console.session import Session
from sri_libvirt.console.tokens import Tokens
from sri_libvirt.errors import ConsoleHeld, HypervisorError, NoConsole, StoreError, Unreachable
from sri_libvirt.records import SECOND, Event

log = structlog.get_logger(__name__)

MOST_CONNECTIONS = 256
REQUEST_SECONDS = 10.0
"""How long a client may take for its request."""

MOST_HEAD_BYTES = 16 * 1024
STOP_SECONDS = 8.0

_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000),
)
"""A client that has vanished is found out by TCP also while it is not read, because its guest takes no more."""

_CUT: Outcome | None = Outcome("the provider stopped before it was over")
_TAKEN_OVER = "the session was ended: another client, from {}, has taken the console over"


@dataclass(slots=True)
class _Used:
    """A machine's console: since when, from where, and by which session; `free` is set once it is not used any more."""

    peer: str
    since: float
    session: Session
    free: asyncio.Event = field(default_factory=asyncio.Event)


class ConsoleServer:
    """One listener. `start` and `stop` belong to the asyncio loop."""

    def __init__(
        self,
        place: Place,
        tokens: Tokens,
        open_console: Consoles,
        exists: Callable[[str], bool],
        note: Callable[[str, Event], None],
        counts: Counts,
    ) -> None:
        self.url = ""
        """What tokens are appended to; set by start."""
        self._place = place
        self._tokens = tokens
        self._open_console = open_console
        self._exists = exists
        self._note = note
        self._counts = counts
        self._used: dict[str, _Used] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. Raises OSError."""
        self._server = await asyncio.start_server(self._accept, *split_host_port(self._place.address))
        host, port = self._server.sockets[0].getsockname()[:2]
        scheme = "http" if self._place.certificate is None else "https"
        self.url = self._place.base_url or f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        log.info("consoles are served", url=self.url)
        if not is_loopback(host) and self._place.certificate is None:
            log.warning("consoles are reached from elsewhere, without encryption", address=self._place.address)

    async def stop(self, problem: str) -> None:
        """Listen no more; end all sessions and tell their clients why, within STOP_SECONDS."""
        if self._server is not None:
            self._server.close()
        for used in list(self._used.values()):
            used.session.end(Outcome(problem))
        if self._serving:
            _, late = await asyncio.wait(self._serving, timeout=STOP_SECONDS)
            for task in late:
                task.cancel()

    def in_use(self, machine_id: str) -> str:
        """Who has a machine's console, as a sentence; "" if nobody has."""
        used = self._used.get(machine_id)
        if used is None:
            return ""
        return (
            f"the console of machine {machine_id} is in use since {time.monotonic() - used.since:.0f} s, from "
            f"{used.peer}: a machine has one session at a time"
        )

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        for level, option, value in _KEEPALIVE:
            writer.get_extra_info("socket").setsockopt(level, option, value)
        try:
            await self._serve(reader, writer)
        except (OSError, TimeoutError, EOFError):
            pass  # a client that went before it had said what it wants, or speaks no TLS
        except Exception:
            log.exception("a bug: a console's connection ends")
        finally:
            self._serving.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._serving) > MOST_CONNECTIONS:
            words = f"{MOST_CONNECTIONS} connections to consoles are open; try again later"
            await self._refuse(writer, refusal(503, words))
            return
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                if self._place.certificate is not None:  # not before: those who have not come so far are counted, too
                    # Not read meanwhile: what the client says first is for TLS. Files are looked at, which may hang.
                    assert isinstance(writer.transport, asyncio.Transport)
                    writer.transport.pause_reading()
                    await writer.start_tls(await asyncio.to_thread(self._place.certificate.context))
                request, said = await _request(reader)
        except h11.RemoteProtocolError as error:
            await self._refuse(writer, refusal(error.error_status_hint, "what came is no request of HTTP/1.1"))
            return
        found = negotiate(request.method, request.headers)
        machine_id = self._tokens.machine(token := token_of(request.target))
        try:
            if machine_id and not self._exists(machine_id):
                machine_id = ""
        except StoreError as error:
            await self._refuse(writer, refusal(503, str(error)))
            return
        if not machine_id and not (isinstance(found, Refusal) and found.status == 405):
            found = NOT_FOUND
        if isinstance(found, Refusal):
            await self._refuse(writer, replace(found, body=b"") if request.method == b"HEAD" else found)
            return
        peer = "{}:{}".format(*writer.get_extra_info("peername")[:2])
        await self._session(machine_id, token, found, peer, said, reader, writer)

    async def _session(
        self,
        machine_id: str,
        token: str,
        upgrade: Upgrade,
        peer: str,
        said: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        while (used := self._used.get(machine_id)) is not None:
            if not self._place.take_over:
                await self._refuse(writer, refusal(409, self.in_use(machine_id)))
                return
            used.session.end(Outcome(_TAKEN_OVER.format(peer)))
            await used.free.wait()
        session = Session(
            partial(self._open_console, machine_id),
            upgrade.dialogue(),
            self._place.console_log(machine_id),
            self._counts.console_bytes,
        )
        used = self._used[machine_id] = _Used(peer, time.monotonic(), session)
        opened, outcome = False, _CUT
        try:
            try:
                await session.begin(take_over=self._place.take_over)
            except HypervisorError as error:
                await self._refuse(writer, _of(error))
                return
            self._tokens.use(token)
            opened = True
            self._counts.console_opened()
            self._tell(machine_id, "opened", f"a console session was opened from {peer}", 0.0)
            writer.write(head(101, upgrade.headers))
            outcome = await session.run(said, reader, writer)
        finally:
            await session.release()
            del self._used[machine_id]
            used.free.set()
            if opened:
                self._counts.console_closed(_word(outcome), session.traffic.lost)
                self._tell(machine_id, "closed", _closed(session, peer, outcome), time.monotonic() - used.since)

    async def _refuse(self, writer: asyncio.StreamWriter, refused: Refusal) -> None:
        self._counts.console_refused(refused.status)
        length = ("Content-Length", str(len(refused.body)))
        writer.write(head(refused.status, (*refused.headers, length, ("Connection", "close"))) + refused.body)
        await writer.drain()

    def _tell(self, machine_id: str, reason: str, message: str, took: float) -> None:
        self._note(
            machine_id, Event(kind="console", reason=reason, message=message, took=int(took * SECOND), measure="open")
        )


async def _request(reader: asyncio.StreamReader) -> tuple[h11.Request, bytes]:
    """A request without a body, and what was said after it. Raises h11.RemoteProtocolError, EOFError."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEAD_BYTES)
    request: h11.Request | None = None
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(MOST_HEAD_BYTES))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.EndOfMessage):
            assert request is not None
            return request, connection.trailing_data[0]
        elif isinstance(event, h11.Data):
            raise h11.RemoteProtocolError("a body")
        else:
            raise EOFError("the client went away")


def _of(error: HypervisorError) -> Refusal:
    if isinstance(error, Unreachable):
        return refusal(503, str(error))
    if isinstance(error, NoConsole):
        return refusal(404, str(error))
    return refusal(409 if isinstance(error, ConsoleHeld) else 500, str(error))


def _word(outcome: Outcome | None) -> str:
    return "left" if outcome is None else "failed" if outcome.problem else "ended"


def _closed(session: Session, peer: str, outcome: Outcome | None) -> str:
    traffic = session.traffic
    how = "its client went" if outcome is None else outcome.problem or "the guest has ended"
    lost = f", {traffic.lost} of the output lost" if traffic.lost else ""
    return f"the console session from {peer} ended: {how}; {traffic.typed} bytes typed, {traffic.shown} shown{lost}"
