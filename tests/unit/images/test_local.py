"""References to images, and what the first bytes of one say. Overlays are made in the contract tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from sri_libvirt.errors import InvalidSpec, NotReady
from sri_libvirt.images.formats import look_at
from sri_libvirt.images.local import path_of
from sri_libvirt.images.registry import ImageAccess, ImageRegistry
from tests.unit.test_qcow2 import header


@pytest.mark.parametrize(
    ("reference", "path"),
    [
        ("/images/a.raw", "/images/a.raw"),
        ("file:///images/a.raw", "/images/a.raw"),
        ("file://localhost/images/a.raw", "/images/a.raw"),
        ("FILE:///images/a%20b.raw", "/images/a b.raw"),
        ("/images/100%.raw", "/images/100%.raw"),
    ],
)
def test_what_is_a_path(reference: str, path: str) -> None:
    assert path_of(reference) == Path(path)
    assert ImageRegistry.load(ImageAccess()).select(reference).name == "local"


@pytest.mark.parametrize(
    "reference",
    [
        "", "a.raw", "./a.raw", "../a.raw", "file://a.raw", "file:a.raw", "file://host/a.raw", "file:///a?b",
        "file:///a%00b", "/" + "a" * 4096, "debian", "user/repo", "file://[",
    ],
)  # fmt: skip
def test_what_is_none_is_refused_in_the_rpc(reference: str) -> None:
    assert path_of(reference) is None
    with pytest.raises(InvalidSpec, match="an absolute path or file://") as caught:
        ImageRegistry.load(ImageAccess()).select(reference)
    assert caught.value.field == ""


def test_raw_and_qcow2() -> None:
    assert look_at(b"\xeb\x3c\x90", 1000, "i") == ("raw", 1024)
    assert look_at(header(size=5 << 30), 200_000, "i") == ("qcow2", 5 << 30)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (header(backing=112), "a backing file"),
        (header(incompatible=4), "an external data file"),
        (header(incompatible=2), "corrupt"),
        (header(crypt=1), "encrypted"),
        (header()[:50], "damaged"),
        (b"vhdxfile", "VHDX"),
    ],
)
def test_what_cannot_be_a_base(head: bytes, words: str) -> None:
    with pytest.raises(NotReady, match=words):
        look_at(head, 1 << 20, "i")


@pytest.mark.parametrize("name", ["page.qcow2", "OLD.QCOW2", "x.qcow"])
def test_what_is_called_qcow2_and_is_no_disk_at_all_is_no_raw_disk(name: str) -> None:
    page = b'{"errors": [{"code": "NOT_FOUND"}]}'
    with pytest.raises(NotReady, match=f'the image i is called "{name}" and is no qcow2') as caught:
        look_at(page, len(page), "the image i", name)
    assert "Fetch the file itself" in caught.value.advice
    assert look_at(page, len(page), "i", name.rpartition(".")[0])[0] == "raw", "what promises nothing may be anything"
    disk = bytes(0x1FE) + b"\x55\xaa"
    assert look_at(disk, 512, "i", name)[0] == "raw", "a disk by a wrong name"


def test_an_empty_file() -> None:
    with pytest.raises(NotReady, match="empty"):
        look_at(b"", 0, "i")
