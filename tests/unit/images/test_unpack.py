"""Unpacking strangers' files: whole ones to the byte, bombs and damage in bounded memory."""

from __future__ import annotations

import gzip
import io
import itertools
import lzma
import random
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sri_libvirt.images.fetch.job import Failure
from sri_libvirt.images.fetch.unpack import HEAD_BYTES, PIECE_BYTES, Packing, packing_of, unpacked

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MIB = 1 << 20
NOISE = random.Random(0).randbytes(50_000)

PACK: dict[Packing, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": lambda data: gzip.compress(data, 6, mtime=0),
    "xz": lambda data: lzma.compress(data, preset=0),
    "zstd": lambda data: zstd.compress(data, 1),
}
PACKINGS = tuple(packing for packing in PACK if packing)


class Source(io.RawIOBase):
    """A file that comes in chunks of its own; `taken` counts what was read."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""
        self.taken = 0

    def read(self, size: int = -1, /) -> bytes:
        assert size > 0, "reads are bounded"
        self._rest = self._rest or next(self._chunks, b"")
        data, self._rest = self._rest[:size], self._rest[size:]
        self.taken += len(data)
        return data


def unpack(data: bytes, packing: Packing, most: int = 1 << 40) -> bytes:
    return b"".join(unpacked(io.BytesIO(data), packing, most))


def code_of(data: bytes, packing: Packing, most: int = 1 << 40) -> str:
    with pytest.raises(Failure) as caught:
        unpack(data, packing, most)
    return caught.value.code


def zstd_frame(window_log: int, data: bytes = b"data") -> bytes:
    """One raw block, of unknown size (RFC 8878, 3.1.1)."""
    window = bytes([(window_log - 10) << 3])
    return b"\x28\xb5\x2f\xfd\0" + window + (len(data) << 3 | 1).to_bytes(3, "little") + data


def skippable(data: bytes) -> bytes:
    return b"\x5a\x2a\x4d\x18" + len(data).to_bytes(4, "little") + data


def test_every_packing_is_tested() -> None:
    assert PACK.keys() == set(get_args(Packing))


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("data", [b"", b"a", NOISE, bytes(3 * MIB), NOISE[:1000] * 3000], ids=lambda data: len(data))
def test_there_and_back(packing: Packing, data: bytes) -> None:
    packed = PACK[packing](data)
    assert packing_of(packed[:HEAD_BYTES]) == packing
    pieces = list(unpacked(io.BytesIO(packed), packing, len(data)))
    assert b"".join(pieces) == data
    assert all(0 < len(piece) <= PIECE_BYTES for piece in pieces)


@given(st.sampled_from(PACKINGS), st.lists(st.binary(max_size=300), max_size=4), st.lists(st.integers(1, 400)))
@settings(max_examples=60, deadline=None)
def test_streams_one_after_another_in_any_chunks(packing: Packing, parts: list[bytes], sizes: list[int]) -> None:
    packed = io.BytesIO(b"".join(PACK[packing](part) for part in (b"", *parts)))
    chunks = iter([*(packed.read(size) for size in sizes), packed.read()])
    source = Source(chunk for chunk in chunks if chunk)
    assert b"".join(unpacked(source, packing, 1 << 20)) == b"".join(parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "head", [b"", b"\0", b"\x1f\x8b", b"\x1f\x8b\0\0\0\0", b"QFI\xfb\0\0", b"\x5a\x2a\x4d\0", b"BZh9"]
)
def test_what_is_not_packed(head: bytes) -> None:
    assert packing_of(head) == ""


@pytest.mark.parametrize("packing", ["gzip", "xz"])
def test_zeroes_between_and_after_are_padding(packing: Packing) -> None:
    packed = PACK[packing](b"abc")
    assert unpack(packed + bytes(512) + packed + bytes(100_000), packing) == b"abcabc"


def test_skippable_frames() -> None:
    packed = (
        skippable(b"index") + PACK["zstd"](b"abc") + skippable(bytes(100_000)) + PACK["zstd"](b"def") + skippable(b"")
    )
    assert packing_of(packed[:HEAD_BYTES]) == "zstd"
    assert unpack(packed, "zstd") == b"abcdef"
    assert code_of(packed[:-1], "zstd") == "damaged"


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("tenth", range(10))
def test_what_ends_too_early(packing: Packing, tenth: int) -> None:
    packed = PACK[packing](NOISE)
    assert code_of(packed[: len(packed) * tenth // 10], packing) == "damaged"


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_last_byte_counts(packing: Packing) -> None:
    """Of a file that unpacks to much more than it is, too: the output waits, and the checksum after it."""
    for data in (b"", NOISE, bytes(PIECE_BYTES), bytes(4 * MIB)):
        assert code_of(PACK[packing](data)[:-1], packing) == "damaged"


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("garbage", [b"x", b"garbage" * 100, b"\0\0garbage", b"\x1f\x8b", NOISE])
def test_garbage_after_the_end(packing: Packing, garbage: bytes) -> None:
    assert code_of(PACK[packing](b"abc") + garbage, packing) == "damaged"


def test_zstd_is_not_padded() -> None:
    assert code_of(PACK["zstd"](b"abc") + bytes(512), "zstd") == "damaged"


@pytest.mark.parametrize("packing", ["gzip", "xz"])
def test_a_checksum_that_is_wrong(packing: Packing) -> None:
    packed = bytearray(PACK[packing](NOISE))
    packed[len(packed) // 2] ^= 1
    assert code_of(bytes(packed), packing) == "damaged"


@given(st.sampled_from(PACKINGS), st.binary(max_size=200), st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_bytes_are_a_fault(packing: Packing, data: bytes, begins: bool) -> None:
    with pytest.raises(Failure):
        unpack((PACK[packing](NOISE[:100])[:20] if begins else b"") + data + b"x", packing)


@pytest.mark.parametrize("packing", PACK)
def test_no_more_than_may_come(packing: Packing) -> None:
    packed = PACK[packing](bytes(MIB + 1))
    got: list[bytes] = []
    with pytest.raises(Failure, match="more than 1 MiB") as caught:
        got.extend(unpacked(io.BytesIO(packed), packing, MIB))
    assert caught.value.code == "too-large"
    assert sum(map(len, got)) <= MIB
    assert len(unpack(packed, packing, MIB + 1)) == MIB + 1


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_bomb_takes_little_memory_and_stops_at_the_bound(packing: Packing) -> None:
    """10 GiB of zeroes in streams of 32 MiB, of which each expands from some KiB; and it is not read to its end."""
    stream = PACK[packing](bytes(32 * MIB))
    source = Source(itertools.repeat(stream, 320))
    most = 80 * MIB
    sizes: list[int] = []
    tracemalloc.start()
    try:
        with pytest.raises(Failure, match="unpacks to more than 80 MiB") as caught:
            sizes.extend(len(piece) for piece in unpacked(source, packing, most))  # type: ignore[arg-type]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.code == "too-large"
    assert most - PIECE_BYTES <= sum(sizes) <= most
    assert peak < 8 * MIB
    assert source.taken < 4 * len(stream) + (1 << 16)


def test_a_window_of_zstd_that_takes_too_much_memory() -> None:
    assert unpack(zstd_frame(27), "zstd") == b"data"
    assert code_of(zstd_frame(28), "zstd") == "damaged"
    assert code_of(PACK["zstd"](b"abc") + zstd_frame(31), "zstd") == "damaged"


def test_a_dictionary_of_xz_that_takes_too_much_memory() -> None:
    packed = bytearray(lzma.compress(b"data", check=lzma.CHECK_NONE))
    head = packed[12:24]  # the block's header (xz-file-format 3.1): size, flags, filter, its size, dictionary, padding
    assert bytes(head[:4]) == b"\2\0\x21\1"

    def with_dictionary(bits: int) -> bytes:
        head[4] = bits
        head[8:12] = zlib.crc32(head[:8]).to_bytes(4, "little")
        return bytes(packed[:12] + head + packed[24:])

    assert unpack(with_dictionary(30), "xz") == b"data", "128 MiB"
    assert code_of(with_dictionary(31), "xz") == "damaged", "192 MiB"


@pytest.mark.parametrize("packing", PACK)
def test_what_the_source_raises_is_let_through(packing: Packing) -> None:
    def broken() -> Iterator[bytes]:
        yield PACK[packing](NOISE)[:100]
        raise TimeoutError

    with pytest.raises(TimeoutError):
        list(unpacked(Source(broken()), packing, MIB))  # type: ignore[arg-type]
