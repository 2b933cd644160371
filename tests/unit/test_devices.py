"""What plugins hand out can be stored, and what an earlier version stored can be read."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sri_libvirt import devices
from sri_libvirt.devices import DiskHost, DiskSettings, DiskSource, Encryption, SecretReference

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


@pytest.mark.parametrize(("was", "known"), [("", ()), ("/old/e.qcow2", ("/old/e.qcow2",))])
def test_a_disk_that_an_earlier_version_stored_is_a_local_file(was: str, known: tuple[str, ...]) -> None:
    text = (
        '{"type": "DiskSource", "handle": "empty-disk/ab", "path": "/m/e.qcow2", "format": "qcow2", "size": 1024,'
        f' "read_only": false, "backing": null, "note": "", "was": "{was}"}}'
    )
    found = devices.from_json(text)
    assert found == DiskSource("empty-disk/ab", "/m/e.qcow2", "qcow2", 1024, was=known)
    assert isinstance(found, DiskSource)
    assert found.settings == DiskSettings("writeback", "", "unmap", "off"), "what it was opened with"


def test_the_settings_of_a_disk_are_stored() -> None:
    disk = DiskSource("h", "/m/e.qcow2", "qcow2", 1, settings=DiskSettings("none", "native", "ignore", "on"))
    assert devices.from_json(devices.to_json(disk)) == disk


def test_a_disk_remembers_what_a_domain_may_still_name() -> None:
    """Its monitors may change again before a domain could be defined."""
    first, second, third = (replace(RBD, hosts=(DiskHost(name, 6789),)) for name in ("a", "b", "c"))
    moved = third.after(second.after(first))
    assert moved.was == (first.source, second.source)
    assert devices.from_json(devices.to_json(moved)) == moved
    assert third.after(moved) == moved
    assert first.after(moved).was == (second.source, third.source)
    for number in range(99):
        moved = replace(RBD, name=f"p/{number}").after(moved)
    assert moved.was[-1] == replace(RBD, name="p/97").source
    assert len(moved.was) == devices.SOURCES_BEFORE


def test_the_source_of_a_network_disk_does_not_depend_on_the_order_of_its_hosts() -> None:
    assert RBD.source == "rbd:pool/image@10.0.0.1:6789,[fd00::1]:3300"
    assert devices.network_source("rbd", "pool/image", reversed(RBD.hosts)) == RBD.source
    assert devices.network_source("nbd", "disk", [DiskHost(socket="/run/nbd.sock")]) == "nbd:disk@/run/nbd.sock"


def test_the_source_of_a_local_disk_is_its_path() -> None:
    assert DiskSource("h", "/dev/vg/lv", "raw", 1, kind="block").source == "/dev/vg/lv"


@pytest.mark.parametrize(("protocol", "told"), [("nbd", "h:10809"), ("iscsi", "h:3260"), ("rbd", "h"), ("x", "h")])
def test_a_host_without_a_port_has_its_protocols_own(protocol: str, told: str) -> None:
    assert devices.network_source(protocol, "n", [DiskHost("h")]) == f"{protocol}:n@{told}"
    assert devices.network_source(protocol, "n", [DiskHost("h", 1)]) == f"{protocol}:n@h:1"
    assert devices.network_source(protocol, "n", [DiskHost("fd00::1")]) != f"{protocol}:n@fd00::1"


parts = st.text("a@,%/:[]. 1")
hosts = st.lists(
    st.one_of(st.builds(DiskHost, parts, st.integers(0, 9)), st.builds(lambda s: DiskHost(socket=f"/{s}"), parts))
)


@given(name=parts, other=parts, at=hosts, other_at=hosts)
def test_different_disks_have_different_sources(
    name: str, other: str, at: list[DiskHost], other_at: list[DiskHost]
) -> None:
    one, two = (devices.network_source("nbd", *each) for each in ((name, at), (other, other_at)))
    same = (name, sorted(str(host.by("nbd")) for host in at)) == (other, sorted(str(h.by("nbd")) for h in other_at))
    assert (one == two) == same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("/dev/sda", "/dev/sda", True),
        ("/m/a@b", "/m/a@c", False),
        ("rbd:pool/image@mon1:6789", "rbd:pool/image@mon2:6789,mon3:6789", True),
        ("rbd:pool/image@mon1:6789", "rbd:pool/image2@mon1:6789", False),
        ("iscsi:iqn.x:t/1@a:3260", "iscsi:iqn.x:t/1@[fd00::1]:3260", True),
        ("iscsi:iqn.x:t/1@a:3260", "iscsi:iqn.x:t/2@a:3260", False),
        ("nbd:disk@a:10809", "nbd:disk@b:10809", False),
        ("rbd:a%40b@m", "rbd:a%40c@m", False),
    ],
)
def test_a_cluster_and_a_target_have_many_ways_to_them(one: str, other: str, *, same: bool) -> None:
    assert devices.may_be_same(one, other) is same


ISCSI = DiskSource("h", "", "raw", 0, kind="network", protocol="iscsi", name="iqn.1:t/1", hosts=(DiskHost("10.0.0.1"),))
BLOCK = DiskSource("h", "/dev/vg0/a", "raw", 0, kind="block", device="block:253:0@boot-1")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (ISCSI, replace(ISCSI, hosts=(DiskHost("10.0.0.2"),)), True),
        (ISCSI, replace(ISCSI, name="iqn.1:t/2"), False),
        (RBD, replace(RBD, hosts=(DiskHost("10.0.0.9"),)), False),
        (BLOCK, replace(BLOCK, path="/dev/disk/by-id/dm-name-vg0-a"), True),
        (BLOCK, replace(BLOCK, device="block:253:1@boot-1"), False),
        (BLOCK, replace(BLOCK, device="block:253:0@boot-2", path="/dev/vg0/b"), False),
    ],
)
def test_which_disks_are_one_whatever_they_are_called(one: DiskSource, other: DiskSource, *, same: bool) -> None:
    assert (one.identity == other.identity) == same
    assert devices.from_json(devices.to_json(one)) == one
