"""The one disk file in the layers of a KubeVirt containerDisk, as a container of it would see it in /disk.

The layers are read, never unpacked: no link is followed, and nothing but the disk is written. Those at the bottom are
hidden by those above (OCI image-spec, layer.md, "Whiteouts"). How an archive is read does not belong here (`tar.py`),
nor what is in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sri_libvirt.images.fetch.job import Failure
from sri_libvirt.images.fetch.sparse import write_sparse
from sri_libvirt.images.fetch.tar import Archive, Entry
from sri_libvirt.images.fetch.unpack import Packing, unpacked
from sri_libvirt.printable import quote
from sri_libvirt.resources import byte_words

OTHER_BYTES = 1 << 30
"""What layers may unpack to beside a disk of the greatest size."""

HEADER_BLOCKS = 1 << 20
"""Blocks of 512 bytes that the headers of all layers may have: one for an entry, three or more for one with an extended
header. This bounds the entries too."""

NAMES = 10_000
"""Names in /disk, of all layers."""

_NAME_BYTES, _PATH_BYTES = 255, 4096
"""The longest that Linux takes."""

_DIRECTORY = "disk"
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_ALL_BELOW = ([_OPAQUE], [_WHITEOUT + _DIRECTORY], [_DIRECTORY, _OPAQUE])
"""Paths that hide all of /disk in the layers below."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's file, and how it is packed."""

    path: Path
    packing: Packing


def extract_disk(
    layers: Sequence[Layer], out: BinaryIO, most: int, need: Callable[[int], None] = lambda _: None
) -> int:
    """Write the only file in /disk of these layers, bottom to top, to a file that is empty, open and buffered; return
    its bytes.

    Zeroes in it become holes. `need` is told of its bytes before they are written. The disk has at most `most` bytes,
    and all that the layers unpack to OTHER_BYTES more. Layers of which nothing shows are not read. Raises Failure,
    "not-an-image" where there is not just one file; OSError; and what `need` raises. What is in `out` is nothing then.
    """
    merged = _Merged(out, most, need)
    for layer in reversed(layers):
        with layer.path.open("rb") as source:
            merged.add(unpacked(source, layer.packing, merged.total))
        if merged.complete:
            break
    if not merged.file:
        raise Failure("not-an-image", "it has no file in /disk, where a containerDisk has its disk")
    return merged.size


class _Merged:
    """What shows in /disk, from the uppermost layer down.

    `file` is the name of the one that was written, "" before there is one, and `size` its bytes; `complete` is set when
    nothing of the layers below can show.
    """

    def __init__(self, out: BinaryIO, most: int, need: Callable[[int], None]) -> None:
        self.file = ""
        self.size = 0
        self.complete = False
        self.total = most + OTHER_BYTES
        self._out = out
        self._most = most
        self._need = need
        self._unpacked = 0
        self._blocks = 0
        self._hidden: set[str] = set()

    def add(self, pieces: Iterator[bytes]) -> None:
        """One layer more, below the others. What hides hides nothing of its own layer, wherever in it it stands."""
        archive = Archive(self._counted(pieces), HEADER_BLOCKS - self._blocks)
        own: dict[str, bool] = {}  # names in /disk, and whether they are directories
        removed: set[str] = set()
        for entry in archive:
            path = _path(entry.name)
            if path in _ALL_BELOW:
                self.complete = True
            elif path == [_DIRECTORY]:
                if entry.kind != "directory":
                    raise Failure("not-an-image", f"its /disk is a {entry.kind}, not a directory")
            elif path[:1] == [_DIRECTORY]:
                name, is_directory = path[1], len(path) > 2 or entry.kind == "directory"
                _bound(name, len(own) + len(removed) + len(self._hidden))
                if len(path) == 2 and name.startswith(_WHITEOUT):
                    removed.add(name.removeprefix(_WHITEOUT))
                    continue
                if name in own and not (is_directory and own[name]):
                    raise Failure("not-an-image", f"a layer of it has {quote(name)} in /disk twice")
                own[name] = is_directory
                if not is_directory and name not in self._hidden:
                    self._take(entry, name, archive)
        self._hidden |= own.keys() | removed
        self._blocks += archive.blocks

    def _take(self, entry: Entry, name: str, archive: Archive) -> None:
        if entry.kind != "file":
            raise Failure("not-an-image", f"{quote(name)} in its /disk is a {entry.kind}, not a file")
        if self.file:
            names = f"{quote(self.file)} and {quote(name)}"
            raise Failure("not-an-image", f"it has more than one file in /disk, among them {names}")
        self._need(entry.size)
        if entry.size > self._most:
            raise Failure("too-large", f"the disk in it has more than {byte_words(self._most)}")
        self.file = name
        self.size = write_sparse(archive.data(), self._out)

    def _counted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._unpacked += len(piece)
            if self._unpacked > self.total:
                raise Failure("too-large", f"its layers unpack to more than {byte_words(self.total)}")
            yield piece


def _path(name: str) -> list[str]:
    """Its parts, from the root of the layer. Raises Failure for one that leads up."""
    if len(name) > _PATH_BYTES:
        raise Failure("not-an-image", f"a path in it has more than {_PATH_BYTES} characters")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Failure("not-an-image", f"a path in it leads out of it: {quote(name)}")
    return parts


def _bound(name: str, names: int) -> None:
    """Names are kept; so they are short, and few."""
    if len(name.encode(errors="surrogateescape")) > _NAME_BYTES:
        raise Failure("not-an-image", f"a name in its /disk has more than {_NAME_BYTES} bytes")
    if names >= NAMES:
        raise Failure("not-an-image", f"it has more than {NAMES} names in /disk")
