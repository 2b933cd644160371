"""Volumes that name something of this host: real devices, and a file system that hangs."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sri_libvirt.errors import NotReady
from sri_libvirt.looks import Looks
from sri_libvirt.paths import MachinePaths
from sri_libvirt.volumes.registry import HostAccess, VolumeRegistry
from tests.connected import StubAsking, volume
from tests.contract.hung import serving
from tests.contract.plugins.conftest import MACHINE
from tests.contract.plugins.loop_device import loop_device


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    disk = tmp_path / "disk.raw"
    disk.touch()
    os.truncate(disk, 1 << 20)
    with loop_device(disk) as found:
        yield found


@pytest.fixture
def below_dev() -> Iterator[Path]:
    """A directory in which a test may make names of devices, as udev makes them."""
    directory = Path(tempfile.mkdtemp(prefix="sri-test-", dir="/dev/shm"))
    yield directory
    shutil.rmtree(directory)


def prepared(pattern: str, path: object, paths: MachinePaths) -> str:
    access = HostAccess(block_devices=(pattern,), asking=StubAsking())
    asked = volume("block", {"path": str(path)})
    return VolumeRegistry.load([], access).select(asked).prepare(MACHINE, asked, paths).path


def test_a_device_keeps_the_name_that_stays_over_reboots(device: str, below_dev: Path, paths: MachinePaths) -> None:
    link = below_dev / "disk"
    link.symlink_to(device)
    assert prepared(f"{below_dev}/*", link, paths) == str(link)


def test_a_device_that_the_host_itself_uses_is_not_given_out(device: str, paths: MachinePaths) -> None:
    held = os.open(device, os.O_RDWR | os.O_EXCL)  # as a mount, LVM, RAID and multipath do
    try:
        with pytest.raises(NotReady, match="is used by this host itself") as caught:
            prepared(device, device, paths)
    finally:
        os.close(held)
    assert "lsblk" in caught.value.advice
    opened = os.open(device, os.O_RDWR)  # as a QEMU does
    try:
        assert prepared(device, device, paths) == device
    finally:
        os.close(opened)


def test_a_name_that_leads_elsewhere_is_no_device(below_dev: Path, paths: MachinePaths, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, target in (("file", tmp_path / "file"), ("null", "/dev/null")):
        (below_dev / name).symlink_to(target)
        with pytest.raises(NotReady, match="is no block device"):
            prepared(f"{below_dev}/*", below_dev / name, paths)


def test_a_file_on_a_file_system_that_hangs_waits_with_the_directory_and_since_when(
    tmp_path: Path, paths: MachinePaths
) -> None:
    remote, other = tmp_path / "remote", tmp_path / "other"
    remote.mkdir()
    other.mkdir()
    (other / "disk.raw").touch()
    looks = Looks(patience=0.3)
    access = HostAccess(file_dirs=(remote, other), looks=looks, asking=StubAsking())
    registry = VolumeRegistry.load([], access)

    def prepare(path: Path) -> str:
        asked = volume("file", {"path": str(path), "format": "raw"})
        return registry.select(asked).prepare(MACHINE, asked, paths).path

    with serving(tmp_path, remote / "disk.raw") as hung:
        hung.stop()
        for _ in range(2):
            begun = time.monotonic()
            words = rf"looking at the file {hung.path} goes on since .* at the file directory {re.escape(str(remote))} "
            with pytest.raises(NotReady, match=words) as caught:
                prepare(hung.path)
            assert caught.value.code == "slow-storage"
            assert time.monotonic() - begun < 30
        assert prepare(other / "disk.raw"), "what hangs in one directory is nothing to another"
        hung.go_on()
        end = time.monotonic() + 30
        while looks.late():
            assert time.monotonic() < end
            time.sleep(0.01)
        assert prepare(hung.path) == str(hung.path)
