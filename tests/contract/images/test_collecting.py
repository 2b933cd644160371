"""What the image cache gives up, and what it never does: files that a machine needs, whoever asks for room."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from sri_libvirt import failpoints, qcow2
from sri_libvirt.devices import ImagePin
from sri_libvirt.errors import NotReady, Unavailable
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.images.base import Base
from sri_libvirt.images.cache import Cache
from sri_libvirt.images.collecting import Collector
from sri_libvirt.images.content import Blob, Content
from sri_libvirt.images.fetch.job import Failure, Pull, Pulled, Resolve, Resolved
from sri_libvirt.images.fetching import Need, Progress
from sri_libvirt.paths import MachinePaths
from sri_libvirt.records import SECOND, Attachment
from sri_libvirt.server import asking
from tests.backends.artifacts import ironcore
from tests.backends.registry import Registry
from tests.contract.loop import Loop, Witness, serving_loop, spec_of, until
from tests.image_house import House
from tests.unit.store.records import machine

DAY = 24 * 3600 * SECOND
KEEP = 7 * DAY
SIZE = 1 << 20
MINUTES = 120.0
"""How long a provider starts machines while images are removed."""


class Shelf:
    """A registry of one-disk images, in memory: `names` are its tags."""

    def __init__(self) -> None:
        self.pulls: list[str] = []

    def resolve(self, job: Resolve) -> Resolved:
        disk = Blob(digest(job.version), SIZE)
        return Resolved(digest(f"manifest of {job.version}"), Content(disk=disk))

    def pull(self, job: Pull, progress: Progress, need: Need) -> Pulled:
        (blob,) = job.part.blobs
        self.pulls.append(blob.digest)
        for tag in map(str, range(100)):
            if digest(tag) == blob.digest:
                part = Path(job.directory) / f"{job.part.file}.part"
                part.write_bytes(content(tag))
                return Pulled(str(part), blob.digest, SIZE, blob.digest)
        raise Failure("not-found", "there is no such blob")


def content(tag: str) -> bytes:
    return hashlib.sha512(tag.encode()).digest() * (SIZE // 64)


def digest(tag: str) -> str:
    return f"sha256:{hashlib.sha256(content(tag) if tag.isdecimal() else tag.encode()).hexdigest()}"


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def house(tmp_path: Path, shelf: Shelf) -> Iterator[House]:
    with House(tmp_path / "state", fetcher=shelf) as house:
        yield house


def have(house: House, tag: str) -> tuple[ImagePin, Base]:
    image = f"registry.example.org/disk:{tag}"
    pin = house.resolve(image)
    assert pin is not None
    return pin, house.base(image, pin)


def machine_with(house: House, machine_id: str, pin: ImagePin) -> None:
    row = Attachment(machine_id, "image", "", 1, b"registry.example.org/disk:1", True, 0, image=pin)
    house.store.write(lambda tx: tx.insert(machine(machine_id, attachments=(row,))))


def files(house: House) -> set[str]:
    return {path.name for path in house.paths.image_cache.iterdir()}


def name(tag: str) -> str:
    return f"{digest(tag).removeprefix('sha256:')}.raw"


def collector(house: House, *, min_free: int = 0, available: Sequence[int] = ()) -> Collector:
    free = iter(available)
    return Collector(house.cache, KEEP, min_free, house.clock, lambda: next(free, 1 << 40))


def test_what_a_machine_needs_stays_and_is_kept_for_a_while_after_it(house: House) -> None:
    pin, _ = have(house, "1")
    machine_with(house, "m1", pin)
    house.later(30 * 24 * 3600)
    assert collector(house).prune(everything=True) == 0
    collector(house).collect()
    assert files(house) == {name("1")}
    house.store.write(lambda tx: tx.forget("m1"))
    collector(house).collect()
    assert files(house) == {name("1")}, "it was needed a moment ago"
    house.later(8 * 24 * 3600)
    collector(house).collect()
    assert files(house) == set()
    assert house.store.images() == []


def test_age_counts_from_when_it_was_needed_last(house: House) -> None:
    have(house, "1")
    house.later(5 * 24 * 3600)
    have(house, "2")
    house.later(3 * 24 * 3600)
    collector(house).collect()
    assert files(house) == {name("2")}


def test_where_room_lacks_the_longest_unused_go_first_and_no_more_than_need_be(house: House) -> None:
    for tag in "1234":
        have(house, tag)
        house.later(60)
    pin, _ = have(house, "1")
    machine_with(house, "m1", pin)
    collector(house, min_free=10 * SIZE, available=[10 * SIZE - 1]).collect()
    assert files(house) == {name(tag) for tag in "134"}, "the oldest is needed, the next one's room is enough"
    assert collector(house).evict(2 * SIZE) >= 2 * SIZE
    assert files(house) == {name("1")}
    assert collector(house).evict(1) == 0


def test_a_file_that_could_not_be_removed_goes_with_the_next_prune(house: House) -> None:
    have(house, "1")
    failpoints.arm(failpoints.Once("fail", "before images.remove"))
    try:
        with pytest.raises(Unavailable):
            collector(house).prune(everything=True)
    finally:
        failpoints.arm(None)
    assert (files(house), house.store.images()) == ({name("1")}, [])
    assert collector(house).prune(everything=False) >= SIZE
    assert files(house) == set()


def test_prune_leaves_what_is_young_unless_everything_is_to_go(house: House) -> None:
    have(house, "1")
    house.later(8 * 24 * 3600)
    have(house, "2")
    assert collector(house).prune(everything=False) >= SIZE
    assert files(house) == {name("2")}
    assert collector(house).prune(everything=True) >= SIZE
    assert files(house) == set()


def test_what_was_given_up_is_fetched_again_by_its_digest_alone(house: House, shelf: Shelf) -> None:
    pin, _ = have(house, "1")
    collector(house).prune(everything=True)
    before = len(shelf.pulls)
    assert house.base("registry.example.org/disk:1", pin).disk is not None
    assert shelf.pulls[before:] == [digest("1")]


def test_a_base_that_an_overlay_names_stays_whatever_the_store_says(house: House) -> None:
    """As after a backup was put back that does not know the machine yet."""
    pin, _ = have(house, "1")
    paths = MachinePaths(house.paths.machines / "00000000-8d3c-4f52-9d0a-0d2f3c1f0a02")
    paths.root.mkdir()
    house.prepare("registry.example.org/disk:1", paths, 4 * SIZE, pin=pin)
    have(house, "2")
    collector(house).prune(everything=True)
    assert files(house) == {name("1")}
    house.store.write(lambda tx: tx.forget_image(digest("1")))
    house.cache.tidy()
    assert files(house) == {name("1")}
    paths.image_disk.unlink()
    house.cache.tidy()
    assert files(house) == set()


def test_while_one_disk_cannot_be_read_no_base_goes(house: House) -> None:
    """What it is made of is not known; a file system that fails reads so."""
    pin, _ = have(house, "1")
    paths = MachinePaths(house.paths.machines / "00000000-8d3c-4f52-9d0a-0d2f3c1f0a02")
    paths.root.mkdir()
    house.prepare("registry.example.org/disk:1", paths, 4 * SIZE, pin=pin)
    have(house, "2")
    unread = house.paths.machines / "00000000-8d3c-4f52-9d0a-0d2f3c1f0a01"
    (unread / "image.qcow2").mkdir(parents=True)
    collector(house).prune(everything=True)
    house.store.write(lambda tx: tx.forget_image(digest("1")))
    house.cache.tidy()
    assert files(house) == {name("1"), name("2")}
    (unread / "image.qcow2").rmdir()
    (unread / "image.qcow2").symlink_to("one that has just gone")
    (house.paths.machines / "a file of somebody's").touch()
    collector(house).prune(everything=True)
    assert files(house) == {name("1")}, "what is gone names nothing, and keeps nobody from being looked at"


def test_one_file_of_two_names_goes_with_the_last_of_them(house: House) -> None:
    have(house, "1")
    row, _ = house.store.images()[0]
    house.store.write(lambda tx: tx.keep_image(replace(row, name="layers:other")))
    house.store.write(lambda tx: tx.forget_image(digest("1")))
    assert house.cache.find("layers:other") is not None
    collector(house).prune(everything=True)
    assert files(house) == set()


def test_a_start_removes_what_is_of_nobody_and_no_part(house: House) -> None:
    have(house, "1")
    cache = house.paths.image_cache
    (cache / "young.part").write_bytes(b"half")
    (cache / f"{'0' * 64}.raw").write_bytes(b"of nobody")
    house.cache.tidy()
    assert files(house) == {name("1"), "young.part"}


@pytest.mark.parametrize("jump", [-10 * 365 * DAY, 0, 10 * 365 * DAY])
def test_a_part_goes_when_nothing_was_written_to_it_for_a_day_whatever_its_time(house: House, jump: int) -> None:
    idle, fetched = house.paths.image_cache / "idle.part", house.paths.image_cache / "fetched.part"
    for part in (idle, fetched):
        part.write_bytes(b"half")
        os.utime(part, ns=(time.time_ns() + jump,) * 2)  # by a clock that was set since
    collector(house).collect()
    house.later(23 * 3600)
    fetched.write_bytes(b"and more")
    os.utime(fetched, ns=(time.time_ns() + jump,) * 2)
    Cache(house.paths.image_cache, house.paths.machines, house.store).tidy()  # as after a restart
    assert files(house) == {"idle.part", "fetched.part"}
    house.later(2 * 3600)
    collector(house).collect()
    assert files(house) == {"fetched.part"}
    house.later(24 * 3600)
    collector(house).collect()
    assert files(house) == set()


def test_where_room_lacks_a_part_goes_after_ten_idle_minutes(house: House) -> None:
    part = house.paths.image_cache / "idle.part"
    part.write_bytes(b"half")
    os.utime(part, (0, 0))
    lacking = collector(house, min_free=10 * SIZE, available=[SIZE] * 3)
    lacking.collect()
    house.later(590)
    lacking.collect()
    assert files(house) == {"idle.part"}
    house.later(20)
    lacking.collect()
    assert files(house) == set()


def test_prune_while_machines_are_made_takes_no_base_of_any(house: House) -> None:
    """For two seconds: each machine that is told that its base is there has it, and keeps it."""
    ended = threading.Event()
    pruning = threading.Thread(target=lambda: prune_until(house, ended))
    pruning.start()
    made: list[tuple[str, Path]] = []
    try:
        end = time.monotonic() + 2
        while time.monotonic() < end:
            tag, machine_id = str(len(made) % 5), f"m{len(made)}"
            pin = house.resolve(f"registry.example.org/disk:{tag}")
            assert pin is not None
            machine_with(house, machine_id, pin)
            base = house.base(f"registry.example.org/disk:{tag}", pin)
            assert base.disk is not None
            made.append((machine_id, Path(base.disk.path)))
            for _, path in made[-3:]:
                assert path.exists()
            if len(made) > 3:
                house.store.write(lambda tx, old=made[-4][0]: tx.forget(old))  # type: ignore[misc]
    finally:
        ended.set()
        pruning.join()
    assert len(made) > 10
    assert all(path.exists() for _, path in made[-3:])


@pytest.mark.matrix
async def test_prune_for_minutes_while_a_provider_starts_machines(tmp_path: Path, registry: Registry) -> None:
    """Several at a time, of several images, some of which are fetched anew each time: no start fails."""
    for tag in "012":
        ironcore(registry, "pruned", tag, parts={"disk": content(tag)})
    hypervisor, witness = FakeHypervisor(tmp_path / "fake.json"), Witness()
    hypervisor.watch(witness)
    end = time.monotonic() + MINUTES
    async with serving_loop(tmp_path, hypervisor, insecure_registry=(registry.host,)) as loop:
        pruned = asyncio.create_task(prunes(loop, end))
        starts = await asyncio.gather(*(starts_until(end, loop, witness, registry, tag) for tag in "012012"))
        removed = await pruned
        await until("nothing of them", lambda: loop.left_over() == ([], []))
    assert min(starts) > 10, starts
    assert removed > 10 * SIZE, "images were removed all the while"


async def prunes(loop: Loop, end: float) -> int:
    """Remove what no machine needs, again and again; the bytes that came free."""
    freed = 0
    while time.monotonic() < end:
        answer = await asyncio.to_thread(asking.ask, loop.paths.admin_socket, "images-prune", {"all": True})
        freed += answer["bytes"]
    return freed


async def starts_until(end: float, loop: Loop, witness: Witness, registry: Registry, tag: str) -> int:
    """Machines of an image, one after another, each of which starts at once and has its base; how many."""
    count = 0
    while time.monotonic() < end:
        spec = spec_of()
        spec.image.image = f"{registry.host}/pruned:{tag}"
        machine_id = await loop.created(spec)
        base = Path(qcow2.backing_name(loop.paths.machine(machine_id).image_disk))
        assert await asyncio.to_thread(base.read_bytes) == content(tag)
        assert witness.starts(machine_id) == 1
        assert "failed" not in [kind for kind, _ in loop.told(machine_id)], loop.explain()
        await loop.delete(machine_id)
        await loop.gone(machine_id)
        count += 1
    return count


def prune_until(house: House, ended: threading.Event) -> None:
    while not ended.is_set():
        collector(house).prune(everything=True)


def test_what_was_changed_is_told_of_and_mended_by_a_check(house: House, shelf: Shelf) -> None:
    pin, base = have(house, "1")
    assert base.disk is not None
    path = Path(base.disk.path)
    os.utime(path)
    with pytest.raises(NotReady, match="was changed since") as caught:
        house.base("registry.example.org/disk:1", pin)
    assert "images check" in caught.value.advice
    needed = house.store.images()[0][0].used
    house.later(60)
    assert [found.problem for found in house.cache.check()] == [""]
    assert house.store.images()[0][0].used == needed, "to look at it is not to need it"
    assert house.base("registry.example.org/disk:1", pin).disk is not None, "its bytes are the same"
    path.chmod(0o644)
    path.write_bytes(b"x" * SIZE)
    (found,) = house.cache.check()
    assert "has" in found.problem or "digest" in found.problem
    assert not path.exists()
    again = house.base("registry.example.org/disk:1", pin)
    assert again.disk is not None
    assert path.read_bytes() == content("1")
    assert len(shelf.pulls) == 2


@pytest.mark.parametrize("fails", [False, True])
def test_a_pull_has_its_room_until_its_file_is_named(house: House, shelf: Shelf, fails: bool) -> None:
    """Given back before, what it has written would be nobody's until the host is measured again."""
    given_back: list[set[str]] = []
    give_back = house.room.give_back

    def noted(holder: str) -> None:
        given_back.append(files(house))
        give_back(holder)

    house.room.give_back = noted  # type: ignore[method-assign]
    if fails:
        shelf.pull = refuse  # type: ignore[method-assign]
        with pytest.raises(NotReady):
            have(house, "1")
    else:
        have(house, "1")
    assert given_back == [set() if fails else {name("1")}]
    assert house.room.held == {}


def refuse(job: Pull, progress: Progress, need: Need) -> Pulled:
    raise Failure("not-found", "there is no such blob")
