"""A person at a terminal, by SPDY or by WebSocket: asks for an upgrade, types, reads, and hears how it ended."""

from __future__ import annotations

import asyncio
import json
import ssl
import struct
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

from tests.terminal.spdy import DATA, FIN, GOAWAY, PING, SpdyClient, control, data

DEADLINE = 30.0
SPDY_VERSIONS = ("v5", "v4", "v3", "v2")


class Refused(Exception):
    """An answer that is no 101."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        super().__init__(f"{status}: {body.decode(errors='replace')}")
        self.status = status
        self.headers = headers
        self.body = body


class Terminal(Protocol):
    """One session. What has come is in `shown`; `status` is what was told at the end, b"" before."""

    shown: bytearray
    status: bytes
    ended: bool
    pings: int

    async def type(self, text: bytes) -> None: ...

    async def hear(self) -> bool:
        """Take in what comes next; False once the connection has ended."""

    async def close(self) -> None:
        """Go, as a client that is in order does."""


async def until(terminal: Terminal, condition: Callable[[], object], deadline: float = DEADLINE) -> None:
    """Hear until it holds."""
    async with asyncio.timeout(deadline):
        while not condition():
            assert await terminal.hear(), f"it ended: {bytes(terminal.shown)!r}, {terminal.status!r}"


async def outcome(terminal: Terminal, deadline: float = DEADLINE) -> dict[str, Any]:
    """Hear all to the end, and how it ended: a metav1.Status."""
    async with asyncio.timeout(deadline):
        while await terminal.hear():
            pass
    found: dict[str, Any] = json.loads(terminal.status)
    return found


async def connect(
    host: str, port: int, relay: str = "", tls: ssl.SSLContext | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection, by the socket of a `relay` where the server is in another network namespace."""
    if not relay:
        return await asyncio.open_connection(host, port, ssl=tls)
    reader, writer = await asyncio.open_unix_connection(relay)
    writer.write(f"{host} {port}\n".encode())
    return reader, writer


async def request(
    url: str, headers: list[tuple[str, str]], method: str = "GET", relay: str = "", tls: ssl.SSLContext | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, list[tuple[str, str]]]:
    """Ask for an upgrade; of an https URL with `tls`. Raises Refused."""
    split = urlsplit(url)
    assert split.hostname
    assert split.port
    assert (split.scheme == "https") == (tls is not None)
    reader, writer = await connect(split.hostname, split.port, relay, tls)
    lines = [f"{method} {split.path} HTTP/1.1", "Host: of-the-client", *(f"{name}: {value}" for name, value in headers)]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    async with asyncio.timeout(DEADLINE):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        status = int(head[0].split()[1])
        told = [(name, value.strip()) for name, _, value in (line.partition(":") for line in head[1:])]
        if status != 101:
            body = await reader.read()
            writer.close()
            raise Refused(status, told, body)
    return reader, writer, told


class SpdyTerminal:
    """As kubectl before 1.31 opens it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.shown, self.status, self.ended, self.pings = bytearray(), b"", False, 0
        self.reader, self.writer = reader, writer
        self.client = SpdyClient()
        self.streams: dict[str, int] = {}
        self._over: set[int] = set()

    @classmethod
    async def open(
        cls,
        url: str,
        *kinds: str,
        versions: tuple[str, ...] = ("v4",),
        relay: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> SpdyTerminal:
        headers = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")]
        asked = [("X-Stream-Protocol-Version", f"{each}.channel.k8s.io") for each in versions]
        reader, writer, _ = await request(url, [*headers, *asked], "POST", relay, tls)
        terminal = cls(reader, writer)
        for number, kind in enumerate(kinds or ("error", "stdin", "stdout", "resize")):
            terminal.streams[kind] = 2 * number + 1
            writer.write(terminal.client.open(2 * number + 1, kind))
        return terminal

    async def type(self, text: bytes) -> None:
        self.writer.write(data(self.streams["stdin"], text))
        await self.writer.drain()

    async def end_input(self) -> None:
        self.writer.write(data(self.streams["stdin"], b"", FIN))
        await self.writer.drain()

    async def hear(self) -> bool:
        received = await self.reader.read(65536)
        for frame in self.client.read(received):
            if frame.kind == DATA and frame.stream == self.streams.get("stdout"):
                self.shown += frame.payload
            elif frame.kind == DATA and frame.stream == self.streams.get("error"):
                self.status += frame.payload
            elif frame.kind == PING:
                self.pings += 1
                self.writer.write(control(PING, frame.payload))
            elif frame.kind == GOAWAY:
                self.ended = True
            if frame.kind == DATA and frame.flags & FIN:
                self._over.add(frame.stream)
        if not self.ended and {"stdout", "error"} <= {
            kind for kind, each in self.streams.items() if each in self._over
        }:
            self.ended = True  # it has heard all that there is to hear
            await self.close()
        return bool(received)

    async def close(self) -> None:
        self.writer.write(control(GOAWAY, struct.pack(">II", 0, 0)))
        self.writer.close()


class WebSocketTerminal:
    """As kubectl since 1.31, or PyPI's kubernetes, opens it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.shown, self.status, self.ended, self.pings = bytearray(), b"", False, 0
        self.reader, self.writer = reader, writer
        self.connection = Connection(ConnectionType.CLIENT)
        self.code = 0
        self._message = bytearray()

    @classmethod
    async def open(
        cls, url: str, subprotocol: str = "v5.channel.k8s.io", relay: str = "", tls: ssl.SSLContext | None = None
    ) -> WebSocketTerminal:
        headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ]
        named = ("Sec-WebSocket-Protocol", subprotocol)
        reader, writer, told = await request(url, [*headers, named], "GET", relay, tls)
        assert ("Sec-WebSocket-Protocol", subprotocol) in told
        return cls(reader, writer)

    async def type(self, text: bytes) -> None:
        self.writer.write(self.connection.send(BytesMessage(b"\0" + text)))
        await self.writer.drain()

    async def end_input(self) -> None:
        self.writer.write(self.connection.send(BytesMessage(b"\xff\0")))
        await self.writer.drain()

    async def hear(self) -> bool:
        received = await self.reader.read(65536)
        if self.ended or not received:
            return False
        self.connection.receive_data(received)
        for event in self.connection.events():
            if isinstance(event, BytesMessage | TextMessage):
                self._message += event.data.encode() if isinstance(event, TextMessage) else event.data
                if event.message_finished:
                    channel, payload = self._message[0], bytes(self._message[1:])
                    self._message.clear()
                    if channel == 1:
                        self.shown += payload
                    elif channel == 3:
                        self.status += payload
            elif isinstance(event, Ping):
                self.pings += 1
                self.writer.write(self.connection.send(event.response()))
            elif isinstance(event, CloseConnection):
                self.ended, self.code = True, event.code
                self.writer.write(self.connection.send(event.response()))
        return True

    async def close(self) -> None:
        self.writer.write(self.connection.send(CloseConnection(1000)))
        self.writer.close()
