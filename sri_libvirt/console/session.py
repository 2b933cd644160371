"""One client at one guest's console: bytes from a socket to the guest and back, until either ends.

    client  ── socket ──> dialogue ── what is typed ──> guest
    client <── socket ─── dialogue <────── ring ─────── guest

The socket is not read while what was typed is 64 KiB ahead of the guest. A client that does not read loses the oldest
of what the guest prints, and after a minute its session. A client that is silent is asked for a sign of life, and is
gone after two that it does not give. Either way the end is told to who is still there: success when the guest's QEMU
has ended, else what went wrong. Who may have a console, and how a client came here, does not belong here (`server.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from sri_libvirt.console.guest import GuestSide, Open
from sri_libvirt.console.protocol import Dialogue, Left, Outcome, ProtocolError, Said, Typed

log = structlog.get_logger(__name__)

AHEAD_BYTES = 64 * 1024
"""Typed and not yet taken by the guest: beyond that the client's socket is not read."""

UNREAD_SECONDS = 60.0
"""How long a client may not read while there is output for it."""

READY_SECONDS = 30.0
"""How long a client may take to open its streams."""

PING_SECONDS = 10.0
"""How often it is asked for a sign of life. Unanswered twice, it is gone: within 30 seconds."""

_UNANSWERED = 2
_READ_BYTES = 64 * 1024
_SHOW_BYTES = 16 * 1024
_GOODBYE_SECONDS = 5.0
_LEAVES_SECONDS = 2.0

NOT_READ = Outcome(f"the session was ended: its client read nothing for {UNREAD_SECONDS:g} s")


@dataclass(slots=True)
class Traffic:
    """What a session has carried, in bytes."""

    typed: int = 0
    shown: int = 0
    lost: int = 0


class Session:
    """One session: `begin` it, `run` it once, `release` it always. `end` may be called whenever, in its loop.

    `console_log` is where the guest prints, too; `count` is told of bytes, "typed" or "shown", as they go.
    """

    def __init__(
        self, open_console: Open, dialogue: Dialogue, console_log: Path, count: Callable[[str, int], None]
    ) -> None:
        self.traffic = Traffic()
        self._count = count
        self._loop = asyncio.get_running_loop()
        self._dialogue = dialogue
        self._guest = GuestSide(open_console, self, console_log)
        self._over: asyncio.Future[Outcome | None] = self._loop.create_future()
        self._stirred = asyncio.Event()  # there may be something for the client
        self._room = asyncio.Event()  # the guest is not far behind what was typed
        self._room.set()
        self._closed = asyncio.Event()  # the guest's console is
        self._ahead = 0
        self._unanswered = 0

    # Told by the guest's threads.

    def printed(self) -> None:
        self._soon(self._stirred.set)

    def took(self, count: int) -> None:
        self._soon(lambda: self._took(count))

    def ended(self, problem: str) -> None:
        def over() -> None:
            self._closed.set()
            self.end(Outcome(problem))

        self._soon(over)

    # What the server does with it.

    async def begin(self, *, take_over: bool) -> None:
        """Open the guest's console. Raises HypervisorError."""
        await asyncio.to_thread(self._guest.begin, take_over=take_over)

    def end(self, outcome: Outcome | None) -> None:
        """Let it end, for this reason; None where nobody is there to hear it."""
        if not self._over.done():
            self._over.set_result(outcome)

    async def release(self) -> None:
        """Give the guest's console up, so that another may have it when this returns; or within some seconds, where
        libvirt hangs."""
        self._guest.stop()
        if self._guest.began:
            with suppress(TimeoutError):
                async with asyncio.timeout(_GOODBYE_SECONDS):
                    await self._closed.wait()

    async def run(self, said: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Outcome | None:
        """Carry bytes until it ends, then take leave of the client; how it ended. `said` is what it said at once."""
        self._stirred.set()
        parts = (partial(self._hear, said, reader), partial(self._show, writer), self._watch)
        tasks = [asyncio.create_task(self._part(each)) for each in parts]
        try:
            outcome = await self._over
        finally:
            self._guest.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.traffic.lost = self._guest.ring.lost
        with suppress(OSError, EOFError, TimeoutError, ProtocolError):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await self._take_leave(outcome, reader, writer)
        return outcome

    async def _part(self, part: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await part()
        except (OSError, ProtocolError) as error:  # a TimeoutError is one, of a connection that is gone
            log.info("a console's client is gone", problem=str(error))
            self.end(None)
        except Exception:
            log.exception("a bug: a console session ends")
            self.end(Outcome("a bug of the provider, whose log has more, has ended the session"))

    async def _hear(self, said: bytes, reader: asyncio.StreamReader) -> None:
        while data := said or await reader.read(_READ_BYTES):
            said, self._unanswered = b"", 0
            try:
                self._heard(self._dialogue.receive(data))
            finally:
                self._stirred.set()  # answers wait, the last words to one who said what may not be said too
            await self._room.wait()
        self.end(None)

    def _heard(self, found: list[Said]) -> None:
        """The end of input is none of the session: a serial line has none, and what the guest prints is wanted on."""
        for said in found:
            if isinstance(said, Typed):
                self.traffic.typed += len(said.data)
                self._count("typed", len(said.data))
                self._ahead += len(said.data)
                if self._ahead >= AHEAD_BYTES:
                    self._room.clear()
                self._guest.type(said.data)
            elif isinstance(said, Left):
                self.end(None)

    async def _show(self, writer: asyncio.StreamWriter) -> None:
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            while self._next_for_client():
                writer.write(self._dialogue.take())
                try:
                    async with asyncio.timeout(UNREAD_SECONDS):
                        await writer.drain()
                except TimeoutError:
                    self.end(NOT_READ)
                await asyncio.sleep(0)  # drain() returns at once as long as there is room

    def _next_for_client(self) -> bool:
        """Whether the dialogue has something to send, what the guest printed among it."""
        if self._dialogue.ready and not self._dialogue.waiting:
            data = self._guest.ring.take(_SHOW_BYTES)
            if data:
                self._show_client(data)
                return True
        return self._dialogue.has_output

    def _show_client(self, data: bytes) -> None:
        self._dialogue.show(data)
        self.traffic.shown += len(data)
        self._count("shown", len(data))

    async def _watch(self) -> None:
        """Whether the client lives, and reads."""
        begun, held_since = self._loop.time(), 0.0
        while True:
            await asyncio.sleep(PING_SECONDS)
            now = self._loop.time()
            if not self._room.is_set():
                self._unanswered = 0  # it is not read, and what it answers not heard; TCP tells if it is gone
            if self._unanswered >= _UNANSWERED or (not self._dialogue.ready and now - begun >= READY_SECONDS):
                self.end(None)
            held_since = (held_since or now) if self._dialogue.waiting else 0.0
            if held_since and now - held_since >= UNREAD_SECONDS:
                self.end(NOT_READ)
            self._unanswered += 1
            self._dialogue.ping()
            self._stirred.set()

    async def _take_leave(
        self, outcome: Outcome | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Say the last things in order, and hear the client out: one that is cut off while it talks may lose them."""
        if outcome is not None:
            await self._listen_until(lambda: self._dialogue.ready, reader, writer)
            while data := self._guest.ring.take(_SHOW_BYTES):
                self._show_client(data)
            self._dialogue.finish(outcome)
            await self._listen_until(lambda: not self._dialogue.waiting, reader, writer)
            if self._dialogue.leaves:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LEAVES_SECONDS):
                        await self._listen_until(lambda: False, reader, writer)
            self._dialogue.close()
        await self._flush(writer)
        if writer.can_write_eof():
            writer.write_eof()
        while await reader.read(_READ_BYTES):
            pass

    async def _listen_until(
        self, condition: Callable[[], bool], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Hear what the client says, and answer, until it holds. Raises EOFError when it goes before."""
        await self._flush(writer)
        while not condition():
            if not (said := await reader.read(_READ_BYTES)):
                raise EOFError
            self._dialogue.receive(said)
            await self._flush(writer)

    async def _flush(self, writer: asyncio.StreamWriter) -> None:
        writer.write(self._dialogue.take())
        await writer.drain()

    def _took(self, count: int) -> None:
        self._ahead -= count
        self._dialogue.consumed(count)
        if self._ahead < AHEAD_BYTES:
            self._room.set()
        self._stirred.set()

    def _soon(self, call: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop has ended, and everybody with it
            self._loop.call_soon_threadsafe(call)
