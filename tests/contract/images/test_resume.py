"""Pulls that break off, by the server, the network, the fetcher or a restart: they go on, and the bytes are right."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
from pathlib import Path

import pytest

from sri_libvirt.errors import NotReady
from sri_libvirt.images.fetch.__main__ import MEMORY_BYTES
from sri_libvirt.images.parts import parts_of
from sri_libvirt.images.rules import Rules
from sri_libvirt.paths import StatePaths
from tests.backends.artifacts import container_disk, disk, ironcore
from tests.backends.daemon import wait_until
from tests.backends.registry import Registry
from tests.backends.webserver import BEFORE, Fault, Request, WebServer
from tests.contract.images.conftest import (
    MIB,
    MINUTE,
    again,
    digest_of,
    fetched,
    fetchers,
    left,
    lenient,
    let_go,
    noise,
    refused,
)
from tests.image_house import House

SIZE = 5 * MIB
TENTH = SIZE // 10
DISK = noise(SIZE)
BLOBS = f"/v2/*/blobs/{digest_of(DISK)}"
AT_MOST_LOST = 256 << 10
"""Bytes that have come and are not kept where it breaks off: what a fetcher holds in its hands, and the kernel."""


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetchers do not pause between their tries."""
    fetchers(monkeypatch, "time.sleep = lambda seconds: None")


@pytest.fixture
def image(registry: Registry, front: WebServer) -> str:
    ironcore(registry, "org/disk", "1", parts={"disk": DISK})
    return f"{front.host}/org/disk:1"


def sent(requests: list[Request]) -> int:
    return sum(request.sent for request in requests)


def begins(request: Request) -> int:
    """The byte from which on it is asked."""
    return int((request.headers["Range"] or "bytes=0-").removeprefix("bytes=").partition("-")[0])


def begun(house: House, image: str) -> None:
    """Somebody has it fetched; it is not waited for."""
    pin = house.resolve(image)
    with pytest.raises(NotReady, match="is being fetched"):
        house.images.select(image).base(image, pin, "somebody", None)


def fetcher(of: int = 0) -> int:
    """The process of the one that runs, for this process unless another is named."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = path.read_text().rpartition(")")[2].split()[1]
            words = path.with_name("cmdline").read_bytes()
        except OSError:
            continue  # it has ended
        if int(parent) == (of or os.getpid()) and b"sri_libvirt.images.fetch" in words:
            found.append(int(path.parent.name))
    (only,) = found
    return only


def test_a_blob_that_breaks_off_at_every_tenth_is_whole_in_the_end_and_no_byte_comes_twice(
    house: House, front: WebServer, image: str
) -> None:
    front.misbehave(BLOBS, Fault(drop_after=TENTH), times=9)
    assert fetched(house, image).read_bytes() == DISK
    asked = front.asked(BLOBS)
    assert [begins(each) for each in asked] == [number * TENTH for number in range(10)]
    assert sent(asked) == SIZE


def test_a_connection_that_is_reset_is_made_again(house: House, front: WebServer, image: str) -> None:
    front.misbehave(BLOBS, Fault(drop_after=TENTH, reset=True), times=3)  # the kernel may drop what has come
    assert fetched(house, image).read_bytes() == DISK
    asked = [begins(each) for each in front.asked(BLOBS)]
    assert len(asked) == 4
    assert asked == sorted(asked)


def test_a_server_that_begins_anew_each_time_gives_it_all_the_same(house: House, front: WebServer, image: str) -> None:
    front.misbehave(BLOBS, Fault(drop_after=TENTH), times=1)
    front.misbehave(BLOBS, Fault(drop_after=3 * TENTH, ignore_range=True), times=1)
    front.misbehave(BLOBS, Fault(ignore_range=True))
    assert fetched(house, image).read_bytes() == DISK
    asked = front.asked(BLOBS)
    assert [(each.status, each.sent) for each in asked] == [(200, TENTH), (200, 3 * TENTH), (200, SIZE)]
    assert begins(asked[2]) == 3 * TENTH


def test_another_part_than_the_one_asked_for_is_not_taken(house: House, front: WebServer, image: str) -> None:
    front.misbehave(BLOBS, Fault(drop_after=TENTH), times=1)
    front.misbehave(BLOBS, Fault(headers={"Content-Range": f"bytes 0-{SIZE - TENTH - 1}/{SIZE}"}), times=1)
    words = "gives another part of it than it was asked for"
    refused(lambda: fetched(house, image), "image-refused", front.host, words)
    house.later(MINUTE)
    assert again(house, lambda: fetched(house, image)).read_bytes() == DISK
    assert sent(front.asked(BLOBS)[2:]) == SIZE - TENTH


def test_a_server_that_gives_nothing_any_more_is_given_up_and_what_has_come_is_kept(
    house: House, front: WebServer, image: str
) -> None:
    front.misbehave(BLOBS, Fault(drop_after=TENTH), times=1)
    front.misbehave(BLOBS, Fault(drop_after=0))
    refused(lambda: fetched(house, image), "image-unreachable", front.host, "cannot be reached: ")
    assert len(front.asked(BLOBS)) == 4
    front.behave()
    house.later(MINUTE)
    assert again(house, lambda: fetched(house, image)).read_bytes() == DISK
    assert sent(front.asked(BLOBS)) == SIZE


def test_a_server_that_does_not_answer_in_the_middle_is_tried_later(house: House, front: WebServer, image: str) -> None:
    front.misbehave(BLOBS, Fault(drop_after=TENTH), times=1)
    front.misbehave(BLOBS, Fault(drop_after=BEFORE), times=1)
    refused(lambda: fetched(house, image), "image-unreachable", front.host, "cannot be reached")
    house.later(MINUTE)
    assert again(house, lambda: fetched(house, image)).read_bytes() == DISK
    assert sent(front.asked(BLOBS)) == SIZE


def test_a_server_that_falls_silent_is_asked_for_the_rest_and_given_up_if_it_stays_so(
    house: House, front: WebServer, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.resolve(image)
    fetchers(
        monkeypatch,
        "time.sleep = lambda seconds: None\n"
        "from sri_libvirt.images.fetch import download, web\n"
        "download.TRIES, web.SILENT_SECONDS = 2, 1.0",
    )
    front.misbehave(BLOBS, Fault(hang_after=TENTH), times=1)
    front.misbehave(BLOBS, Fault(hang_after=0), times=1)
    refused(lambda: fetched(house, image), "image-unreachable", front.host, f"{front.host} is silent")
    assert begins(front.asked(BLOBS)[-1]) >= TENTH - AT_MOST_LOST
    front.misbehave(BLOBS, Fault(hang_after=TENTH), times=1)
    house.later(MINUTE)
    assert again(house, lambda: fetched(house, image)).read_bytes() == DISK
    assert begins(front.asked(BLOBS)[-1]) >= 2 * (TENTH - AT_MOST_LOST)


@pytest.mark.parametrize("tenths", range(1, 10))
def test_what_a_fetcher_that_was_killed_has_got_is_kept(
    house: House, front: WebServer, image: str, tenths: int
) -> None:
    there = tenths * TENTH
    front.misbehave(BLOBS, Fault(hang_after=there), times=1)
    begun(house, image)
    part = house.paths.image_cache / f"{digest_of(DISK).removeprefix('sha256:')}.part"
    wait_until(lambda: part.exists() and part.stat().st_size >= there - AT_MOST_LOST, f"{tenths} tenths of it")
    os.kill(fetcher(), signal.SIGKILL)
    wait_until(lambda: house.pulls.counts() == (0, 0), "its end")
    refused(lambda: fetched(house, image), "image-refused", front.host, "the fetcher has failed")
    front.behave()
    house.later(MINUTE)
    assert again(house, lambda: fetched(house, image)).read_bytes() == DISK
    assert begins(front.asked(BLOBS)[-1]) >= there - AT_MOST_LOST
    assert left(house) == [f"{digest_of(DISK).removeprefix('sha256:')}.raw"]


def test_a_restart_goes_on_where_the_one_before_was(
    tmp_path: Path, registry: Registry, front: WebServer, image: str
) -> None:
    half = SIZE // 2
    with House(tmp_path / "state", lenient(front)) as house:
        front.misbehave(BLOBS, Fault(hang_after=half), times=1)
        begun(house, image)
        part = house.paths.image_cache / f"{digest_of(DISK).removeprefix('sha256:')}.part"
        wait_until(lambda: part.exists() and part.stat().st_size >= half - AT_MOST_LOST, "half of it")
        process = fetcher()
    assert not Path(f"/proc/{process}").exists()
    assert [path.name for path in house.paths.image_cache.iterdir()] == [part.name]
    front.behave()
    with House(tmp_path / "state", lenient(front)) as house:
        house.cache.tidy()
        assert fetched(house, image).read_bytes() == DISK
    assert begins(front.asked(BLOBS)[-1]) >= half - AT_MOST_LOST


def holding(root: Path, rules: Rules, image: str) -> None:
    """What a provider is, as far as it is about images: it has one fetched."""
    with House(root, rules) as house:
        fetched(house, image)


@pytest.mark.parametrize("tenths", [1, 5, 9])
def test_what_a_provider_that_was_killed_has_got_is_not_asked_for_again(
    tmp_path: Path, registry: Registry, front: WebServer, image: str, tenths: int
) -> None:
    there = tenths * TENTH
    front.misbehave(BLOBS, Fault(hang_after=there), times=1)
    provider = multiprocessing.get_context("spawn").Process(
        target=holding, args=(tmp_path / "state", lenient(front), image)
    )
    provider.start()
    try:
        cache = StatePaths(tmp_path / "state").image_cache
        part = cache / f"{digest_of(DISK).removeprefix('sha256:')}.part"
        wait_until(lambda: part.exists() and part.stat().st_size >= there - AT_MOST_LOST, f"{tenths} tenths of it")
        assert provider.pid
        child = fetcher(provider.pid)
    finally:
        provider.kill()
        provider.join()
    wait_until(lambda: not Path(f"/proc/{child}").exists(), "the end of its fetcher")
    front.behave()
    with House(tmp_path / "state", lenient(front)) as house:
        house.cache.tidy()
        assert fetched(house, image).read_bytes() == DISK
        assert len(left(house)) == 1
    _, *later = front.asked(BLOBS)  # the first has gone on without anybody who hears it
    assert there + sent(later) <= SIZE + AT_MOST_LOST


def test_a_fetcher_has_its_limits(house: House, front: WebServer, image: str) -> None:
    front.misbehave(BLOBS, Fault(hang_after=TENTH), times=1)
    begun(house, image)
    wait_until(lambda: front.asked(BLOBS) and front.asked(BLOBS)[0].sent == TENTH, "a tenth of it")
    process = fetcher()
    assert resource.prlimit(process, resource.RLIMIT_AS) == (MEMORY_BYTES, MEMORY_BYTES)
    assert resource.prlimit(process, resource.RLIMIT_FSIZE) == (house.room.bytes, house.room.bytes)
    assert resource.prlimit(process, resource.RLIMIT_CORE) == (0, 0)
    assert os.getpriority(os.PRIO_PROCESS, process) > os.getpriority(os.PRIO_PROCESS, 0), "guests and RPCs go first"
    front.behave()
    assert fetched(house, image).read_bytes() == DISK


def test_of_a_part_that_is_too_old_or_of_other_bytes_nothing_comes(
    tmp_path: Path, registry: Registry, front: WebServer, image: str
) -> None:
    with House(tmp_path / "state", lenient(front)) as house:
        pin = house.resolve(image)
        part = house.paths.image_cache / f"{digest_of(DISK).removeprefix('sha256:')}.part"
        part.write_bytes(DISK[:TENTH])
        house.cache.tidy()
        house.later(25 * 3600)
        house.cache.tidy()
        assert left(house) == []
        for spoilt in (b"x" * SIZE, b"x" * (SIZE + 1)):
            part.write_bytes(spoilt)
            assert fetched(house, image, pin).read_bytes() == DISK
            fetched(house, image, pin).unlink()
        part.write_bytes(b"x" * TENTH)
        words = f"gives other bytes for {digest_of(DISK)}"
        refused(lambda: fetched(house, image, pin), "image-refused", front.host, words)
        house.later(MINUTE)
        assert again(house, lambda: fetched(house, image, pin)).read_bytes() == DISK


def test_zeroes_take_no_room_however_often_it_breaks_off(house: House, registry: Registry, front: WebServer) -> None:
    data = noise(MIB) + bytes(MIB) + noise(MIB, 2) + bytes(2 * MIB)
    ironcore(registry, "sparse", "1", parts={"disk": data})
    front.misbehave(f"/v2/*/blobs/{digest_of(data)}", Fault(drop_after=TENTH + 1), times=9)
    path = fetched(house, f"{front.host}/sparse:1")
    assert path.read_bytes() == data
    assert path.stat().st_blocks * 512 < 3 * MIB


def test_of_several_layers_those_that_are_whole_are_not_asked_for_again(
    house: House, registry: Registry, front: WebServer
) -> None:
    layers = [disk(noise(MIB, 7), "old.img"), disk(noise(MIB, 8), "disk.img"), disk(b"", ".wh.old.img")]
    container_disk(registry, "layers", "1", layers=layers, packing="")
    image = f"{front.host}/layers:1"
    pin = house.resolve(image)
    assert pin is not None
    blobs = [blob.digest for blob in parts_of(pin)["disk"].blobs]
    front.misbehave(f"/v2/*/blobs/{blobs[1]}", Fault(status=503), times=1)
    refused(lambda: fetched(house, image, pin), "image-unreachable", front.host, "answers 503")
    house.later(MINUTE)
    assert again(house, lambda: fetched(house, image, pin)).read_bytes() == noise(MIB, 8)
    assert [len(front.asked(f"/v2/*/blobs/{blob}")) for blob in blobs] == [1, 2, 1]
    assert len(left(house)) == 1


@pytest.fixture
def slow(front: WebServer) -> str:
    """A file of a web server."""
    front.files["/disk.raw"] = DISK
    return f"{front.url}/disk.raw"


def test_a_file_whose_digest_is_named_goes_on_too(house: House, front: WebServer, slow: str) -> None:
    image = f"{slow}#{digest_of(DISK).replace(':', '=')}"
    front.misbehave("/disk.raw", Fault(drop_after=TENTH), times=1)
    front.misbehave("/disk.raw", Fault(status=503), times=1)
    refused(lambda: fetched(house, image), "image-unreachable", slow, "answers 503")
    house.later(MINUTE)
    assert again(house, lambda: fetched(house, image)).read_bytes() == DISK
    assert sent([each for each in front.requests if each.status != 503]) == SIZE


def test_a_file_that_is_whole_but_was_not_unpacked_is_not_asked_for_again(
    house: House, front: WebServer, slow: str
) -> None:
    image = f"{slow}#{digest_of(DISK).replace(':', '=')}"
    pin = house.resolve(image)
    assert pin is not None
    part = house.paths.image_cache / f"{parts_of(pin)['disk'].file}.part"
    part.write_bytes(DISK)
    assert fetched(house, image, pin).read_bytes() == DISK
    assert front.requests == []


def test_a_file_whose_digest_nobody_knows_goes_on_as_long_as_it_is_the_same(
    house: House, front: WebServer, slow: str
) -> None:
    front.misbehave("/disk.raw", Fault(drop_after=TENTH), times=3)
    assert fetched(house, slow).read_bytes() == DISK
    assert [begins(each) for each in front.requests] == [0, TENTH, 2 * TENTH, 3 * TENTH]
    assert sent(front.requests) == SIZE


def test_a_file_that_changes_in_the_middle_is_taken_as_it_is_now(house: House, front: WebServer, slow: str) -> None:
    other = noise(SIZE, 9)
    front.misbehave("/disk.raw", Fault(hang_after=TENTH, drop_after=TENTH), times=1)
    with pytest.raises(NotReady, match="is being fetched"):
        house.images.select(slow).resolve(slow, "somebody")
    wait_until(lambda: front.requests and front.requests[0].sent == TENTH, "a tenth of it")
    front.files["/disk.raw"] = other
    let_go(front, lambda: len(front.requests) == 2, "it is asked for again")
    assert fetched(house, slow).read_bytes() == other
    assert [(each.status, each.sent) for each in front.requests] == [(200, TENTH), (200, SIZE)]


def test_of_a_file_whose_digest_nobody_knows_nothing_stays_where_it_is_given_up(
    house: House, front: WebServer, slow: str
) -> None:
    front.misbehave("/disk.raw", Fault(drop_after=TENTH), times=1)
    front.misbehave("/disk.raw", Fault(status=503), times=1)
    refused(lambda: fetched(house, slow), "image-unreachable", slow, "answers 503")
    assert left(house) == []
