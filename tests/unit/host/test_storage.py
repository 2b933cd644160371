"""Disks and file systems."""

from __future__ import annotations

from pathlib import Path

import pytest

from sri_libvirt.host import storage
from sri_libvirt.host.storage import BlockDevice
from tests.unit.host.trees import Tree

MOUNTS = """22 1 252:0 / / rw,relatime - ext4 /dev/vda1 rw
23 22 0:20 / /var/lib rw shared:1 - xfs /dev/mapper/vg-lib rw
24 23 0:21 / /var/lib/with\\040space rw - tmpfs tmpfs rw
25 23 0:22 / /var/lib/over rw - nfs4 server:/a rw
26 23 0:23 / /var/lib/over rw - ext4 /dev/vdb rw
odd line
"""


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/srv", ("/", "ext4", "/dev/vda1")),
        ("/var/lib", ("/var/lib", "xfs", "/dev/mapper/vg-lib")),
        ("/var/library", ("/", "ext4", "/dev/vda1")),
        ("/var/lib/with space/x", ("/var/lib/with space", "tmpfs", "tmpfs")),
        ("/var/lib/over/x", ("/var/lib/over", "ext4", "/dev/vdb")),
    ],
)
def test_mount_of_a_path(path: str, found: tuple[str, str, str]) -> None:
    assert storage.parse_mounts(MOUNTS, path) == found


PRIVATE = (
    MOUNTS
    + """60 22 252:0 /tmp/systemd-private-0a1b-sri-libvirt.service-x/tmp /tmp rw - ext4 /dev/vda1 rw
61 60 0:50 / /tmp/mounted rw - tmpfs tmpfs rw
"""
)


@pytest.mark.parametrize(
    ("path", "found"),
    [("/tmp", True), ("/tmp/images", True), ("/tmpimages", False), ("/srv", False), ("/tmp/mounted/images", False)],
)
def test_a_directory_that_only_this_service_has(path: str, found: bool) -> None:
    assert storage.is_private(PRIVATE, path) is found
    assert not storage.is_private(MOUNTS, path)
    assert not storage.is_private("", path)


def test_file_system_of_a_directory_that_does_not_exist_yet(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(MOUNTS)
    found = storage.filesystem(tmp_path / "a/b", tmp_path)
    assert found is not None
    assert found.path == str(tmp_path / "a/b")
    assert (found.mount_point, found.kind) == ("/", "ext4")
    assert found.total_bytes >= found.free_bytes > 0


def test_file_system_is_read_only_when_asked_for(tmp_path: Path) -> None:
    assert storage.read(tmp_path, tmp_path).filesystem is None
    found = storage.read(tmp_path, tmp_path, tmp_path).filesystem
    assert found is not None
    assert (found.mount_point, found.kind, found.source) == (None, None, None)


def test_block_devices(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "host")
    for name, sectors in {"sda": 2048, "loop0": 8, "ram0": 8, "nbd0": 0, "cciss!c0d0": 4096}.items():
        tree.write(f"sys/devices/pci0000:00/0000:00:05.0/{name}/size", sectors)
        tree.link(f"sys/block/{name}", f"../devices/pci0000:00/0000:00:05.0/{name}")
    disk = "sys/devices/pci0000:00/0000:00:05.0/sda"
    for key, value in {"queue/rotational": 1, "removable": 0, "ro": 0, "device/model": "DISK 3000"}.items():
        tree.write(f"{disk}/{key}", value)
    tree.write("sys/devices/pci0000:00/0000:00:05.0/numa_node", 1)
    assert storage.read(tree.sysfs, tree.procfs).devices == (
        BlockDevice("cciss/c0d0", 2 << 20, None, None, None, None, None, built=True),
        BlockDevice("sda", 1 << 20, True, False, False, "DISK 3000", 1, built=False),
    )
