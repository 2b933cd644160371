"""What a file is by its first bytes: what is no disk, and what in a raw one is known."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sri_libvirt.images import formats, seed


def at(offset: int, magic: bytes, length: int = formats.HEAD_BYTES) -> bytes:
    return (b"\0" * offset + magic).ljust(length, b"\0")


def ova() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("machine.ovf"))
    return out.getvalue()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("disk.raw", b"x")
    return out.getvalue()


@pytest.mark.parametrize("magic", formats.FOREIGN, ids=lambda magic: f"{magic.name}-{magic.bytes[:2].hex()}")
def test_every_foreign_format_is_named_and_has_advice(magic: formats.Magic) -> None:
    found = formats.foreign(at(magic.offset, magic.bytes))
    assert found is not None
    assert found.name == magic.name
    assert found.advice


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (ova(), "tar (an OVA is one)"),
        (zipped(), "zip"),
        (at(0x40, b"\x7f\x10\xda\xbe"), "VDI"),
        (b"WithoutFreeSpace", "Parallels"),
        (b"WithouFreSpacExt", "Parallels"),
        (b"<!DOCTYPE HTML PUBLIC>", "a web page or XML"),
        (b"\xef\xbb\xbf\r\n <HTML lang=en>", "a web page or XML"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page or XML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of git-lfs"),
        (at(0x1FE, b"\x55\xaa\xeb\x6aHdrS"), "a Linux kernel"),
    ],
)
def test_what_is_no_disk(head: bytes, name: str) -> None:
    found = formats.foreign(head)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("magic", formats.RAW, ids=lambda magic: magic.name)
def test_a_disk_that_somebody_made_is_not_told_of(magic: formats.Magic) -> None:
    assert magic.offset + len(magic.bytes) <= formats.HEAD_BYTES
    head = at(magic.offset, magic.bytes)
    assert (formats.foreign(head), formats.note(head)) == (None, "")


def test_what_may_not_boot_is_told_of() -> None:
    assert "may not boot" in formats.note(b"")
    assert "may not boot" in formats.note(bytes(formats.HEAD_BYTES))
    assert "may not boot" in formats.note(b"Not Found\n")
    image = seed.iso9660({"user-data": b""})
    assert formats.foreign(image) is None
    assert "not hybrid" in formats.note(image)
    assert formats.note(image[:0x1FE] + b"\x55\xaa" + image[0x200:]) == ""


@given(st.binary(max_size=1024))
def test_no_bytes_are_a_fault(head: bytes) -> None:
    formats.foreign(head)
    formats.note(head)
