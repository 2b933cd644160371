"""Pulls without a daemon: under the same rules, and beside what machines were promised."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from sri_libvirt import statedir
from sri_libvirt.cli.images import here
from sri_libvirt.errors import FailedPrecondition
from sri_libvirt.host.space import space
from sri_libvirt.paths import StatePaths
from sri_libvirt.resources import DISK, Claim
from sri_libvirt.store import Store
from tests.backends.artifacts import ironcore
from tests.backends.daemon import wait_until
from tests.backends.registry import Registry
from tests.contract.images.conftest import MIB, noise
from tests.contract.loop import settings
from tests.unit.store.records import machine

DISK_OF_IMAGE = noise(2 * MIB)


def test_a_pull_without_the_daemon_takes_nothing_that_machines_were_promised(
    tmp_path: Path, registry: Registry
) -> None:
    ironcore(registry, "alone", "1", parts={"disk": DISK_OF_IMAGE})
    image = {"image": f"{registry.host}/alone:1", "anew": False}
    wishes = settings(tmp_path, insecure_registry=(registry.host,))
    paths = StatePaths(wishes.state_dir)
    statedir.prepare(paths)
    everything = Claim(DISK, space(paths.root, paths.machines).total_bytes)
    with closing(Store.open(paths)) as store:
        store.write(lambda tx: tx.insert(machine()))
        store.write(lambda tx: tx.claim("m1", [everything]))
    with here.commands(wishes) as commands:
        with pytest.raises(FailedPrecondition, match=r"does not fit on this host: disk: 2 MiB asked, 0 B free"):
            wait_until(lambda: commands.pull(image)["ready"], "the image")
        assert list(paths.image_cache.iterdir()) == []
    with closing(Store.open(paths)) as store:
        store.write(lambda tx: tx.forget("m1"))
    with here.commands(wishes) as commands:
        wait_until(lambda: commands.pull(image)["ready"], "the image")
        (path,) = paths.image_cache.iterdir()
        assert path.read_bytes() == DISK_OF_IMAGE
