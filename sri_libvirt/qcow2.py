"""qcow2 files: what a header says, and disks that appear complete or not at all.

The header is read here before any program opens the file: qemu-img follows a backing or external data file wherever it
points, and a tenant may have chosen the image. Formats are always named, never probed.
Which disk a machine gets, and where, does not belong here.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from sri_libvirt import paths, process
from sri_libvirt.devices import BackingFile
from sri_libvirt.errors import NotReady

MAGIC = b"QFI\xfb"

HEADER_BYTES = 104
"""As much of a file as `parse_header` needs."""

CONVERT = "Make a plain one of it: qemu-img convert -O qcow2 IMAGE PLAIN.qcow2"
CHECK = "See `qemu-img info` and `qemu-img check` of the file."
"""What makes a plain disk of one that is none; what tells more of one."""

_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")
assert _HEADER.size == HEADER_BYTES
_V2_BYTES = 72
_CORRUPT, _EXTERNAL_DATA = 1 << 1, 1 << 2
_NAME_MOST = 1023  # QEMU's docs/interop/qcow2.txt
_PROGRAM_SECONDS = 60.0
_CHECK_SECONDS = 300.0
_LEAKS_ONLY = 3
"""Exit status of `qemu-img check` when space is wasted and nothing is wrong."""

CORRUPT = 2
"""The same when the file is, whatever else may have failed with other ones."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the first bytes of a qcow2 file promise; `size` in bytes, as a guest sees it."""

    size: int
    has_backing: bool
    has_external_data: bool
    corrupt: bool
    encrypted: bool


def parse_header(data: bytes) -> Header:
    """Read the header from a file's first HEADER_BYTES. Raises ValueError (source: QEMU's docs/interop/qcow2.txt)."""
    if len(data) < _V2_BYTES or not data.startswith(MAGIC):
        raise ValueError("not a qcow2 header")
    fields = _HEADER.unpack(data[:HEADER_BYTES].ljust(HEADER_BYTES, b"\0"))
    version, backing_offset, size, encryption = fields[1], fields[2], fields[5], fields[6]
    if version not in (2, 3):
        raise ValueError(f"qcow2 of version {version}")
    incompatible = fields[13] if version == 3 else 0
    return Header(
        size=size,
        has_backing=backing_offset != 0,
        has_external_data=bool(incompatible & _EXTERNAL_DATA),
        corrupt=bool(incompatible & _CORRUPT),
        encrypted=encryption != 0,
    )


def backing_name(path: Path) -> str:
    """What a file's header names as its backing file, "" without one. No program opens it. Raises OSError, ValueError.

    For many files at once; `inspect` says more of one.
    """
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
        if not parse_header(head).has_backing:
            return ""
        fields = _HEADER.unpack(head.ljust(HEADER_BYTES, b"\0"))
        offset, length = fields[2], fields[3]
        if length > _NAME_MOST:
            raise ValueError("the name of its backing file is too long")
        file.seek(offset)
        return os.fsdecode(file.read(length))


def check_alone(head: bytes, what: str) -> Header:
    """The header of somebody else's file, by its first HEADER_BYTES. `what` names it in words.

    Raises NotReady for one that is damaged or encrypted, or by which QEMU would open another file.
    """
    try:
        header = parse_header(head)
    except ValueError as error:
        raise NotReady(f"{what} is damaged: {error}") from error
    if header.has_backing or header.has_external_data:
        other = "a backing file" if header.has_backing else "an external data file"
        raise NotReady(f"{what} has {other}, which is not followed", CONVERT)
    if header.encrypted or header.corrupt:
        raise NotReady(f"{what} is {'encrypted' if header.encrypted else 'marked as corrupt'}", CHECK)
    return header


@dataclass(frozen=True, slots=True)
class Info:
    """What qemu-img finds in a qcow2 file. `backing` is the base's path as written in it, "" without one."""

    size: int
    backing: str
    backing_format: str
    corrupt: bool


def inspect(path: Path) -> Info:
    """Have qemu-img open one of our own disks. Works beside a running guest. Raises ProcessError when it is damaged."""
    argv = ["qemu-img", "info", "--force-share", "-f", "qcow2", "--output=json", "--", str(path)]
    data = json.loads(process.run(argv, deadline=_PROGRAM_SECONDS))
    return Info(
        size=data["virtual-size"],
        backing=data.get("backing-filename", ""),
        backing_format=data.get("backing-filename-format", ""),
        corrupt=data.get("format-specific", {}).get("data", {}).get("corrupt", False),
    )


def check(path: Path) -> None:
    """Have qemu-img look through all metadata: a file that is still being copied fails. Raises ProcessError."""
    argv = ["qemu-img", "check", "-q", "--force-share", "-f", "qcow2", "--", str(path)]
    try:
        process.run(argv, deadline=_CHECK_SECONDS)
    except process.ProcessError as error:
        if error.returncode != _LEAKS_ONLY:
            raise


def make(path: Path, size: int) -> None:
    """Make a sparse disk of `size` bytes. Mode 0600: libvirt hands it to QEMU's user.

    It replaces whatever is at `path`. Raises ProcessError or OSError; nothing half-made stays behind then.
    """
    finish(make_unfinished(path, size), path)


def make_unfinished(path: Path, size: int, base: BackingFile | None = None) -> Path:
    """Make what `finish` makes the disk `path`, an overlay when there is a base; it lies beside it and is nothing yet.

    Raises ProcessError or OSError.
    """
    unfinished = paths.unfinished(path)
    unfinished.unlink(missing_ok=True)
    backing = ["-b", base.path, "-F", base.format] if base else []
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", *backing, "--", str(unfinished), str(size)]
    try:
        process.run(argv, deadline=_PROGRAM_SECONDS)
    except process.ProcessError:
        unfinished.unlink(missing_ok=True)
        raise
    return unfinished


def finish(unfinished: Path, path: Path) -> None:
    """Make it the disk, with its name and mode. Raises OSError; it does not stay behind then."""
    try:
        paths.install(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
