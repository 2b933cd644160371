"""Block devices as volumes: which may be named. Devices themselves are in the contract tests."""

from __future__ import annotations

import pytest

from sri_libvirt.devices import DiskSource, SecretReference
from sri_libvirt.looks import Looks
from sri_libvirt.names import secret_uuid
from sri_libvirt.paths import MachinePaths
from sri_libvirt.volumes import allowed
from sri_libvirt.volumes.block import BlockVolumes
from tests.connected import MACHINE, StubAsking, refused, volume, waits, wanted


def driver(*patterns: str, asking: StubAsking | None = None) -> BlockVolumes:
    return BlockVolumes(patterns, Looks(), lambda: "boot-1", asking or StubAsking())


def test_what_qemu_is_told() -> None:
    asked = volume("block", {"path": "/dev/vg0/data", "format": "ignored"}, encryption={"encryptionKey": b"key"})
    assert driver().source(MACHINE, asked) == DiskSource(
        handle="block/4711",
        path="/dev/vg0/data",
        format="raw",
        size=0,
        kind="block",
        encryption=wanted("qemu"),
        secrets=(SecretReference("encryption", secret_uuid(MACHINE, "data", "encryption")),),
    )


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "must be set"),
        ("vda", "not an absolute path"),
        ("/dev/disk/by-id/../../sda", "not an absolute path"),
        ("/dev//sda", "not an absolute path"),
        ("/dev", "not below /dev/"),
        ("/devices/sda", "not below /dev/"),
        ("/srv/disk.raw", "not below /dev/"),
        ("/dev/a\rb", "U+000D"),
    ],
)
def test_paths_that_are_wrong(path: str, words: str) -> None:
    refused(driver("/dev/*"), volume("block", {"path": path}), 'connection.attributes["path"]', words)


@pytest.mark.parametrize(
    ("path", "pattern", "match"),
    [
        ("/dev/sda", "/dev/sda", True),
        ("/dev/sda", "/dev/sd?", True),
        ("/dev/sda1", "/dev/sd?", False),
        ("/dev/vg0/data", "/dev/vg0/*", True),
        ("/dev/vg0/a/b", "/dev/vg0/*", False),
        ("/dev/vg0", "/dev/vg0/*", False),
        ("/dev/vg0/data", "/dev/*", False),
        ("/dev/disk/by-id/scsi-0:1", "/dev/disk/by-id/scsi-*", True),
        ("/dev/disk/by-id/scsi-0:1", "/dev/disk/by-id/scsi-0?1", True),
        ("/dev/SDA", "/dev/sda", False),
        ("/dev/sdc", "/dev/sd[ab]", False),
    ],
)
def test_patterns(path: str, pattern: str, match: bool) -> None:
    assert allowed.matches(path, pattern) == match


def test_no_device_may_be_named_by_default_and_none_is_told_from_another(paths: MachinePaths) -> None:
    asking = StubAsking()
    for path in ("/dev/null", "/dev/absent"):
        for made, listed in ((driver(asking=asking), "none"), (driver("/dev/vg0/*", asking=asking), "/dev/vg0/*")):
            error = waits(made, volume("block", {"path": path}), paths, "is none that volumes may name")
            assert f"--block-device (now: {listed})" in error.advice
    assert asking.asked == []


def test_what_is_not_there_or_no_block_device(paths: MachinePaths) -> None:
    asking = StubAsking()
    for path, words in (("/dev/sri-absent", "is not there (yet)"), ("/dev/null", "is no block device")):
        waits(driver("/dev/*", asking=asking), volume("block", {"path": path}), paths, words)
    assert asking.asked == []
