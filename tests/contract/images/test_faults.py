"""Registries that fail and lie, hosts without room, files of the cache that change: what is said, and when it mends."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path

import pytest

from sri_libvirt import qcow2
from sri_libvirt.errors import UNDER_WAY, NotReady
from sri_libvirt.images.base import Base
from sri_libvirt.images.fetched import OciImages
from sri_libvirt.process import ProcessError
from sri_libvirt.records import SECOND
from tests.backends.artifacts import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Blob,
    container_disk,
    disk,
    ironcore,
    manifest,
    push_blob,
    push_manifest,
)
from tests.backends.daemon import run, wait_until
from tests.backends.registry import Registry
from tests.backends.webserver import BEFORE, Fault, WebServer
from tests.contract.images.conftest import (
    MIB,
    MINUTE,
    again,
    digest_of,
    fetched,
    left,
    lenient,
    let_go,
    noise,
    refused,
)
from tests.image_house import House

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

REPOSITORY = Path(__file__).parents[3]
DISK = noise(2 * MIB)
CONFIG = b"{}"
BLOBS = f"/v2/*/blobs/{digest_of(DISK)}"
MANIFESTS = "/v2/*/manifests/*"
NAME = digest_of(DISK).removeprefix("sha256:")


@pytest.fixture
def image(registry: Registry, front: WebServer) -> str:
    ironcore(registry, "org/disk", "1", parts={"disk": DISK})
    return f"{front.host}/org/disk:1"


# Servers that fail.


def test_a_registry_that_is_down_is_asked_again_after_pauses_that_grow_to_a_minute(
    house: House, front: WebServer, image: str
) -> None:
    front.misbehave("*", Fault(drop_after=BEFORE))
    ask = lambda: house.resolve(image)  # noqa: E731
    error = refused(ask, "image-unreachable", image, "cannot be reached")
    assert "tried again" in error.advice
    for number, pause in enumerate((5, 10, 20, 40, 60), 1):
        assert len(front.requests) == number
        house.later(pause - 1)
        refused(lambda: again(house, ask), "image-unreachable", image, "cannot be reached")
        assert len(front.requests) == number
        house.later(1)
        refused(lambda: again(house, ask), "image-unreachable", image, "cannot be reached")
    front.behave()
    house.later(MINUTE)
    assert again(house, lambda: fetched(house, image)).read_bytes() == DISK


def test_a_registry_that_is_frozen_or_gone_is_told_apart(
    house: House, registry: Registry, image: str, front: WebServer
) -> None:
    front.close()
    refused(lambda: house.resolve(image), "image-unreachable", image, f"{front.host} cannot be reached: Connection ref")
    other = "nowhere.invalid/org/disk:1"
    refused(lambda: house.resolve(other), "image-unreachable", other, "nowhere.invalid cannot be reached: [^:]+$")
    front.start()
    registry.daemon.kill()
    house.later(MINUTE)
    refused(lambda: again(house, lambda: house.resolve(image)), "image-unreachable", image, "answers 502")
    registry.start()
    house.later(MINUTE)
    assert again(house, lambda: house.resolve(image))


@pytest.mark.parametrize(
    ("status", "after", "pause"),
    [
        (429, "90", 90),
        (503, "DATE", 90),
        (503, "1", 5),
        (500, "soon", 5),
        (429, "9" * 400, 3600),
    ],
)
def test_a_server_is_left_alone_as_long_as_it_asks_for(
    house: House, front: WebServer, image: str, status: int, after: str, pause: int
) -> None:
    now = time.time()
    told = after.replace("DATE", formatdate(now + 90, usegmt=True))
    headers = {"Retry-After": told, "Date": formatdate(now, usegmt=True)}
    front.misbehave("*", Fault(status=status, headers=headers), times=1)
    refused(lambda: house.resolve(image), "image-unreachable", image, f"answers {status}")
    house.later(pause - 1.5)
    refused(lambda: again(house, lambda: house.resolve(image)), "image-unreachable", image, f"answers {status}")
    assert len(front.requests) == 1
    house.later(1.5)
    assert again(house, lambda: house.resolve(image))


def test_in_the_middle_of_a_blob_too(house: House, front: WebServer, image: str) -> None:
    pin = house.resolve(image)
    front.misbehave(BLOBS, Fault(status=429, headers={"Retry-After": "300"}), times=1)
    refused(lambda: fetched(house, image, pin), "image-unreachable", front.host, "answers 429")
    house.later(299)
    refused(lambda: again(house, lambda: fetched(house, image, pin)), "image-unreachable", front.host, "answers 429")
    assert len(front.asked(BLOBS)) == 1
    house.later(1)
    assert again(house, lambda: fetched(house, image, pin)).read_bytes() == DISK


def test_while_it_is_tried_again_nobody_asks_in_vain(house: House, front: WebServer, image: str) -> None:
    driver = house.images.select(image)
    assert isinstance(driver, OciImages)
    front.misbehave("*", Fault(status=503), times=1)
    heard = str(refused(lambda: house.resolve(image), "image-unreachable", image, "answers 503"))
    until = driver.busy_until(image, None, heard)
    assert until is not None
    assert 0 < until - house.clock() <= 5 * SECOND
    house.later(5)
    front.misbehave("*", Fault(hang_after=BEFORE), times=1)
    refused(lambda: house.resolve(image), "image-unreachable", image, "answers 503")
    assert house.questions.counts() == (1, 0)
    until = driver.busy_until(image, None, heard)
    let_go(front, lambda: house.questions.counts() == (0, 0), "the answer")
    assert until is not None
    assert until > house.clock()


# Servers that lie.


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(flip=0), f"gives other bytes for {digest_of(DISK)}"),
        (Fault(flip=len(DISK) - 1), f"gives other bytes for {digest_of(DISK)}"),
        (Fault(content=DISK[:-1]), f"has {len(DISK) - 1} bytes, and the manifest says {len(DISK)}"),
        (Fault(content=DISK + b"x"), f"has {len(DISK) + 1} bytes, and the manifest says {len(DISK)}"),
        (Fault(content=DISK + b"x", headers={"Content-Length": ""}), f"gives more bytes than there are: {len(DISK)}"),
        (Fault(status=404), f"does not have the blob {digest_of(DISK)}"),
        (Fault(status=416), "gives nothing of it"),
    ],
    ids=["first-byte", "last-byte", "shorter", "longer", "longer-untold", "gone", "no-range"],
)
def test_a_blob_that_is_not_the_one_is_refused_and_gets_no_name(
    house: House, front: WebServer, image: str, fault: Fault, words: str
) -> None:
    pin = house.resolve(image)
    front.misbehave(BLOBS, fault)
    refused(lambda: fetched(house, image, pin), "image-refused", front.host, words)
    assert [name for name in left(house) if not name.endswith(".part")] == []
    assert house.store.images() == []
    front.behave()
    house.later(MINUTE)
    assert again(house, lambda: fetched(house, image, pin)).read_bytes() == DISK
    assert left(house) == [f"{NAME}.raw"]


def test_a_layer_that_is_not_whole_is_refused_and_leaves_nothing(house: House, registry: Registry) -> None:
    whole = container_disk(registry, "cut", "whole", layers=[disk(DISK)], packing="gzip")
    layer = json.loads(registry.blob(whole).read_bytes())["layers"][0]
    cut = registry.blob(layer["digest"]).read_bytes()[:-100]  # as it was pushed: the digest is right
    layers = [push_blob(registry, "cut", Blob(f"{OCI_LAYER}+gzip", cut))]
    config = push_blob(registry, "cut", Blob(OCI_CONFIG, b"{}"))
    push_manifest(registry, "cut", "1", manifest(config, layers), OCI_MANIFEST)
    image = f"{registry.host}/cut:1"
    refused(lambda: fetched(house, image), "image-refused", registry.host, "packed with gzip and ends too early")
    assert left(house) == []


@pytest.mark.parametrize("by", ["digest", "tag"])
def test_a_manifest_that_is_not_the_one_is_refused(
    house: House, registry: Registry, front: WebServer, image: str, by: str
) -> None:
    digest = ironcore(registry, "org/disk", "other", parts={"disk": DISK, "uki": b"another"})
    other = registry.blob(digest).read_bytes()
    named = ironcore(registry, "org/disk", "1", parts={"disk": DISK})
    headers = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": named}
    front.misbehave(MANIFESTS, Fault(content=other, headers=headers))
    words = f"calls the manifest of 1 {named}, and it has {digest}"
    if by == "digest":
        image, words = f"{front.host}/org/disk@{named}", f"gives something else for {named}: it has {digest}"
    refused(lambda: house.resolve(image), "image-refused", image, words)
    assert house.store.reference(f"{front.host}/org/disk@{digest}") is None


def test_a_check_that_could_not_be_made_is_made_another_time(
    tmp_path: Path, house: House, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "disk.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", made, "64M"])
    ironcore(registry, "checked", "1", parts={"disk": made})
    image = f"{registry.host}/checked:1"
    pin = house.resolve(image)
    with monkeypatch.context() as patched:

        def gone(_: Path) -> None:
            raise ProcessError("qemu-img cannot be run: No such file or directory")  # while it is upgraded

        patched.setattr(qcow2, "check", gone)
        refused(lambda: fetched(house, image, pin), "image-refused", registry.host, "qemu-img cannot be run")
    house.later(MINUTE)
    assert again(house, lambda: fetched(house, image, pin)).read_bytes() == made.read_bytes()


def test_bytes_that_can_never_be_a_disk_are_not_fetched_again_and_again(
    house: House, registry: Registry, front: WebServer
) -> None:
    program = b"\x7fELF" + DISK
    ironcore(registry, "never", "1", parts={"disk": program})
    image = f"{front.host}/never:1"
    pin = house.resolve(image)
    for _ in range(3):
        refused(lambda: again(house, lambda: fetched(house, image, pin)), "image-refused", front.host, "is a program")
        house.later(10 * MINUTE)
    assert len(front.asked(f"/v2/*/blobs/{digest_of(program)}")) == 1


# Many machines.


class Crowd(House):
    """A house in which each who waits is woken by name."""

    def __init__(self, root: Path, front: WebServer) -> None:
        self.awake = {f"machine-{number}": threading.Event() for number in range(200)}
        self.waits: list[str] = []
        super().__init__(root, lenient(front))

    def _wake(self, waiter: str) -> None:
        self.awake[waiter].set()

    def have(self, image: str, waiter: str) -> Base:
        """As a machine does it that is new. It goes on when it is woken and no sooner."""
        driver, pin = self.images.select(image), None
        while True:
            self.awake[waiter].clear()
            try:
                pin = pin or driver.resolve(image, waiter)
                return driver.base(image, pin, waiter, None)
            except NotReady as error:
                if error.code != UNDER_WAY:
                    raise
            self.waits.append(waiter)
            assert self.awake[waiter].wait(60)


def test_two_hundred_machines_have_one_question_asked_and_one_pull_done(
    tmp_path: Path, registry: Registry, front: WebServer, image: str
) -> None:
    before = len(registry.requests())
    front.misbehave(MANIFESTS, Fault(hang_after=BEFORE), times=1)
    front.misbehave(BLOBS, Fault(hang_after=len(DISK) // 2), times=1)
    with Crowd(tmp_path / "state", front) as house, ThreadPoolExecutor(200) as threads:
        works = [threads.submit(house.have, image, waiter) for waiter in house.awake]
        wait_until(lambda: len(house.waits) == 200, "all of them wait for the answer")
        let_go(front, lambda: any(each.status for each in front.asked(MANIFESTS)), "it comes")
        wait_until(lambda: len(house.waits) == 400, "all of them wait for the disk")
        let_go(front, lambda: any(each.sent == len(DISK) for each in front.asked(BLOBS)), "it comes")
        bases = {work.result(60) for work in works}
        assert house.counted == [("ok", len(DISK))]
    (base,) = bases
    assert base.disk is not None
    assert Path(base.disk.path).read_bytes() == DISK
    asked = [each.path.partition("org/disk/")[2] for each in registry.requests()[before:]]
    assert sorted(asked) == sorted(["manifests/1", f"blobs/{digest_of(CONFIG)}", f"blobs/{digest_of(DISK)}"])


# Room.


def test_an_image_for_which_there_is_no_room_is_not_begun(house: House, front: WebServer, image: str) -> None:
    pin = house.resolve(image)
    house.room.bytes = MIB
    words = f"does not fit on this host: disk: {2 * MIB} asked, {MIB} free"
    error = refused(lambda: fetched(house, image, pin), "no-room", front.host, words)
    assert "more room" in error.advice
    assert front.asked(BLOBS) == []
    house.room.bytes = 2 * MIB
    house.later(MINUTE)
    assert again(house, lambda: fetched(house, image, pin)).read_bytes() == DISK
    assert house.room.held == {}


def test_nor_is_a_file_for_which_there_is_none(house: House, front: WebServer) -> None:
    front.files["/disk.raw"] = DISK
    house.room.bytes = MIB
    image = f"{front.url}/disk.raw"
    refused(lambda: house.resolve(image), "no-room", image, f"disk: {2 * MIB} asked, {MIB} free")
    assert left(house) == []


def test_two_files_do_not_get_the_same_room(house: House, front: WebServer) -> None:
    """Of neither the size is known before its server tells it."""
    front.files |= {"/one": DISK, "/two": noise(2 * MIB, 2)}
    house.room.bytes = 3 * MIB
    front.misbehave("/one", Fault(hang_after=MIB), times=1)
    with pytest.raises(NotReady, match="is being fetched"):
        house.images.select(f"{front.url}/one").resolve(f"{front.url}/one", "somebody")
    wait_until(lambda: house.room.held and max(house.room.held.values()) == 2 * MIB, "its room")
    two = f"{front.url}/two"
    refused(lambda: house.resolve(two), "no-room", two, f"disk: {2 * MIB} asked, {MIB} free")
    let_go(front, lambda: house.pulls.counts() == (0, 0), "the end of the other")
    house.later(MINUTE)
    assert again(house, lambda: house.resolve(two))
    assert house.room.held == {}


def test_a_disk_that_turns_out_to_be_larger_than_its_layer_waits_and_the_layer_is_not_fetched_again(
    house: House, registry: Registry, front: WebServer
) -> None:
    data = noise(MIB) * 6
    container_disk(registry, "large", "1", layers=[disk(data)], packing="zstd")
    image = f"{front.host}/large:1"
    pin = house.resolve(image)
    house.room.bytes = 3 * MIB
    words = f"does not fit on this host: disk: {6 * MIB} asked, {3 * MIB} free"
    error = refused(lambda: fetched(house, image, pin), "no-room", front.host, words)
    assert "Delete machines" in error.advice
    assert [name.endswith(".0.part") for name in left(house)] == [True]
    asked = len(front.asked("/v2/*/blobs/*"))
    house.room.bytes = 6 * MIB
    house.later(10 * MINUTE)
    path = again(house, lambda: fetched(house, image, pin))
    assert path.read_bytes() == data
    assert left(house) == [path.name]
    assert len(front.asked("/v2/*/blobs/*")) == asked


@pytest.mark.parametrize("kind", ["blob", "file", "packed", "layers"])
def test_an_image_that_nobody_needs_makes_way_for_one_that_does_not_fit(
    tmp_path: Path, registry: Registry, front: WebServer, kind: str
) -> None:
    old, new = noise(20 * MIB, 3), noise(64 << 10, 4) * (24 * 16)
    ironcore(registry, "old", "1", parts={"disk": old})
    ironcore(registry, "new", "blob", parts={"disk": new})
    container_disk(registry, "new", "layers", layers=[disk(new)], packing="zstd")
    front.files |= {"/file": new, "/packed": zstd.compress(new, 1)}
    image = f"{front.url}/{kind}" if kind in ("file", "packed") else f"{registry.host}/new:{kind}"
    with House(tmp_path / "state", lenient(registry, front), disk=40 * MIB) as house:
        unused = fetched(house, f"{registry.host}/old:1")
        path = fetched(house, image)
        assert path.read_bytes() == new
        assert left(house) == [path.name]
        assert not unused.exists()


@pytest.mark.parametrize("kind", ["file", "packed", "layers"])
def test_where_nothing_makes_way_it_waits_with_the_arithmetic_of_all_claims(
    tmp_path: Path, registry: Registry, front: WebServer, kind: str
) -> None:
    new = noise(64 << 10, 4) * (64 * 16)
    container_disk(registry, "wide", "layers", layers=[disk(new)], packing="zstd")
    front.files |= {"/file": new, "/packed": zstd.compress(new, 1)}
    image = f"{front.url}/{kind}" if kind in ("file", "packed") else f"{registry.host}/wide:{kind}"
    with House(tmp_path / "state", lenient(registry, front), disk=40 * MIB) as house:
        words = r"does not fit on this host: .*disk: .* asked, .* free \(of .*, 0 B claimed\)"
        refused(lambda: fetched(house, image), "no-room", image.partition(":layers")[0], words)
        assert [name for name in left(house) if not name.endswith(".0.part")] == []


@pytest.mark.parametrize("scenario", ["blob", "file", "layers"])
def test_a_file_system_that_fills_in_the_middle(tmp_path: Path, scenario: str) -> None:
    (tmp_path / "state").mkdir()
    program = 'mount -t tmpfs -o size=40m tmpfs "$1/state"; exec "$0" -m tests.contract.images.filled "$2" "$1"'
    argv = ["unshare", "--mount", "sh", "-ec", program, sys.executable, str(tmp_path), scenario]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-6000:]
    assert done.stdout.splitlines()[-1:] == ["no-room"]


# The cache.


def test_a_file_that_is_gone_is_fetched_again_by_its_digest(
    house: House, registry: Registry, front: WebServer, image: str
) -> None:
    pin = house.resolve(image)
    path = fetched(house, image, pin)
    path.unlink()
    ironcore(registry, "org/disk", "1", parts={"disk": noise(MIB, 5)})
    assert fetched(house, image, pin) == path
    assert path.read_bytes() == DISK
    assert len(front.asked(BLOBS)) == 2
    assert len(front.asked(MANIFESTS)) == 1


def test_a_file_that_was_changed_is_used_no_more_until_it_is_checked(
    house: House, front: WebServer, image: str
) -> None:
    pin = house.resolve(image)
    path = fetched(house, image, pin)
    path.chmod(0o644)
    path.write_bytes(DISK[:-1] + b"!")
    with pytest.raises(NotReady, match=f"{path}, which was fetched from .*, was changed since") as caught:
        fetched(house, image, pin)
    assert "sri-libvirt images check" in caught.value.advice
    assert len(front.asked(BLOBS)) == 1
    (checked,) = house.cache.check()
    assert (checked.image.digest, "its bytes have the digest sha256:" in checked.problem) == (digest_of(DISK), True)
    assert left(house) == []
    assert fetched(house, image, pin).read_bytes() == DISK
    assert path.stat().st_mode & 0o777 == 0o444


def test_a_file_of_which_only_the_time_was_changed_is_used_again_once_it_is_checked(
    house: House, front: WebServer, image: str
) -> None:
    pin = house.resolve(image)
    path = fetched(house, image, pin)
    path.touch()
    with pytest.raises(NotReady, match="was changed since"):
        fetched(house, image, pin)
    assert [each.problem for each in house.cache.check()] == [""]
    assert fetched(house, image, pin) == path
    assert len(front.asked(BLOBS)) == 1
