"""A disk written to a file without the zeroes in it: they are holes, and take no room. What is written, and when it is
whole, does not belong here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

BLOCK_BYTES = 1 << 16
"""Blocks of a file that become holes: a cluster of qcow2, and a whole number of a file system's blocks."""

_ZEROES = bytes(BLOCK_BYTES)


def write_sparse(pieces: Iterable[bytes], out: BinaryIO) -> int:
    """Write what the pieces are together to a file that is empty, open and buffered, and return its bytes.

    Raises OSError, and what `pieces` raises; the file is not whole then.
    """
    size = 0
    rest = b""
    for piece in pieces:
        data = rest + piece if rest else piece
        whole = len(data) - len(data) % BLOCK_BYTES
        put(out, size, data[:whole])
        size += whole
        rest = data[whole:]
    put(out, size, rest)
    out.truncate(size + len(rest))  # a hole at the end
    return size + len(rest)


def put(out: BinaryIO, at: int, data: bytes) -> None:
    """Write data at an offset from which on the file has nothing yet. Zeroes at its end do not make it longer."""
    for begin in range(0, len(data), BLOCK_BYTES):
        block = data[begin : begin + BLOCK_BYTES]
        if block != _ZEROES[: len(block)]:
            out.seek(at + begin)
            out.write(block)
