"""Empty disks on real files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sri_libvirt import process, qcow2
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import NotReady
from sri_libvirt.paths import MachinePaths
from sri_libvirt.volumes.empty_disk import EmptyDisks
from tests.contract.plugins.conftest import MACHINE

TIB = 1 << 40


def volume(size: int, name: str = "data") -> pb.Volume:
    return pb.Volume(name=name, empty_disk=pb.EmptyDisk(size_bytes=size))


@pytest.mark.parametrize(("asked", "size"), [(0, 1 << 30), (TIB, TIB), (1000, 1024)])
def test_sparse_and_private(paths: MachinePaths, asked: int, size: int) -> None:
    source = EmptyDisks().prepare(MACHINE, volume(asked), paths)
    info = qcow2.inspect(Path(source.path))
    assert (source.size, info.size, info.backing) == (size, size, "")
    status = Path(source.path).stat()
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_blocks * 512 < 2 << 20


@pytest.mark.rule("R-G4-1")
def test_data_survives_a_detach(paths: MachinePaths) -> None:
    driver = EmptyDisks()
    source = driver.prepare(MACHINE, volume(1 << 20), paths)
    process.run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 0 512", source.path], deadline=30)
    driver.release(MACHINE, volume(1 << 20), paths, final=False)
    assert driver.prepare(MACHINE, volume(1 << 20), paths) == source
    out = process.run(["qemu-io", "-f", "qcow2", "-c", "read -P 7 0 512", source.path], deadline=30)
    assert b"failed" not in out


def test_data_is_kept_from_its_making_to_the_end_of_its_machine(paths: MachinePaths) -> None:
    driver, disk = EmptyDisks(), volume(1 << 20)
    assert not driver.kept(disk, paths)
    driver.prepare(MACHINE, disk, paths)
    driver.release(MACHINE, disk, paths, final=False)
    assert driver.kept(disk, paths)
    assert not driver.kept(volume(2 << 20), paths), "of another size there is none"
    driver.release(MACHINE, disk, paths, final=True)
    assert not driver.kept(disk, paths)


def test_another_size_is_another_disk(paths: MachinePaths) -> None:
    driver = EmptyDisks()
    small = driver.prepare(MACHINE, volume(1 << 20), paths)
    large = driver.prepare(MACHINE, volume(2 << 20), paths)
    assert small.path != large.path
    assert qcow2.inspect(Path(small.path)).size == 1 << 20


def test_any_name_is_a_file_name(paths: MachinePaths) -> None:
    names = ["../../etc/passwd", "a/b", "-o", "", "ü" * 300]
    for name in names:
        EmptyDisks().prepare(MACHINE, volume(1 << 20, name), paths)
    assert len(list(paths.root.iterdir())) == len(names)


@pytest.mark.parametrize("damage", ["garbage", "truncated", "other size", "with a base"])
def test_a_damaged_disk_is_told_of_and_kept(paths: MachinePaths, damage: str) -> None:
    driver = EmptyDisks()
    path = Path(driver.prepare(MACHINE, volume(1 << 20), paths).path)
    match damage:
        case "garbage":
            path.write_bytes(b"garbage" * 100)
        case "truncated":
            os.truncate(path, 100)
        case "other size":
            process.run(["qemu-img", "resize", "-q", "-f", "qcow2", path, "2M"], deadline=30)
        case "with a base":
            base = paths.root / "base.raw"
            base.write_bytes(b"\0" * (1 << 20))
            process.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", path, "1M"], deadline=30)
    before = path.read_bytes()
    with pytest.raises(NotReady) as caught:
        driver.prepare(MACHINE, volume(1 << 20), paths)
    assert caught.value.advice
    assert path.read_bytes() == before


def test_no_place_for_it(tmp_path: Path) -> None:
    with pytest.raises(NotReady):
        EmptyDisks().prepare(MACHINE, volume(1 << 20), MachinePaths(tmp_path / "absent"))
