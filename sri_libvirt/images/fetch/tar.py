"""A tar archive as it comes: its entries and their data, in bounded memory. Nothing of it is unpacked.

The library's tarfile cannot be bounded: it reads an extended header of any size that a stranger names, calls itself
for each of a row of them, keeps all of a sparse map, and takes a damaged header for the end of the archive. So the few
fields that are wanted are read here: those of ustar, and long names of GNU tar and pax (POSIX pax, "ustar Interchange
Format"; GNU tar, "Basic Tar Format"). Where the formats leave open what is meant, it is read as by Go's archive/tar,
with which images are made and unpacked. What an entry means to an image does not belong here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from sri_libvirt.images.fetch.job import Failure
from sri_libvirt.resources import byte_words

BLOCK_BYTES = 512

EXTENSION_BYTES = 1 << 20
"""The most that one extended header may have: a path, and a file's attributes."""

Kind = Literal[
    "file", "directory", "hard link", "symbolic link", "character device", "block device", "fifo", "special file"
]

_KINDS: Mapping[bytes, Kind] = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",  # a contiguous one, where there is such a thing
    b"1": "hard link",
    b"2": "symbolic link",
    b"3": "character device",
    b"4": "block device",
    b"5": "directory",
    b"6": "fifo",
}
_NO_DATA = frozenset({b"1", b"2", b"3", b"4", b"5", b"6"})
"""Nothing follows these, whatever size they name."""

_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK, _SPARSE = frozenset({b"x", b"X"}), b"g", b"L", b"K", b"S"
_EXTENSIONS = _PAX | {_PAX_GLOBAL, _LONG_NAME, _LONG_LINK}
_ZEROES = bytes(BLOCK_BYTES)
_OCTAL = re.compile(rb"[ \0]*([0-7]*) *(?:\0.*)?", re.DOTALL)
_DECIMAL = re.compile(r"[0-9]{1,20}")
_LENGTH = re.compile(rb"([1-9][0-9]{0,6}) ")


@dataclass(frozen=True, slots=True)
class Entry:
    """`name` as it is written, what is no UTF-8 in it as surrogates; `size` in bytes of the data that follow."""

    name: str
    kind: Kind
    size: int


class Archive:
    """Entries in their order, once. `blocks` counts the blocks of headers that were read, extended ones with theirs.

    All that iterates raises Failure: "damaged" for what is no whole archive, or one with more than `most_blocks`;
    "not-an-image" for sparse files. What comes after the end of the archive is read and dropped, so that whatever
    gives the pieces finds its own end.
    """

    def __init__(self, pieces: Iterator[bytes], most_blocks: int) -> None:
        self.blocks = 0
        self._most_blocks = most_blocks
        self._pieces = pieces
        self._piece = b""
        self._at = 0
        self._unread = 0
        self._padding = 0

    def __iter__(self) -> Iterator[Entry]:
        long_name = ""
        fields: dict[str, str] = {}
        while (header := self._header()) != _ZEROES:
            type_flag = header[156:157]
            if type_flag == _SPARSE:
                raise _sparse()
            size = _number(header[124:136])
            if type_flag in _EXTENSIONS:
                data = self._extension(size)
                if type_flag == _LONG_NAME:
                    long_name = _text(data)
                elif type_flag in _PAX:
                    fields |= _pax_fields(data)
                elif type_flag == _PAX_GLOBAL and _pax_fields(data):
                    raise Failure("damaged", "its archive names a path or size of all files in it")
                continue
            entry = _entry(header, long_name or fields.get("path", ""), _pax_size(fields, size))
            self._unread, self._padding = entry.size, -entry.size % BLOCK_BYTES
            yield entry
            for _ in self.data():
                pass
            long_name, fields = "", {}
        if long_name or fields:
            raise _early()
        for _ in self._pieces:
            pass

    def data(self) -> Iterator[bytes]:
        """What has not been read yet of the last entry's data, in pieces as they come."""
        while self._unread:
            part = self._some(self._unread)
            self._unread -= len(part)
            yield part
        while self._padding:
            self._padding -= len(self._some(self._padding))

    def _header(self) -> bytes:
        self._count(1)
        header = self._exactly(BLOCK_BYTES)
        checksum = sum(header) - sum(header[148:156]) + 8 * ord(" ")
        if header != _ZEROES and checksum != _number(header[148:156]):
            raise _damaged()
        return header

    def _extension(self, size: int) -> bytes:
        if size > EXTENSION_BYTES:
            raise Failure("damaged", f"an extended header of its archive has {byte_words(size)}")
        padded = size + -size % BLOCK_BYTES
        self._count(padded // BLOCK_BYTES)
        return self._exactly(padded)[:size]

    def _count(self, blocks: int) -> None:
        self.blocks += blocks
        if self.blocks > self._most_blocks:
            raise Failure("damaged", "its archives have more headers than those of an image")

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            parts.append(self._some(size))
            size -= len(parts[-1])
        return b"".join(parts)

    def _some(self, most: int) -> bytes:
        """The next bytes, one at least."""
        while self._at == len(self._piece):
            self._at = 0
            try:
                self._piece = next(self._pieces)
            except StopIteration:
                self._piece = b""
                raise _early() from None
        part = self._piece[self._at : self._at + most]
        self._at += len(part)
        return part


def _entry(header: bytes, name: str, size: int) -> Entry:
    type_flag = header[156:157]
    if not name:
        name = _text(header[:100])
        prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""  # GNU tar has times there
        name = f"{prefix}/{name}" if prefix else name
    if type_flag == b"\0" and name.endswith("/"):  # of before there was a type for it
        return Entry(name, "directory", 0)
    return Entry(name, _KINDS.get(type_flag, "special file"), 0 if type_flag in _NO_DATA else size)


def _number(field: bytes) -> int:
    """Octal digits, or GNU tar's binary number, which the first bit tells; it may be negative there, and no size is."""
    if field[0] & 0x80:
        if field[0] & 0x40:
            raise _damaged()
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = _OCTAL.fullmatch(field)
    if digits is None:
        raise _damaged()
    return int(digits[1] or b"0", 8)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="surrogateescape")


def _pax_size(fields: Mapping[str, str], size: int) -> int:
    text = fields.get("size", "")
    if text and not _DECIMAL.fullmatch(text):
        raise _damaged()
    return int(text) if text else size


def _pax_fields(data: bytes) -> dict[str, str]:
    """The path and the size among records of `LENGTH KEY=VALUE`; a value that is empty says nothing."""
    found = {}
    at = 0
    while at < len(data):
        length = _LENGTH.match(data, at)
        end = at + int(length[1]) if length else 0
        if length is None or end > len(data) or data[end - 1 : end] != b"\n":
            raise _damaged()
        key, equals, value = data[length.end() : end - 1].partition(b"=")
        if not equals or (key == b"path" and b"\0" in value):
            raise _damaged()
        if key.startswith(b"GNU.sparse."):
            raise _sparse()
        if key in (b"path", b"size") and value:
            found[key.decode()] = value.decode(errors="surrogateescape")
        at = end
    return found


def _damaged() -> Failure:
    return Failure("damaged", "its archive has a header that is damaged, or is no tar archive")


def _sparse() -> Failure:
    return Failure("not-an-image", "a file in its archive is stored as a sparse one (tar --sparse)")


def _early() -> Failure:
    return Failure("damaged", "its archive ends too early")
