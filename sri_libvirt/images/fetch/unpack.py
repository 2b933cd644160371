"""Packed files unpacked as they come: gzip, xz and zstd, in bounded memory and to a bounded size.

A decompressor is asked for a piece at a time, so that what unpacks to a large file is never whole in memory. What
is in a file, and where it goes, does not belong here.
"""

from __future__ import annotations

import lzma
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO, Literal, Protocol

from sri_libvirt.images.fetch.job import Failure
from sri_libvirt.resources import byte_words

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Packing = Literal["", "gzip", "xz", "zstd"]

HEAD_BYTES = 6
"""As much of a file as `packing_of` looks at."""

PIECE_BYTES = 1 << 20
"""The most that is unpacked at a time."""

LEAST_AHEAD_BYTES, MOST_AHEAD_BYTES = 4 << 20, 64 << 20
"""How much more than there is is told of where nobody knows how much there will be."""

_WINDOW_LOG = 27
"""128 MiB, what `zstd --ultra -22` and `zstd --long` need of memory."""

_XZ_MEMORY = 136 << 20
"""`xz -9` needs 65 MiB. As much as zstd may have, and a little for what is not dictionary."""

_READ_BYTES = 1 << 14
"""Little is read at a time: the rest of it is copied at each piece and at the end of each stream in it."""

_FAULTS = (zlib.error, lzma.LZMAError, zstd.ZstdError, EOFError)


class _Decompressor(Protocol):
    """What lzma's and zstd's have in common: for one stream of a file."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """zlib's, made like the others."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)  # with gzip's header and checksum

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail  # never so while output waits: the checksum comes after it

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


def _xz() -> _Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)


def _zstd() -> _Decompressor:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})


_DECOMPRESSORS: Mapping[Packing, Callable[[], _Decompressor]] = {"gzip": _Gzip, "xz": _xz, "zstd": _zstd}
_PADDED = frozenset({"gzip", "xz"})
"""Zeroes may stand between and after the streams of these: tapes and the xz format have them."""


def packing_of(head: bytes) -> Packing:
    """How a file is packed, by its first HEAD_BYTES; "" for one that is not."""
    if head.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    if head.startswith(b"\xfd7zXZ\0"):
        return "xz"
    skippable = head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50  # what pzstd begins with
    return "zstd" if skippable or head.startswith(b"\x28\xb5\x2f\xfd") else ""


def unpacked(source: BinaryIO, packing: Packing, most: int) -> Iterator[bytes]:
    """What is in a file, in pieces of at most PIECE_BYTES, none of them empty.

    It takes a few MiB of memory, and of the decompressor's own 128 MiB for xz and zstd at most. Raises Failure:
    "too-large" before it gives more than `most` bytes, "damaged" for what is not whole or goes on after its end; and
    what `source` raises.
    """
    count = 0
    for piece in _expanded(source, packing) if packing else iter(lambda: source.read(PIECE_BYTES), b""):
        count += len(piece)
        if count > most:
            raise Failure("too-large", f"it {'unpacks to' if packing else 'has'} more than {byte_words(most)}")
        yield piece


def needing(pieces: Iterator[bytes], need: Callable[[int], None]) -> Iterator[bytes]:
    """The pieces, of which nobody knows how many there are. `need` is told of bytes before they come: of an eighth of
    those that there are, within bounds: so it is asked seldom, and for little that does not come."""
    count = known = 0
    for piece in pieces:
        count += len(piece)
        if count > known:
            ahead = min(max(count >> 3, LEAST_AHEAD_BYTES), MOST_AHEAD_BYTES)
            need(ahead)
            known = count + ahead
        yield piece


def _expanded(source: BinaryIO, packing: Packing) -> Iterator[bytes]:
    """Any number of streams (gzip's members, zstd's frames), one after another."""
    data = source.read(_READ_BYTES)
    while True:
        stream = _DECOMPRESSORS[packing]()
        while not stream.eof:
            if stream.needs_input and not data:
                data = source.read(_READ_BYTES)
                if not data:
                    raise Failure("damaged", f"it is packed with {packing} and ends too early")
            try:
                piece = stream.decompress(data, PIECE_BYTES)
            except _FAULTS as error:
                raise Failure("damaged", f"it cannot be unpacked with {packing}: {error}") from error
            data = b""
            if piece:
                yield piece
        data = _next_stream(source, stream.unused_data, packing)
        if not data:
            return


def _next_stream(source: BinaryIO, data: bytes, packing: Packing) -> bytes:
    """The beginning of what follows a stream, b"" if that is nothing or padding."""
    while True:
        if packing in _PADDED:
            data = data.lstrip(b"\0")
        if data:
            return data
        data = source.read(_READ_BYTES)
        if not data:
            return b""
