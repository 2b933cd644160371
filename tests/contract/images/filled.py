"""What the image room does on a file system that fills while it fetches, as a program for a small one of its own.

`python -m tests.contract.images.filled SCENARIO ROOT`: ROOT/state is the file system. It fails by an AssertionError,
and writes the code of the reason that was given.
How it is mounted does not belong here (that is `test_faults.py`).
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from sri_libvirt.errors import NotReady
from sri_libvirt.paths import MachinePaths
from tests.backends.artifacts import container_disk, disk, ironcore
from tests.backends.registry import Registry
from tests.backends.webserver import WebServer
from tests.contract.images.conftest import MIB, MINUTE, again, fetched, lenient, noise
from tests.image_house import House

DISK = noise(6 * MIB)
LEFT = 3 * MIB


def filled(file: Path) -> None:
    """Write until no more than LEFT is left."""
    status = os.statvfs(file.parent)
    with file.open("wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, status.f_bavail * status.f_frsize - LEFT)


def main(scenario: str, root: Path) -> None:
    with ExitStack() as stack:
        (root / "registry").mkdir()
        registry = stack.enter_context(Registry(root / "registry"))
        server = stack.enter_context(WebServer({"/disk.raw": DISK}))
        image = f"{registry.host}/org/disk:1"
        if scenario == "blob":
            ironcore(registry, "org/disk", "1", parts={"disk": DISK})
        elif scenario == "layers":
            container_disk(registry, "org/disk", "1", layers=[disk(noise(MIB) * 6)], packing="zstd")
        else:
            image = f"{server.url}/disk.raw"
        (root / "local").mkdir()
        (root / "local/disk.raw").write_bytes(noise(MIB, 2))
        directories = [root / "local"]
        house = stack.enter_context(House(root / "state", lenient(registry, server), directories=directories))
        others = [f"{registry.host}/org/other:1", f"{root}/local/disk.raw"]
        ironcore(registry, "org/other", "1", parts={"disk": noise(MIB, 3)})
        cached = fetched(house, others[0])
        pin = None if scenario == "file" else house.resolve(image)
        ballast = root / "state/ballast"
        filled(ballast)
        with pytest.raises(NotReady, match="cannot be written: No space left on device") as caught:
            fetched(house, image, pin)
        assert ("org/disk" if pin else image) in str(caught.value)
        assert "more room" in caught.value.advice
        assert [image.source.partition("@")[0] for image, _ in house.store.images()] == [others[0].removesuffix(":1")]
        for number, other in enumerate(others):
            paths = MachinePaths(house.paths.machines / f"0000000{number}-8d3c-4f52-9d0a-0d2f3c1f0a02")
            paths.root.mkdir()
            assert house.prepare(other, paths, 64 * MIB).path == str(paths.image_disk)
        assert list(house.paths.image_cache.iterdir()) == [cached], "it leaves to others what room there is"
        ballast.unlink()
        house.later(MINUTE)
        path = again(house, lambda: fetched(house, image, pin))
        assert path.read_bytes() == (noise(MIB) * 6 if scenario == "layers" else DISK)
        assert sorted(house.paths.image_cache.iterdir()) == sorted([path, cached])
        print(caught.value.code)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
