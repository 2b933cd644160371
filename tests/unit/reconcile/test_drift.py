"""Domains that others have worked on: what is waited for, followed, undone and plugged again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DiskHost, DiskSource, NicBackend
from sri_libvirt.domain.observed import Place
from sri_libvirt.reconcile import actions as act
from sri_libvirt.reconcile import drift
from sri_libvirt.reconcile.drift import TABLE, Difference, Verdict
from sri_libvirt.reconcile.view import Observed
from sri_libvirt.records import GIB, SECOND
from tests.unit.reconcile.world import ID, POLICY, World, codes, delete, machine, nic_row, power, running, volume_row

DISK = volume_row(
    backing=DiskSource("h", "/m/data.qcow2", "qcow2", GIB, was=("/m/older.qcow2", "/m/old.qcow2")), port=1
)
NIC = nic_row(backing=NicBackend("h", "network", "net"), port=2)
ALONE = nic_row("alone", "isolated", backing=NicBackend("h", "isolated", device="sri0"), port=3)
OURS, OVERLAY = Place("/m/data.qcow2"), Place("/backup/snap.qcow2")
RBD = volume_row(
    backing=DiskSource("h", "", "raw", GIB, kind="network", protocol="rbd", name="p/i", hosts=(DiskHost("m", 6789),)),
    port=1,
)
THERE, MOVED = Place("rbd:p/i@m:6789"), Place("rbd:p/i@other:6789")


@pytest.mark.parametrize(
    ("row", "live", "defined", "differences"),
    [
        (DISK, OURS, OURS, []),
        (DISK, None, OURS, []),
        (DISK, Place("/m/old.qcow2"), Place("/m/old.qcow2"), []),
        (DISK, Place("/m/older.qcow2"), Place("/m/old.qcow2"), []),
        (DISK, Place(""), Place(""), []),
        (DISK, OVERLAY, OVERLAY, [Difference.OTHER_FILE]),
        (DISK, OVERLAY, OURS, [Difference.OTHER_FILE, Difference.LEFT_BEHIND]),
        (DISK, OVERLAY, None, [Difference.OTHER_FILE]),
        (DISK, None, OVERLAY, [Difference.OTHER_FILE]),
        (DISK, OURS, OVERLAY, [Difference.STALE]),
        (DISK, replace(OURS, job=True), OURS, [Difference.BLOCK_JOB]),
        (DISK, replace(OVERLAY, job=True), OVERLAY, [Difference.BLOCK_JOB]),
        (NIC, Place("net", tap="vnet0", bridge="br"), Place("net"), []),
        (NIC, Place("", tap="", bridge=""), Place("net"), []),
        (NIC, Place("other", tap="vnet0", bridge="br2"), Place("net"), [Difference.ASTRAY]),
        (NIC, Place("net"), Place("other"), [Difference.STALE]),
        (NIC, None, Place("net"), []),
        (ALONE, Place("sri0", tap="sri0"), Place("sri0"), []),
        (ALONE, Place("vnet3", tap="vnet3"), Place(""), [Difference.ASTRAY, Difference.STALE]),
        (replace(DISK, backing=None), OVERLAY, OVERLAY, []),
        (RBD, THERE, THERE, []),
        (RBD, OVERLAY, THERE, [Difference.OTHER_FILE, Difference.LEFT_BEHIND]),
        (RBD, MOVED, THERE, [Difference.OTHER_FILE, Difference.LEFT_BEHIND]),
        (RBD, THERE, MOVED, [Difference.STALE]),
        (RBD, None, MOVED, [Difference.OTHER_FILE]),
    ],
)
def test_what_differs(row: object, live: Place | None, defined: Place | None, differences: list[Difference]) -> None:
    observed = Observed(
        domain=None,
        boot_id="",
        places={row.alias: live} if live else {},  # type: ignore[attr-defined]
        defined={row.alias: defined} if defined else {},  # type: ignore[attr-defined]
    )
    assert [each.what for each in drift.found(machine(row), observed)] == differences  # type: ignore[arg-type]


def test_each_difference_has_its_verdict() -> None:
    assert set(TABLE) == set(Difference)
    assert set(TABLE.values()) == set(Verdict)


def snapshotted(*, both: bool = True) -> World:
    """A running machine of which somebody has taken an external snapshot."""
    world = running(volume_row(), nic_row())
    alias = volume_row().alias
    world.places = {alias: OVERLAY}
    world.defined = {alias: OVERLAY if both else Place("/d")}
    return world


def test_reason_foreign_disk_source_a_guest_on_a_snapshot_runs_on() -> None:
    world = snapshotted()
    made = world.settle()
    assert codes(world) == ["foreign-disk-source"]
    assert world.done == []
    assert made is not None
    assert made.wake_at == world.now + drift.LOOK_AGAIN
    assert world.record is not None
    assert world.record.status.state == pb.MACHINE_RUNNING


def test_it_is_not_started_from_older_data_until_the_snapshot_is_committed() -> None:
    world = snapshotted()
    power(world, pb.POWER_OFF)
    world.run_until(lambda: world.domain is not None and not world.domain.active)
    power(world, pb.POWER_ON)
    made = world.settle()
    assert codes(world) == ["foreign-disk-source"]
    assert made is not None
    assert not [each for each in world.done if isinstance(each, (act.Define, act.Start))]
    # Somebody has put the data back, and let the domain say so.
    world.defined = {volume_row().alias: Place("/d")}
    world.settle()
    assert codes(world) == []
    assert world.record is not None
    assert world.record.status.state == pb.MACHINE_RUNNING


def test_one_that_is_off_and_stays_so_keeps_the_only_record_of_its_newest_file() -> None:
    world = snapshotted()
    power(world, pb.POWER_OFF)
    world.run_until(lambda: world.domain is not None and not world.domain.active)
    assert world.record is not None
    row = next(row for row in world.record.attachments if row.kind == "nic")
    gone = replace(row, wanted=False, changed_at=world.now)
    rows = tuple(gone if each is row else each for each in world.record.attachments)
    world.record = replace(world.record, attachments=rows)
    world.settle()
    assert not [each for each in world.done if isinstance(each, act.Define)]
    assert codes(world) == ["foreign-disk-source"]
    world.defined = {}
    world.settle()
    assert [each for each in world.done if isinstance(each, act.Define)]
    assert codes(world) == []


@pytest.mark.parametrize(
    ("place", "code"), [(OVERLAY, "foreign-disk-source"), (Place("/d", job=True), "block-job")], ids=["snapshot", "job"]
)
def test_a_detach_waits_for_the_end_of_somebodys_work_on_the_disk(place: Place, code: str) -> None:
    world = snapshotted()
    alias = volume_row().alias
    world.places = {alias: place}
    assert world.record is not None
    row = next(row for row in world.record.attachments if row.alias == alias)
    gone = replace(row, wanted=False, changed_at=world.now - 700 * SECOND)
    rows = tuple(gone if each is row else each for each in world.record.attachments)
    world.record = replace(world.record, attachments=rows)
    world.settle()
    assert world.done == []
    assert codes(world)[0] == code
    world.places, world.defined = {alias: Place("/d")}, {alias: Place("/d")}
    world.settle()
    assert alias not in world.live | world.persistent
    assert world.record is not None
    assert alias not in {each.alias for each in world.record.attachments}


def test_the_persistent_domain_follows_a_guest_that_somebody_has_moved() -> None:
    world = snapshotted(both=False)
    world.settle()
    key = volume_row().key
    assert world.done == [act.FollowDisk(key)]
    assert world.defined[volume_row().alias] == OVERLAY


def test_a_guest_that_is_on_our_file_again_has_its_persistent_domain_put_back() -> None:
    world = snapshotted()
    world.places = {volume_row().alias: Place("/d")}
    world.settle()
    assert world.done == [act.Define(new_run=False)]


def test_a_delete_goes_on_and_tells_of_the_file_that_stays() -> None:
    world = snapshotted()
    delete(world)
    told = []
    while world.record is not None:
        made = world.look()
        told += [event.message for event in made.events if event.kind == "left"]
        for action in made.actions:
            world._perform(action)
        if not made.actions:
            assert made.wake_at is not None
            world.now = made.wake_at
    assert len(told) == 1
    assert "/backup/snap.qcow2" in told[0]


def test_a_file_in_the_machines_own_directory_goes_with_it() -> None:
    seen = Place(f"/var/lib/sri-libvirt/machines/{ID}/image.snap1")
    observed = Observed(domain=None, boot_id="", defined={DISK.alias: seen})
    assert drift.left_files(machine(DISK), observed) == ()
    elsewhere = Observed(domain=None, boot_id="", defined={DISK.alias: Place(f"rbd:pool/{ID}/image@mon:6789")})
    assert [event.reason for event in drift.left_files(machine(DISK), elsewhere)] == ["foreign-disk"]


def astray(place: Place, *, seen: bool) -> World:
    world = running(nic_row())
    world.places = {nic_row().alias: place}
    world.astray = frozenset({nic_row().alias}) if seen else frozenset()
    return world


@pytest.mark.parametrize(
    ("place", "seen"),
    [(Place("net", tap="vnet0", bridge="br"), True), (Place("other", tap="vnet0", bridge="br2"), False)],
    ids=["in no bridge", "on another network"],
)
def test_reason_nic_astray_it_is_plugged_again(place: Place, seen: bool) -> None:
    world = astray(place, seen=seen)
    world.deaf_to_unplug = True
    world.settle()
    key = nic_row().key
    assert world.done == [act.PrepareDevice(key), act.UnplugDevice(key, again=True)]
    assert codes(world) == ["nic-astray"]
    assert world.record is not None
    assert [nic.state for nic in world.record.status.network_interfaces] == [pb.NETWORK_INTERFACE_PENDING]
    world.reset()
    world.settle()
    assert codes(world) == []
    assert world.done[2:] == [act.AssignPorts(), act.PrepareDevice(key), act.PlugDevice(key)]
    assert [nic.state for nic in world.record.status.network_interfaces] == [pb.NETWORK_INTERFACE_ATTACHED]


def test_a_nic_is_not_taken_from_its_guest_while_its_network_is_away() -> None:
    world = astray(Place("net", tap="vnet0", bridge="br"), seen=True)
    world.broken.add("nic")
    world.settle()
    assert codes(world) == ["nic-astray", "device-not-ready"]
    assert world.live == {nic_row().alias}
    world.broken.clear()
    world.now += POLICY.prepare_retry
    world.settle()
    assert codes(world) == []


def test_a_guest_is_asked_again_at_intervals() -> None:
    world = astray(Place("net", tap="vnet0", bridge="br"), seen=True)
    world.deaf_to_unplug = True
    for _ in range(3):
        world.settle()
        world.now += POLICY.replug_every
    assert sum(isinstance(each, act.UnplugDevice) for each in world.done) == 3
