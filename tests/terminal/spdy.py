"""The client's side of SPDY/3.1, for tests: says what it is told to, also what it must not, and reads what comes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from sri_libvirt.console.dictionary import DICTIONARY

SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
DATA = 0
FIN = 1


@dataclass(frozen=True, slots=True)
class Frame:
    """One that the server has sent; of DATA `kind` is DATA and `stream` the stream, of others `payload` has it."""

    kind: int
    stream: int
    flags: int
    payload: bytes


def control(kind: int, payload: bytes, flags: int = 0, version: int = 3) -> bytes:
    return struct.pack(">HHI", 0x8000 | version, kind, flags << 24 | len(payload)) + payload


def data(stream: int, payload: bytes, flags: int = 0) -> bytes:
    return struct.pack(">II", stream, flags << 24 | len(payload)) + payload


@dataclass
class SpdyClient:
    """One connection. Its headers are compressed together, as the protocol has it."""

    deflate: zlib._Compress = field(
        default_factory=lambda: zlib.compressobj(9, zlib.DEFLATED, 15, 9, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)
    )
    inflate: zlib._Decompress = field(default_factory=lambda: zlib.decompressobj(zdict=DICTIONARY))
    input: bytearray = field(default_factory=bytearray)

    def block(self, headers: dict[str, str]) -> bytes:
        text = len(headers).to_bytes(4, "big")
        for part in (part.encode() for pair in headers.items() for part in pair):
            text += len(part).to_bytes(4, "big") + part
        return self.raw_block(text)

    def raw_block(self, text: bytes) -> bytes:
        return self.deflate.compress(text) + self.deflate.flush(zlib.Z_SYNC_FLUSH)

    def open(self, stream: int, kind: str, flags: int = 0) -> bytes:
        block = self.block({"streamtype": kind})
        return control(SYN_STREAM, struct.pack(">IIH", stream, 0, 0) + block, flags)

    def read(self, received: bytes) -> list[Frame]:
        """The frames that are whole."""
        self.input += received
        return list(self._frames())

    def _frames(self) -> Iterator[Frame]:
        while len(self.input) >= 8:
            first, second = struct.unpack_from(">II", self.input)
            length = second & 0xFFFFFF
            if len(self.input) < 8 + length:
                return
            payload = bytes(self.input[8 : 8 + length])
            del self.input[: 8 + length]
            if first >> 31:
                yield Frame(first & 0xFFFF, 0, second >> 24, payload)
            else:
                yield Frame(DATA, first, second >> 24, payload)
