"""plan(): disks at which QEMU has paused a guest are named, and volumes that have grown are resized, never cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DiskSource, Encryption
from sri_libvirt.domain.observed import Place
from sri_libvirt.hypervisor.base import DomainState
from sri_libvirt.reconcile import actions as act
from sri_libvirt.reconcile import disks
from sri_libvirt.reconcile.view import FailedDisk, Heard
from sri_libvirt.records import GIB, SECOND, Event
from tests.unit.reconcile.world import T0, World, codes, delete, power, running, snapshot, state, volume_row

DATA, LOG = volume_row(), volume_row("log", target="vdb", serial="odb-0")
LUKS = DiskSource("h", "/d", "raw", GIB, encryption=Encryption("qemu", "luks"))


def paused(*failed: FailedDisk, resumed: bool = True) -> World:
    """A guest that QEMU has paused at these disks, a moment after the latest resume."""
    world = running(DATA, LOG)
    assert world.record is not None
    if resumed:
        world.record = replace(world.record, run=replace(world.record.run, resumed_at=T0, resumes=1))
    world.domain, world.failed_disks = snapshot(DomainState.PAUSED, "io error"), failed
    return world


def told(world: World) -> list[Event]:
    return [event for event in world.look().events if event.kind == "disk"]


def backed(world: World, backing: DiskSource) -> None:
    """The volume "data" is this disk."""
    world._row(DATA.key, backing=backing)


def resizes(world: World) -> list[int]:
    return [action.size for action in world.done if isinstance(action, act.ResizeDisk)]


# --- I/O errors ----------------------------------------------------------------------------------


def test_a_pause_names_its_disks_and_is_told_once() -> None:
    world = paused(FailedDisk("vda", no_space=True), FailedDisk("vdb"), FailedDisk("vdz"))
    (event,) = told(world)
    assert event.reason == "io-error"
    names = 'volume "data" (no space is left for it), volume "log", disk vdz'
    assert event.message == f"QEMU paused the guest at an I/O error of {names}; it is resumed, after growing pauses"
    assert codes(world) == ["io-error"]
    assert world.record is not None
    assert "Make room" in world.record.reasons[0].advice
    world.now += 40 * SECOND
    world.record = replace(world.record, run=replace(world.record.run, resumed_at=world.now))
    made = world.look()
    assert made.events == (), "neither again, nor as a wait that has become long"
    assert [reason.since for reason in made.reasons] == [T0]


def test_a_pause_of_which_libvirt_names_no_disk_is_told_as_it_is() -> None:
    world = paused()
    (event,) = told(world)
    assert event.message == "QEMU paused the guest at an I/O error of a disk; it is resumed, after growing pauses"
    assert told(world) == []


def test_the_first_resume_waits_for_nothing_and_a_new_pause_is_told_anew() -> None:
    world = paused(FailedDisk("vda"), resumed=False)
    made = world.look()
    assert isinstance(made.actions[0], act.Resume)
    assert [event.kind for event in made.events] == ["disk", "state"]
    world.settle()
    assert (codes(world), state(world)) == ([], "RUNNING")
    world.domain = snapshot(DomainState.PAUSED, "io error")
    assert len(told(world)) == 1


@pytest.mark.parametrize(
    ("heard", "code", "words", "advice"),
    [
        (Heard(True), "backend-answers", 'the backend of volume "data" answers now', "goes on"),
        (Heard(False, "no route", "See the net."), "backend-fails", 'of volume "data" fails now: no route', "See the"),
    ],
)
def test_what_the_backend_says_is_a_reason_and_an_event(heard: Heard, code: str, words: str, advice: str) -> None:
    world = paused(FailedDisk("vda", backend=Heard(None)))
    made = world.look()
    assert codes(world) == ["io-error"], "it is being asked"
    assert made.wake_at == T0 + disks.ASK_AGAIN
    world.failed_disks = (FailedDisk("vda", backend=heard),)
    (event,) = told(world)
    assert (event.reason, words in event.message) == (code, True)
    assert codes(world) == ["io-error", code]
    assert world.record is not None
    assert advice in world.record.reasons[1].advice
    made = world.look()
    assert made.events == ()
    assert made.wake_at == T0 + 10 * SECOND, "its next resume"


@pytest.mark.parametrize(("reconnect", "no_space", "lost"), [(0, False, True), (60, False, False), (0, True, False)])
def test_reason_disk_cut_off_of_an_nbd_disk_that_qemu_connects_once(reconnect: int, no_space: bool, lost: bool) -> None:
    world = paused(FailedDisk("vda", no_space=no_space))
    backed(world, DiskSource("h", "", "raw", GIB, kind="network", protocol="nbd", reconnect=reconnect))
    world.look()
    assert codes(world) == ["io-error"] + ["disk-cut-off"] * lost
    assert world.record is not None
    assert ("OFF and ON" in world.record.reasons[-1].advice) is lost


def test_what_is_known_of_a_disk_changes_no_other_pause() -> None:
    world = running(DATA)
    world.domain, world.failed_disks = snapshot(DomainState.PAUSED, "user"), (FailedDisk("vda"),)
    made = world.look()
    assert codes(world) == ["paused"]
    assert [event.kind for event in made.events] == ["state"]


# --- growth --------------------------------------------------------------------------------------


def test_a_volume_that_has_grown_is_resized_once() -> None:
    world = running(DATA, LOG)
    world.found = {"data": 2 * GIB, "log": GIB}
    world.settle()
    assert world.done == [act.ResizeDisk(DATA.key, 2 * GIB)]
    world.settle()
    assert (len(world.done), codes(world)) == (1, [])
    world.found["data"] = 3 * GIB
    world.settle()
    assert resizes(world) == [2 * GIB, 3 * GIB]


@pytest.mark.parametrize("size", [0, 1, GIB - 1, GIB])
def test_a_volume_is_never_cut(size: int) -> None:
    world = running(DATA)
    world.found = {"data": size}
    world.settle()
    assert world.done == []


@pytest.mark.parametrize(
    "backing",
    [
        DiskSource("h", "", "raw", GIB, kind="network", protocol="nbd", name="x"),
        DiskSource("h", "", "raw", GIB, kind="network", protocol="rbd", encryption=Encryption("librbd", "luks2")),
    ],
)
def test_reason_grows_at_start_of_what_qemu_cannot_resize_and_nothing_is_tried(backing: DiskSource) -> None:
    world = running(DATA)
    backed(world, backing)
    world.found = {"data": 2 * GIB}
    made = world.settle()
    assert (world.done, codes(world), state(world)) == ([], ["grows-at-start"], "RUNNING")
    assert made is not None
    assert made.reasons[0].message.startswith('volume "data" has 2 GiB by now, of which the guest sees 1 GiB: ')
    assert "OFF and ON" in made.reasons[0].advice
    world.now += 31 * SECOND
    assert [event.reason for event in world.look().events] == ["grows-at-start"]
    world.now += 3600 * SECOND
    made = world.look()
    assert (made.events, made.actions, made.wake_at) == ((), (), None), "told once, and no loop"


@pytest.mark.parametrize(
    "backing",
    [
        LUKS,
        DiskSource("h", "/dev/x", "raw", GIB, kind="block"),
        DiskSource("h", "", "raw", GIB, kind="network", protocol="rbd"),
        DiskSource("h", "", "raw", GIB, kind="network", protocol="iscsi"),
    ],
)
def test_what_qemu_can_resize_is_resized(backing: DiskSource) -> None:
    world = running(DATA)
    backed(world, backing)
    world.found = {"data": 2 * GIB}
    world.settle()
    assert resizes(world) == [2 * GIB]


@pytest.mark.parametrize("away", ["paused", "off", "going", "deleted", "foreign-disk", "block-job"])
def test_nothing_is_resized_of_what_does_not_run_leaves_or_is_worked_on(away: str) -> None:
    world = running(DATA)
    world.found = {"data": 2 * GIB}
    row = world.record.attachments[0] if world.record else DATA
    match away:
        case "paused":
            world.domain = snapshot(DomainState.PAUSED, "user")
        case "off":
            power(world, pb.POWER_OFF)
        case "going":
            world.deaf_to_unplug = True
            world._row(row.key, wanted=False, changed_at=world.now)
        case "deleted":
            delete(world)
        case "foreign-disk":
            world.places = {row.alias: Place("/snapshot")}
        case "block-job":
            world.places = {row.alias: Place("/d", job=True)}
    world.settle()
    assert resizes(world) == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 8), max_size=12))
def test_whatever_looks_find_only_what_is_larger_than_all_before_is_asked_for(looks: list[int]) -> None:
    """The world itself asserts that it is what the latest look has found."""
    world, largest, expected = running(DATA), 1, []
    for size in looks:
        world.found = {"data": size * GIB}
        world.settle()
        if size > largest:
            largest = size
            expected.append(size * GIB)
    assert resizes(world) == expected
