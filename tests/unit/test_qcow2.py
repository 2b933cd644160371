"""Reading a qcow2 header, before any program opens the file."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from sri_libvirt import process, qcow2
from sri_libvirt.errors import NotReady


def header(*, version: int = 3, backing: int = 0, size: int = 1 << 30, crypt: int = 0, incompatible: int = 0) -> bytes:
    head = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", version, backing, 0, 16, size, crypt, 2, 0x30000, 0x10000, 1, 0, 0
    )
    return head + (struct.pack(">QQQII", incompatible, 0, 0, 4, 104) if version == 3 else b"")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (header(backing=0x70), "has a backing file, which is not followed"),
        (header(incompatible=4), "has an external data file, which is not followed"),
        (header(incompatible=2), "marked as corrupt"),
        (header(crypt=2), "is encrypted"),
        (b"raw", "damaged: not a qcow2 header"),
    ],
)
def test_a_file_that_qemu_must_not_follow(data: bytes, words: str) -> None:
    with pytest.raises(NotReady, match=f"^the file /a .*{words}"):
        qcow2.check_alone(data, "the file /a")
    assert qcow2.check_alone(header(), "the file /a").size == 1 << 30


def test_plain() -> None:
    expected = qcow2.Header(1 << 30, has_backing=False, has_external_data=False, corrupt=False, encrypted=False)
    assert qcow2.parse_header(header()) == expected
    assert qcow2.parse_header(header(version=2)) == expected


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (header(backing=0x70), "has_backing"),
        (header(version=2, backing=0x70), "has_backing"),
        (header(incompatible=4), "has_external_data"),
        (header(incompatible=2), "corrupt"),
        (header(crypt=2), "encrypted"),
    ],
)
def test_what_stands_in_it(data: bytes, word: str) -> None:
    found = qcow2.parse_header(data)
    words = ("has_backing", "has_external_data", "corrupt", "encrypted")
    assert [each for each in words if getattr(found, each)] == [word]


def test_an_unclean_close_is_no_fault() -> None:
    assert qcow2.parse_header(header(incompatible=1)) == qcow2.parse_header(header())


def test_version_2_has_no_feature_bits() -> None:
    """What follows a short header is other data."""
    assert not qcow2.parse_header(header(version=2) + b"\xff" * 40).has_external_data


@pytest.mark.parametrize("data", [b"", b"QFI\xfb", header()[:71], b"\0" * 200, header(version=4), header(version=1)])
def test_no_header(data: bytes) -> None:
    with pytest.raises(ValueError, match="qcow2"):
        qcow2.parse_header(data)


@pytest.mark.parametrize(("status", "fails"), [(1, True), (2, True), (3, False)])
def test_wasted_space_is_no_fault(status: int, fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit statuses of `qemu-img check`: 1 not done, 2 corrupt, 3 leaked clusters alone."""

    def run(*_: object, **__: object) -> bytes:
        raise process.ProcessError("qemu-img failed", status)

    monkeypatch.setattr(process, "run", run)
    if fails:
        with pytest.raises(process.ProcessError):
            qcow2.check(Path("disk.qcow2"))
    else:
        qcow2.check(Path("disk.qcow2"))
