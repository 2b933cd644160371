"""Files of web servers: whatever they are packed with, with and without a digest, and when they change."""

from __future__ import annotations

import gzip
import lzma
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sri_libvirt.images.rules import Rules
from sri_libvirt.images.sources import Sources
from tests.backends.daemon import run
from tests.backends.webserver import Fault, WebServer
from tests.contract.images.conftest import MIB, MINUTE, again, digest_of, fetched, left, lenient, noise, refused
from tests.image_house import House

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DISK = noise(MIB) + bytes(MIB)
PACK: dict[str, Callable[[bytes], bytes]] = {
    "raw": bytes,
    "gz": lambda data: gzip.compress(data, 1, mtime=0),
    "xz": lambda data: lzma.compress(data, preset=0),
    "zst": lambda data: zstd.compress(data, 1),
}


@pytest.fixture
def server(tmp_path: Path) -> WebServer:
    return WebServer(tls=tmp_path / "tls")


def trusting(server: WebServer, patterns: str = "/*") -> Rules:
    return Rules(Sources((f"{server.url}{patterns}",)), ca=server.ca)


def marked(url: str, data: bytes) -> str:
    """The URL of a file that must be this one."""
    return f"{url}#{digest_of(data).replace(':', '=')}"


def test_files_are_unpacked_and_a_digest_is_that_of_what_the_server_has(tmp_path: Path, server: WebServer) -> None:
    with server, House(tmp_path / "state", trusting(server)) as house:
        for ending, pack in PACK.items():
            data = pack(DISK)
            server.files[f"/images/disk.{ending}"] = data
            image = f"{server.url}/images/disk.{ending}"
            pin = house.resolve(image)
            assert pin is not None
            assert pin.reference == marked(image, data)
            path = fetched(house, image, pin)
            assert path.read_bytes() == DISK
            assert path.name == f"{digest_of(DISK).removeprefix('sha256:')}.raw"
            assert path.stat().st_blocks * 512 < MIB + (64 << 10)
        assert left(house) == [path.name], "one file, whatever it came in"
        assert len(server.requests) == len(PACK)


@pytest.mark.parametrize("ending", ["qcow2", "qcow2.xz"])
def test_a_qcow2_is_taken_for_one_by_its_bytes(tmp_path: Path, server: WebServer, ending: str) -> None:
    made = tmp_path / "disk.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", made, "64M"])
    server.files["/image"] = PACK["xz"](made.read_bytes()) if ending.endswith("xz") else made
    with server, House(tmp_path / "state", trusting(server)) as house:
        image = f"{server.url}/image?version=1"
        base = house.base(image, house.resolve(image))
        assert base.disk is not None
        assert (base.disk.format, base.size) == ("qcow2", 64 * MIB)
        assert Path(base.disk.path).read_bytes() == made.read_bytes()


@pytest.mark.parametrize("ending", ["raw", "gz"])
def test_a_digest_that_is_named_must_be_right(house: House, front: WebServer, ending: str) -> None:
    data = PACK[ending](DISK)
    front.files["/disk"] = data
    wrong = marked(f"{front.url}/disk", DISK + b"x")
    words = f"gives other bytes for {digest_of(DISK + b'x')}: they have {digest_of(data)}"
    error = refused(lambda: fetched(house, wrong), "image-refused", wrong, words)
    assert "push it again" in error.advice
    assert left(house) == []
    assert fetched(house, marked(f"{front.url}/disk", data)).read_bytes() == DISK


def test_a_file_that_is_replaced_is_for_new_machines_alone(house: House, front: WebServer) -> None:
    other = noise(MIB, 2)
    front.files["/disk.raw"] = DISK
    image = f"{front.url}/disk.raw"
    old = house.resolve(image)
    front.files["/disk.raw"] = other
    assert house.resolve(image) == old
    assert len(front.requests) == 1
    house.later(61)
    new = house.resolve(image)
    assert old is not None
    assert new is not None
    assert (old.reference, new.reference) == (marked(image, DISK), marked(image, other))
    assert fetched(house, image, old).read_bytes() == DISK
    assert fetched(house, image, new).read_bytes() == other
    assert len(front.requests) == 2

    fetched(house, image, old).unlink()
    words = f"gives other bytes for {digest_of(DISK)}"
    refused(lambda: fetched(house, image, old), "image-refused", image, words)
    assert fetched(house, image, new).read_bytes() == other


def test_a_file_that_is_the_same_is_not_fetched_again(tmp_path: Path, front: WebServer) -> None:
    front.files["/disk.gz"] = PACK["gz"](DISK)
    image = f"{front.url}/disk.gz"
    with House(tmp_path / "state", lenient(front)) as house:
        pin = house.resolve(image)
        path = fetched(house, image, pin)
    with House(tmp_path / "state", lenient(front)) as house:
        front.misbehave("/disk.gz", Fault(status=304, content=b""), times=1)
        assert house.resolve(image) == pin
        assert front.requests[-1].headers["If-None-Match"].startswith('"')
        assert left(house) == [path.name]

        path.unlink()
        house.later(61)
        assert house.resolve(image) == pin
        assert fetched(house, image, pin).read_bytes() == DISK
        assert front.requests[-1].headers["If-None-Match"] is None, "what was the same is not here any more"


@pytest.mark.parametrize("tag", ["", 'W/"weak"', "unquoted", '"' + "x" * 300 + '"'])
def test_a_file_of_which_its_server_does_not_say_that_it_is_the_same_is_fetched(
    house: House, front: WebServer, tag: str
) -> None:
    front.files["/disk.raw"] = DISK
    front.misbehave("/*", Fault(headers={"ETag": tag}))
    image = f"{front.url}/disk.raw"
    pin = house.resolve(image)
    house.later(61)
    assert house.resolve(image) == pin
    assert [(each.sent, each.headers["If-None-Match"]) for each in front.requests] == [(len(DISK), None)] * 2
    front.behave()
    front.misbehave("/*", Fault(status=304, content=b""))
    house.later(61)
    refused(lambda: house.resolve(image), "image-refused", image, "answers 304")


def test_without_its_server_a_file_means_nothing_rather_than_what_it_meant(house: House, front: WebServer) -> None:
    front.files["/disk.raw"] = DISK
    image = f"{front.url}/disk.raw"
    pin = house.resolve(image)
    house.later(61)
    front.close()
    refused(lambda: house.resolve(image), "image-unreachable", image, "Connection refused")
    assert pin is not None
    assert fetched(house, image, pin).read_bytes() == DISK
    assert house.resolve(pin.reference) == pin


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (PACK["gz"](DISK)[:-20], "packed with gzip and ends too early"),
        (PACK["gz"](DISK)[:-2] + b"xx", "cannot be unpacked with gzip"),
        (PACK["xz"](DISK)[:-20], "packed with xz and ends too early"),
        (PACK["zst"](DISK)[:-20], "packed with zstd and ends too early"),
        (PACK["gz"](PACK["xz"](DISK)), "is xz, not raw or qcow2"),
        (b"<!DOCTYPE html><html>Please log in</html>", "is a web page or XML, not raw or qcow2"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of git-lfs"),
        (b"QFI\xfb" + bytes(200), "is damaged"),
        (b"QFI\xfb\0\0\0\3" + bytes(500), "qemu-img failed with status 1"),
        (b"", "is empty"),
    ],
    ids=["gzip", "gzip-spoilt", "xz", "zstd", "twice", "page", "lfs", "qcow2", "qcow2-unopened", "empty"],
)
def test_what_is_no_whole_disk_is_refused_and_nothing_of_it_stays(
    house: House, front: WebServer, data: bytes, words: str
) -> None:
    front.files["/disk"] = data
    image = f"{front.url}/disk"
    refused(lambda: house.resolve(image), "image-refused", image, words)
    assert left(house) == []
    front.files["/disk"] = DISK
    house.later(MINUTE)
    assert again(house, lambda: fetched(house, image)).read_bytes() == DISK


def test_a_qcow2_that_is_still_being_copied_is_refused(tmp_path: Path, house: House, front: WebServer) -> None:
    made = tmp_path / "disk.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", made, "64M"])
    front.files["/disk"] = made.read_bytes()[: 128 << 10]
    image = f"{front.url}/disk"
    refused(lambda: house.resolve(image), "image-refused", image, "qemu-img")
    assert left(house) == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(status=404), "does not have the file"),
        (Fault(status=403), "does not give the file to who asks"),
        (Fault(headers={"Content-Length": ""}), "does not say how many bytes it has"),
        (Fault(headers={"Content-Length": "9" * 5000}), "does not say how many bytes it has"),
    ],
    ids=["404", "403", "no-length", "no-number"],
)
def test_answers_that_are_no_file_are_refused(house: House, front: WebServer, fault: Fault, words: str) -> None:
    front.files["/disk"] = DISK
    front.misbehave("/disk", fault)
    image = f"{front.url}/disk"
    refused(lambda: house.resolve(image), "image-refused", image, words)
    assert left(house) == []


def test_a_file_that_is_larger_than_any_room_is_not_begun(house: House, front: WebServer) -> None:
    front.files["/disk"] = DISK
    front.misbehave("/disk", Fault(headers={"Content-Length": "9" * 17}))
    image = f"{front.url}/disk"
    words = f"does not fit on this host: disk: {10**17 - 1} asked, {1 << 40} free"
    refused(lambda: house.resolve(image), "no-room", image, words)
    assert left(house) == []


def test_bytes_are_taken_as_they_come_whatever_they_are_said_to_be_encoded_with(house: House, front: WebServer) -> None:
    front.files["/disk"] = DISK
    front.misbehave("/disk", Fault(headers={"Content-Encoding": "gzip"}))
    assert fetched(house, f"{front.url}/disk").read_bytes() == DISK


def test_a_certificate_of_nobody_is_refused(tmp_path: Path, server: WebServer) -> None:
    server.files["/disk"] = DISK
    rules = Rules(Sources((f"{server.url}/*",)))
    with server, House(tmp_path / "state", rules) as house:
        image = f"{server.url}/disk"
        refused(lambda: house.resolve(image), "image-unreachable", image, "no certificate that is trusted here")
    assert server.requests == []


def test_only_paths_that_the_operator_lists_are_asked_for(tmp_path: Path, front: WebServer) -> None:
    front.files |= {"/images/disk": DISK, "/other/disk": DISK}
    rules = Rules(Sources((f"{front.url}/images/*",)), insecure=lenient(front).insecure)
    with House(tmp_path / "state", rules) as house:
        assert fetched(house, f"{front.url}/images/disk").read_bytes() == DISK
        image = f"{front.url}/other/disk"
        refused(lambda: house.resolve(image), "image-not-allowed", image, "may not be fetched by this host")
    assert [each.path for each in front.requests] == ["/images/disk"]


def test_a_query_does_not_make_a_path_one_that_is_listed(tmp_path: Path, front: WebServer) -> None:
    rules = Rules(Sources((f"{front.url}/*.qcow2",)), insecure=lenient(front).insecure)
    with House(tmp_path / "state", rules) as house:
        image = f"{front.url}/private?.qcow2"
        refused(lambda: house.resolve(image), "image-not-allowed", image, "may not be fetched by this host")
    assert front.requests == []
