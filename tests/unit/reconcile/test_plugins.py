"""The drivers that the loop and the RPCs get: one table for both, and its words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import InvalidSpec
from sri_libvirt.hypervisor.networks import PlannedNetworks
from sri_libvirt.images.registry import ImageAccess
from sri_libvirt.reconcile.plugins import PluginTables
from sri_libvirt.resources import DISK
from sri_libvirt.volumes.registry import HostAccess
from tests.unit.reconcile.world import nic_row, volume_row


@pytest.fixture
def tables(tmp_path: Path) -> PluginTables:
    return PluginTables(ImageAccess([tmp_path]))


def connection(driver: str) -> pb.Volume:
    return pb.Volume(name="v", connection=pb.VolumeConnection(driver=driver, handle="h"))


@pytest.mark.parametrize(
    "check",
    [
        lambda tables: tables.check_volume(pb.Volume(name="v", empty_disk=pb.EmptyDisk(size_bytes=512))),
        lambda tables: tables.check_nic(pb.NetworkInterface(name="n", network_id="isolated")),
        lambda tables: tables.check_nic(pb.NetworkInterface(name="n", network_id="network://lan")),
        lambda tables: tables.check_nic(pb.NetworkInterface(name="n", network_id="")),
        lambda tables: tables.check_image("/images/a.raw"),
        lambda tables: tables.check_image("file:///images/a.raw"),
    ],
)
def test_what_is_right(tables: PluginTables, check: Callable[[PluginTables], None]) -> None:
    check(tables)


@pytest.mark.parametrize(
    ("check", "field"),
    [
        (lambda tables: tables.check_volume(connection("no-such")), "connection.driver"),
        (lambda tables: tables.check_volume(pb.Volume(name="v")), ""),
        (
            lambda tables: tables.check_volume(pb.Volume(empty_disk=pb.EmptyDisk(size_bytes=-1))),
            "empty_disk.size_bytes",
        ),
        (lambda tables: tables.check_nic(pb.NetworkInterface(network_id="ovn://x", ips=["1"])), "ips[0]"),
        (lambda tables: tables.check_nic(pb.NetworkInterface(network_id="network://a/b")), "network_id"),
        (lambda tables: tables.check_image("alpine"), ""),
    ],
)
def test_what_is_wrong_in_itself(tables: PluginTables, check: Callable[[PluginTables], None], field: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        check(tables)
    assert caught.value.field == field
    assert caught.value.problem


def test_the_loop_gets_the_driver_that_the_check_asked(tables: PluginTables) -> None:
    assert tables.volume(volume_row()).name == "empty_disk"
    assert tables.nic(nic_row()).name == "network"
    assert tables.nic(nic_row(network="isolated")).name == "isolated"


@pytest.mark.parametrize("driver", ["ceph", "nbd", "iscsi", "file", "block"])
def test_storage_that_others_keep_claims_nothing_of_the_host(tables: PluginTables, driver: str) -> None:
    assert tables.claims_of(volume_row(spec=connection(driver).SerializeToString())) == ()
    assert [claim.resource for claim in tables.claims_of(volume_row())] == [DISK]


def test_what_only_a_planner_asks(tables: PluginTables) -> None:
    iscsi = connection("iscsi")
    iscsi.connection.attributes.update(portal="10.0.0.1", target="iqn.2001-04.com.example:a", lun="3")
    source = tables.planned(volume_row(spec=iscsi.SerializeToString()))
    assert source is not None
    assert source.source == "iscsi:iqn.2001-04.com.example:a/3@10.0.0.1:3260"
    assert tables.planned(volume_row()) is None


def test_what_a_running_guest_cannot_be_given(tmp_path: Path) -> None:
    encrypted = connection("ceph")
    encrypted.connection.encryption_data["encryptionKey"] = b"key"
    rows = [volume_row(spec=each.SerializeToString()) for each in (encrypted, connection("ceph"))]
    rows += [volume_row(), nic_row()]
    for version, cold in ((9_000_000, [True, False, False, False]), (11_003_000, [False] * 4)):
        access = HostAccess(libvirt_version=lambda version=version: version)  # type: ignore[misc]
        tables = PluginTables(ImageAccess([tmp_path]), access=access)
        assert [bool(tables.cold_only(row)) for row in rows] == cold


def test_a_driver_that_is_gone_is_an_error_of_the_device(tables: PluginTables) -> None:
    row = volume_row(spec=connection("was-here-once").SerializeToString())
    with pytest.raises(InvalidSpec, match="was-here-once"):
        tables.volume(row)


def test_handles_are_those_that_a_prepare_gives(tables: PluginTables) -> None:
    disk, nic, isolated = volume_row(), nic_row(), nic_row(network="isolated")
    assert tables.handle_of(disk).startswith("empty-disk/")
    assert tables.handle_of(nic).startswith("network://net/")
    prepared = tables.nic(isolated).prepare(isolated.machine, isolated.nic(), isolated.mac, PlannedNetworks())
    assert tables.handle_of(isolated) == prepared.handle
    assert tables.handle_of(nic_row(network="")) == ""


def test_what_a_plan_asks_of_a_volume_whose_driver_is_gone_is_not_known(tables: PluginTables) -> None:
    row = volume_row(spec=connection("was-here-once").SerializeToString())
    assert (tables.busy_until(row), tables.cold_only(row)) == (None, "")


def test_what_a_plan_asks_need_not_be_answered(tables: PluginTables) -> None:
    for row in (volume_row(), nic_row()):
        assert (tables.busy_until(row), tables.cold_only(row)) == (None, "")
