"""What plugins hand out can be stored, and what an earlier version stored can be read."""

from __future__ import annotations

from sri_libvirt import devices
from sri_libvirt.devices import DiskHost, DiskSource, Encryption, SecretReference

RBD = DiskSource(
    handle="ceph/0badcafe",
    path="",
    format="raw",
    size=1 << 30,
    kind="network",
    protocol="rbd",
    name="pool/image",
    hosts=(DiskHost("10.0.0.1", 6789), DiskHost("fd00::1", 3300)),
    user="tenant",
    config="/etc/ceph/sri-libvirt.conf",
    encryption=Encryption("librbd", "luks2"),
    secrets=(SecretReference("auth", "0f0e0d0c-0b0a-0908-0706-050403020100"),),
)


def test_a_network_disk_is_the_same_after_it_was_stored() -> None:
    assert devices.from_json(devices.to_json(RBD)) == RBD


def test_a_disk_that_an_earlier_version_stored_is_a_local_file() -> None:
    text = (
        '{"type": "DiskSource", "handle": "empty-disk/ab", "path": "/m/e.qcow2", "format": "qcow2", "size": 1024,'
        ' "read_only": false, "backing": null, "note": "", "was": ""}'
    )
    assert devices.from_json(text) == DiskSource("empty-disk/ab", "/m/e.qcow2", "qcow2", 1024)


def test_the_source_of_a_network_disk_does_not_depend_on_the_order_of_its_hosts() -> None:
    assert RBD.source == "rbd:pool/image@10.0.0.1:6789,[fd00::1]:3300"
    assert devices.network_source("rbd", "pool/image", reversed(RBD.hosts)) == RBD.source
    assert devices.network_source("nbd", "disk", [DiskHost(socket="/run/nbd.sock")]) == "nbd:disk@/run/nbd.sock"


def test_the_source_of_a_local_disk_is_its_path() -> None:
    assert DiskSource("h", "/dev/vg/lv", "raw", 1, kind="block").source == "/dev/vg/lv"
