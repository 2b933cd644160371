"""Images that somebody made to harm: bombs, archives that climb, disks that name files of the host.

What can be in an archive or a header is told to the byte in tests/unit/images; here it comes by real servers.
"""

from __future__ import annotations

import gzip
import lzma
import os
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.backends.artifacts import Entry, Layer, Packing, container_disk, disk, ironcore
from tests.backends.daemon import run
from tests.backends.registry import Registry
from tests.backends.webserver import WebServer
from tests.contract.images.conftest import MIB, fetched, left, noise, refused
from tests.contract.images.watching import Watch
from tests.image_house import House

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DISK = noise(MIB)
ROOM = 8 * MIB
BOMB = 64 * MIB


@pytest.fixture(autouse=True)
def nothing_else_is_touched(tmp_path: Path, house: House) -> Iterator[None]:
    """Beside the store, the cache is the one place where anything is written; and there all has its name or is gone,
    but for layers as they were fetched, where room lacks for what is in them."""
    (tmp_path / "secret").write_bytes(noise(MIB, 99))
    before = told(tmp_path)
    yield
    assert told(tmp_path) == before
    assert [name for name in left(house) if not name.endswith((".raw", ".qcow2", ".0.part"))] == []


def told(root: Path) -> dict[str, tuple[int, int, int]]:
    """All files below a directory that are not the store's nor the cache's, and what they are."""
    found = {}
    for directory, _, names in os.walk(root):
        if Path(directory).name not in ("store", "sha256"):
            for name in names:
                status = Path(directory, name).lstat()
                found[f"{directory}/{name}"] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


# Bombs.


@pytest.mark.parametrize(
    "pack",
    [
        lambda data: gzip.compress(data, 1),
        lambda data: lzma.compress(data, preset=0),
        lambda data: zstd.compress(data, 1),
        lambda data: gzip.compress(data[: 4 * MIB], 1) * 16,
    ],
    ids=["gzip", "xz", "zstd", "gzip-members"],
)
def test_a_file_that_unpacks_to_more_than_there_is_room_for_is_given_up(
    house: House, front: WebServer, pack: Callable[[bytes], bytes]
) -> None:
    front.files["/bomb"] = pack(bytes(BOMB))
    house.room.bytes = ROOM
    image = f"{front.url}/bomb"
    refused(
        lambda: house.resolve(image),
        "no-room",
        image,
        rf"disk: {4 * MIB} asked, \d+ free|unpacks to more than [67]\.\d+ MiB; disk: {ROOM + 1} asked, {ROOM} free",
    )
    assert left(house) == []


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_a_layer_that_unpacks_to_more_than_there_is_room_for_is_given_up(
    house: House, registry: Registry, packing: Packing
) -> None:
    repository = f"bomb-{packing}"
    container_disk(registry, repository, "1", layers=[disk(bytes(BOMB))], packing=packing)
    image = f"{registry.host}/{repository}:1"
    pin = house.resolve(image)
    house.room.bytes = ROOM
    words = f"disk: {BOMB} asked, {ROOM} free"
    refused(lambda: fetched(house, image, pin), "no-room", registry.host, words)
    assert [path.stat().st_size < MIB for path in house.paths.image_cache.iterdir()] == [True]


# Archives.


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ([Entry("disk/disk.img", kind=tarfile.SYMTYPE, target="SECRET")], "is a symbolic link, not a file"),
        ([Entry("disk/disk.img", kind=tarfile.LNKTYPE, target="SECRET")], "is a hard link, not a file"),
        ([Entry("disk/disk.img", kind=tarfile.BLKTYPE)], "is a block device, not a file"),
        (
            [Entry("disk", kind=tarfile.SYMTYPE, target="/etc"), Entry("disk/disk.img", DISK)],
            "/disk is a symbolic link",
        ),
        ([*disk(DISK), Entry("disk/../../../climbed", DISK)], "a path in it leads out of it"),
        ([*disk(DISK), Entry("disk/two.img", DISK)], "more than one file in /disk"),
        ([*disk(DISK), *disk(DISK)], "twice"),
        ([Entry("image.img", DISK)], "it has no file in /disk"),
        (noise(MIB), "is no tar archive"),
    ],
    ids=["link", "hard", "device", "linked", "climbs", "two", "twice", "none", "noise"],
)
def test_an_archive_that_is_no_plain_disk_is_refused(
    house: House, registry: Registry, tmp_path: Path, request: pytest.FixtureRequest, layer: Layer, words: str
) -> None:
    if isinstance(layer, list):
        layer = [Entry(e.name, e.data, e.kind, e.target.replace("SECRET", str(tmp_path / "secret"))) for e in layer]
    repository = f"archive-{request.node.callspec.id}"
    container_disk(registry, repository, "1", layers=[layer], packing="")
    with Watch(tmp_path / "secret") as secret:
        image = f"{registry.host}/{repository}:1"
        refused(lambda: fetched(house, image), "image-refused", registry.host, words)
        assert not secret.was_opened()
    assert left(house) == []


def test_absolute_paths_are_those_of_the_layer(house: House, registry: Registry, tmp_path: Path) -> None:
    layer = [Entry("/disk/disk.img", DISK), Entry(f"{tmp_path}/planted", b"x")]
    container_disk(registry, "absolute", "1", layers=[layer], packing="")
    assert fetched(house, f"{registry.host}/absolute:1").read_bytes() == DISK
    assert not (tmp_path / "planted").exists()


# Disks that name files of the host.


@pytest.fixture(params=["backing", "data"])
def naming(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Path, str]:
    """A qcow2 file that names another, that other, and in which way."""
    directory = tmp_path_factory.mktemp("naming")
    made, named = directory / "made.qcow2", directory / "secret"
    named.write_bytes(noise(MIB))
    more = ["-b", named, "-F", "raw"] if request.param == "backing" else ["-o", f"data_file={named},data_file_raw=on"]
    run(["qemu-img", "create", "-q", "-f", "qcow2", *more, made, "1M"])
    return made.read_bytes(), named, "a backing file" if request.param == "backing" else "an external data file"


def test_qemu_would_follow_such_a_name(naming: tuple[bytes, Path, str]) -> None:
    """Else the test that follows would prove nothing."""
    data, named, _ = naming
    file = named.with_name("image.qcow2")
    file.write_bytes(data)
    with Watch(named) as watch:
        assert not watch.was_opened()
        run(["qemu-img", "check", "-q", "-f", "qcow2", file])
        assert watch.was_opened()


@pytest.mark.parametrize("way", ["web", "packed", "artifact", "container"])
def test_a_disk_that_names_a_file_of_the_host_is_refused_and_that_file_never_opened(
    house: House, registry: Registry, front: WebServer, naming: tuple[bytes, Path, str], way: str
) -> None:
    data, named, words = naming
    repository = f"naming-{way}-{words.replace(' ', '-')}"
    image = f"{registry.host}/{repository}:1"
    if way == "artifact":
        ironcore(registry, repository, "1", parts={"rootfs": data})
    elif way == "container":
        container_disk(registry, repository, "1", layers=[disk(data, "disk.qcow2")])
    else:
        front.files["/disk.qcow2"] = gzip.compress(data) if way == "packed" else data
        image = f"{front.url}/disk.qcow2"
    with Watch(named) as watch:
        host = image.partition("/disk.qcow2")[0].removesuffix(":1")
        refused(lambda: fetched(house, image), "image-refused", host, f"has {words}, which is not followed")
        assert not watch.was_opened()
    assert left(house) == []
    assert house.store.images() == []
