"""Performers: each does its one thing, says so in the store, and may be asked again."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DiskSettings, DiskSource, NicBackend
from sri_libvirt.errors import AddressHeld, DescriptorRefused, DiskLocked, HypervisorError, NotReady
from sri_libvirt.hypervisor.base import DomainSnapshot, DomainState
from sri_libvirt.hypervisor.fake import FakeConnection, FakeHypervisor
from sri_libvirt.paths import StatePaths
from sri_libvirt.reconcile import actions as act
from sri_libvirt.reconcile.actions import Action
from sri_libvirt.reconcile.perform import Performer
from sri_libvirt.reconcile.reasons import notes
from sri_libvirt.records import LABEL_NAME, SECOND, Attachment, ClassPolicy, Machine, Run, StopEvent
from sri_libvirt.store import Store
from tests.unit.reconcile.parts import Clock, Compiler, DeviceDriver, Drivers, performer
from tests.unit.reconcile.world import ID, PROFILE, T0, machine, nic_row, volume_row

IMAGE = Attachment(ID, "image", "", 1, b"", True, T0, target="vdaaa", serial="image")
SEED = Attachment(ID, "seed", "", 1, b"", True, T0, target="vdaab", serial="seed")
DATA = volume_row()


class Bench:
    """One machine, and what its actions work on."""

    def __init__(self, store: Store, root: Path, clock: Clock) -> None:
        self.store = store
        self.paths = StatePaths(root).machine(ID)
        self.clock = clock
        self.drivers = Drivers()
        self.compiler = Compiler(store.instance)
        self.hypervisor = FakeHypervisor()
        self.connection: FakeConnection = self.hypervisor.connect()
        self.woken: list[str] = []
        made = performer(store, root, clock, self.drivers, self.compiler)
        self.performer: Performer = replace(made, wake=self.woken.append)

    def put(self, made: Machine) -> None:
        self.store.write(lambda tx: tx.insert(made))

    def do(self, *actions: Action) -> None:
        for action in actions:
            self.performer.perform(action, self.store.machine(ID) or machine(), self.connection)

    def fail(self, action: Action, error: Exception) -> bool:
        return self.performer.note_failure(action, ID, error)

    @property
    def machine(self) -> Machine:
        found = self.store.machine(ID)
        assert found is not None
        return found

    def snapshot(self) -> DomainSnapshot:
        found = self.connection.snapshot(ID)
        assert found is not None
        return found

    def row(self, name: str = "data") -> Attachment:
        return next(row for row in self.machine.attachments if row.name == name)

    def told(self) -> list[tuple[str, str, int]]:
        return [(event.kind, event.reason, event.took) for event in self.store.events(ID) for _ in range(event.count)]

    def running(self) -> None:
        """A machine that runs with its volume."""
        self.put(machine(DATA))
        self.do(*START)


START = (
    act.ChooseProfile(), act.AssignPorts(), act.PrepareDevice(DATA.key), act.Define(new_run=True), act.Start(),
)  # fmt: skip
READY = START[:3]
"""The volume is prepared."""
END = (
    act.Destroy(), act.Undefine(), act.ReleaseDevice(DATA.key, final=True), act.RemoveFiles(), act.Forget(),
)  # fmt: skip


@pytest.fixture
def bench(store: Store, root: Path, clock: Clock) -> Bench:
    return Bench(store, root, clock)


def test_a_life_in_which_everything_is_asked_twice(bench: Bench) -> None:
    bench.put(machine(DATA))
    for action in START[:-2]:
        bench.do(action, action)
    bench.do(act.Define(new_run=True))
    run = bench.machine.run.uuid
    bench.do(act.Define(new_run=False), act.Start(), act.Start())
    assert bench.machine.profile == PROFILE
    assert bench.row().port == 1
    assert bench.machine.run.uuid == run
    snapshot = bench.connection.snapshot(ID)
    assert snapshot is not None
    assert snapshot.state is DomainState.RUNNING
    assert bench.row().alias in snapshot.live_xml
    for last in END:
        bench.do(last, last)
    assert bench.store.machine(ID) is None
    assert bench.connection.domain_ids() == []
    assert not bench.paths.root.exists()


@pytest.mark.parametrize("action", [*START, *END, act.PressButton(first=True), act.Resume()])
def test_a_machine_that_is_gone_is_none_of_anybodys_business(bench: Bench, action: Action) -> None:
    bench.do(action)
    assert not bench.fail(action, HypervisorError("x"))
    assert bench.store.events(ID) == []
    assert bench.drivers.calls == []


@pytest.mark.parametrize("action", [act.PrepareDevice(DATA.key), act.ReleaseDevice(DATA.key, final=False)])
def test_a_device_that_is_gone_neither(bench: Bench, action: Action) -> None:
    bench.put(machine())
    bench.do(action)
    assert not bench.fail(action, NotReady("x"))
    assert bench.drivers.calls == []


# --- devices -------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [DATA, replace(DATA, port=1, wanted=False)])
def test_what_has_no_port_or_is_wanted_no_more_is_not_prepared(bench: Bench, row: Attachment) -> None:
    bench.put(machine(row))
    bench.do(act.PrepareDevice(row.key))
    assert bench.drivers.calls == []
    assert bench.machine.attachments == (row,)


def test_a_device_that_is_not_ready_says_why_until_it_is(bench: Bench) -> None:
    bench.put(machine(DATA))
    bench.do(act.ChooseProfile(), act.AssignPorts())
    action = act.PrepareDevice(DATA.key)
    error = NotReady("the backend is away", "Start it.")
    bench.drivers.broken["data"] = error
    with pytest.raises(NotReady):
        bench.do(action)
    assert bench.fail(action, error)
    row = bench.row()
    assert (row.problem, row.problem_advice, row.problem_at) == ("the backend is away", "Start it.", T0)
    assert row.backing is None
    bench.drivers.broken.clear()
    bench.do(action)
    row = bench.row()
    assert (row.problem, row.problem_advice, row.problem_at) == ("", "", 0)
    assert row.backing is not None


def test_what_a_guest_has_of_a_volume_whose_record_was_lost_is_asked_for_as_such(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.put(machine(DATA))
    bench.do(act.ChooseProfile(), act.AssignPorts())
    had = DiskSource("had", "/had.raw", "raw", 1 << 20)
    monkeypatch.setattr(DeviceDriver, "prepare_plugged", lambda *_: had, raising=False)
    bench.do(act.PrepareDevice(DATA.key, plugged=True))
    assert bench.row().backing == had
    bench.do(act.PrepareDevice(DATA.key))
    assert isinstance(bench.row().backing, DiskSource)
    assert bench.row().backing.handle != "had"  # type: ignore[union-attr]


def test_a_failure_keeps_the_backing_that_is_in_the_domain(bench: Bench) -> None:
    bench.put(machine(DATA))
    bench.do(*READY)
    action = act.PrepareDevice(DATA.key)
    backing = bench.row().backing
    assert backing is not None
    assert bench.fail(action, OSError(28, "No space left on device", "/secret/path"))
    assert bench.row().backing == backing
    assert bench.row().problem == "No space left on device"


def test_image_and_seed_are_devices_too(bench: Bench) -> None:
    made = machine(IMAGE, SEED)
    made.spec.image.image = "/images/a.raw"
    made.spec.ignition_data = b"#cloud-config\n"
    bench.put(made)
    bench.do(act.ChooseProfile(), act.AssignPorts(), act.PrepareDevice(IMAGE.key), act.PrepareDevice(SEED.key))
    assert bench.drivers.calls == [("prepare", "image", "/images/a.raw")]
    assert all(row.backing for row in bench.machine.attachments)
    assert stat.S_IMODE(bench.paths.seed.stat().st_mode) == 0o600
    bench.do(act.ReleaseDevice(SEED.key, final=True), act.ReleaseDevice(IMAGE.key, final=True))
    assert not bench.paths.seed.exists()
    assert bench.machine.attachments == ()


def test_what_an_operator_should_know_of_a_device_is_told_once(bench: Bench) -> None:
    made = replace(machine(replace(SEED, port=1)), labels={LABEL_NAME: "n" * 64})
    made.spec.ignition_data = b"#cloud-config\n"
    bench.put(made)
    for _ in range(2):
        bench.do(act.PrepareDevice(SEED.key))
    (event,) = [each for each in bench.store.events(made.id) if each.reason == "noted"]
    assert event.message.startswith("the cloud-init seed: the guest is called nnn")
    assert notes(bench.machine) == [event.message]


def test_a_machine_of_an_older_rule_keeps_its_payload(bench: Bench) -> None:
    made = machine(profile=PROFILE)
    made.spec.ignition_data = b"#!/bin/sh\n"
    bench.put(made)
    bench.do(act.Define(new_run=True))
    assert bench.paths.ignition.read_bytes() == b"#!/bin/sh\n"
    assert "an older version made it so" in notes(bench.machine)[0]


@pytest.mark.parametrize(("final", "word"), [(True, "final"), (False, "kept")])
def test_a_release_says_whether_it_is_for_good(bench: Bench, final: bool, word: str) -> None:
    bench.put(machine(replace(DATA, wanted=final)))
    bench.do(act.ReleaseDevice(DATA.key, final=final))
    assert bench.drivers.calls == [("release", "data", word)]
    assert bench.machine.attachments == ()


def test_a_device_that_came_back_is_not_released(bench: Bench) -> None:
    bench.put(machine(DATA))
    bench.do(act.ReleaseDevice(DATA.key, final=False))
    assert bench.drivers.calls == []
    assert bench.machine.attachments == (DATA,)


def test_a_device_that_comes_back_during_its_release_is_prepared_anew(bench: Bench) -> None:
    bench.put(machine(replace(DATA, wanted=False, backing=DiskSource("h", "/d", "raw", 512))))
    bench.drivers.meanwhile = lambda: bench.store.write(lambda tx: tx.set_wanted(ID, DATA.key, True, T0 + 1))
    bench.do(act.ReleaseDevice(DATA.key, final=False))
    (row,) = bench.machine.attachments
    assert row.wanted
    assert row.backing is None


def test_a_device_is_plugged_once_it_is_prepared_and_has_a_port(bench: Bench) -> None:
    bench.put(machine())
    bench.do(act.ChooseProfile(), act.Define(new_run=True), act.Start())
    bench.store.write(lambda tx: tx.put_attachment(DATA))
    bench.do(act.PlugDevice(DATA.key))
    assert DATA.alias not in bench.snapshot().live_xml
    bench.do(act.AssignPorts(), act.PlugDevice(DATA.key))
    assert DATA.alias not in bench.snapshot().live_xml
    bench.do(act.PrepareDevice(DATA.key), act.PlugDevice(DATA.key))
    assert DATA.alias in bench.snapshot().live_xml
    assert DATA.alias not in bench.snapshot().persistent_xml
    assert [event.reason for event in bench.store.events(ID)][-1] == "attached"


def test_a_disk_keeps_the_settings_that_it_was_prepared_with_until_it_is_prepared_again(bench: Bench) -> None:
    """What is defined and what is plugged are made of the same stored row, whatever the host has become since."""
    now = DiskSettings("none", "io_uring")
    asked: list[ClassPolicy] = []

    def settle(policy: ClassPolicy, source: DiskSource) -> DiskSource:
        asked.append(policy)
        return replace(source, settings=now)

    def kept() -> DiskSettings:
        backing = bench.row().backing
        assert isinstance(backing, DiskSource)
        return backing.settings

    bench.performer = replace(bench.performer, settle=settle)
    made = machine(DATA)
    bench.put(replace(made, machine_class=replace(made.machine_class, policy=ClassPolicy(disk_io="native"))))
    bench.do(*START)
    assert (kept(), asked) == (now, [ClassPolicy(disk_io="native")])
    now = DiskSettings("writeback", "threads")
    bench.do(act.Define(new_run=False))
    assert kept() == DiskSettings("none", "io_uring")
    bench.do(act.PrepareDevice(DATA.key))
    assert kept() == now


def test_a_disk_whose_settings_cannot_be_found_out_is_not_prepared(bench: Bench) -> None:
    def settle(policy: ClassPolicy, source: DiskSource) -> DiskSource:
        raise NotReady("its file system hangs")

    bench.performer = replace(bench.performer, settle=settle)
    bench.put(machine(DATA))
    with pytest.raises(NotReady):
        bench.do(*READY)
    assert bench.row().backing is None


OTHER = "99999999-0000-4000-8000-000000000009"


def held(bench: Bench, handle: str, *, wanted: bool = True) -> Attachment:
    """Another machine has a volume ready whose bytes are those of DATA."""
    row = replace(DATA, machine=OTHER, wanted=wanted, port=1, backing=DiskSource(handle, "/d", "raw", 512))
    bench.store.write(lambda tx: tx.insert(replace(machine(row), id=OTHER)))
    return row


@pytest.mark.parametrize("wanted", [True, False])
def test_a_volume_that_another_machine_has_still_is_not_prepared(bench: Bench, wanted: bool) -> None:
    bench.put(machine(DATA))
    bench.do(*START[:2])
    row = held(bench, "handle-data", wanted=wanted)
    with pytest.raises(NotReady, match=f"machine {OTHER} has the volume still") as waits:
        bench.do(act.PrepareDevice(DATA.key))
    assert (waits.value.code, bench.drivers.calls) == ("held", []), "its backend is not even asked"
    bench.store.write(lambda tx: tx.delete_attachment(OTHER, row.key))
    bench.do(act.PrepareDevice(DATA.key))
    assert bench.row().backing is not None


def test_a_device_that_another_machine_has_by_another_name_is_not_prepared(bench: Bench) -> None:
    bench.put(machine(DATA))
    bench.do(*START[:2])
    number = "block:253:0@boot-1"
    row = replace(
        DATA, machine=OTHER, port=1, backing=DiskSource("other", "/dev/other", "raw", 512, kind="block", device=number)
    )
    bench.store.write(lambda tx: tx.insert(replace(machine(row), id=OTHER)))
    bench.performer = replace(bench.performer, settle=lambda _, source: replace(source, device=number))
    with pytest.raises(NotReady, match=f"machine {OTHER} has the volume still"):
        bench.do(act.PrepareDevice(DATA.key))
    assert bench.row().backing is None


def test_who_waits_for_a_volume_is_looked_at_as_soon_as_it_is_given_up(bench: Bench) -> None:
    bench.running()
    waiting = replace(
        DATA, machine=OTHER, problem="machine x has it still", problem_code="held", problem_at=bench.clock()
    )
    bench.store.write(lambda tx: tx.insert(replace(machine(waiting), id=OTHER)))
    bench.do(act.Destroy(), act.ReleaseDevice(DATA.key, final=True))
    assert bench.woken == [OTHER]
    found = bench.store.attachment(OTHER, DATA.key)
    assert found is not None
    assert (found.problem_at, found.problem_code) == (0, "held")


def test_of_two_machines_that_prepare_the_same_disk_at_once_one_has_it(bench: Bench) -> None:
    """By another handle, too: what counts is which bytes it is."""
    bench.put(machine(DATA))
    bench.do(*START[:2])
    bench.drivers.meanwhile = lambda: held(bench, "another handle")
    with pytest.raises(NotReady, match=f"machine {OTHER} has the volume still"):
        bench.do(act.PrepareDevice(DATA.key))
    assert bench.row().backing is None


def test_an_unplug_is_dated_and_not_sent_for_what_came_back(bench: Bench) -> None:
    bench.put(machine(DATA))
    bench.do(*START)
    bench.do(act.UnplugDevice(DATA.key))
    assert DATA.alias in bench.snapshot().live_xml
    bench.store.write(lambda tx: tx.set_wanted(ID, DATA.key, False, T0 + 1))
    bench.do(act.UnplugDevice(DATA.key))
    assert DATA.alias not in bench.snapshot().live_xml
    assert bench.machine.attachments[0].unplug_at > 0


def test_a_release_that_fails_keeps_the_row(bench: Bench) -> None:
    bench.put(machine(DATA))
    action = act.ReleaseDevice(DATA.key, final=True)
    bench.drivers.broken["data"] = NotReady("busy")
    with pytest.raises(NotReady):
        bench.do(action)
    assert bench.fail(action, NotReady("busy"))
    assert bench.row().problem == "busy"


def test_a_network_interface_without_a_network_has_no_driver_to_release_it(bench: Bench) -> None:
    row = nic_row(network="")
    bench.put(machine(row))
    bench.do(act.ReleaseDevice(row.key, final=True))
    assert bench.drivers.calls == []
    assert bench.machine.attachments == ()


def test_devices_fail_each_by_itself_and_everything_else_in_order(bench: Bench) -> None:
    independent = {type(action).__name__ for action in (*START, *END) if bench.performer.independent(action)}
    assert independent == {"PrepareDevice", "ReleaseDevice"}


# --- define and start ----------------------------------------------------------------------------


def test_a_run_is_known_before_the_domain_has_it(bench: Bench) -> None:
    bench.put(
        machine(DATA, run=Run(uuid="old", failures=2, not_before=7, error="no"), stop_event=StopEvent("", "x", 5))
    )
    bench.do(*START[:3])
    bench.hypervisor.fail_next("define", HypervisorError("refused"))
    with pytest.raises(HypervisorError):
        bench.do(act.Define(new_run=True))
    run = bench.machine.run
    assert run.uuid not in ("", "old")
    assert (run.boot_id, run.failures, run.not_before, run.error) == ("boot-1", 2, 7, "no")
    assert run.started_at == 0
    assert bench.machine.stop_event is None, "it was of the run before"


def test_a_define_of_the_same_run_changes_no_run(bench: Bench) -> None:
    bench.running()
    before = bench.machine.run
    bench.do(act.Define(new_run=False))
    assert bench.machine.run == before


def test_only_what_is_wanted_prepared_and_has_a_port_is_defined(bench: Bench) -> None:
    rows = [
        volume_row("in", port=1), volume_row("unprepared", port=2), volume_row("no-port"),
        volume_row("unwanted", port=3, wanted=False),
    ]  # fmt: skip
    bench.put(machine(*rows, profile=PROFILE))
    bench.do(*(act.PrepareDevice(row.key) for row in rows if row.name != "unprepared"), act.Define(new_run=True))
    snapshot = bench.connection.snapshot(ID)
    assert snapshot is not None
    assert [row.name for row in rows if row.alias in snapshot.persistent_xml] == ["in"]


def test_what_libvirt_did_not_keep_is_told(bench: Bench) -> None:
    bench.put(machine(profile=PROFILE))
    bench.compiler.lost = ["address of balloon is '', not '03.0'"]
    with pytest.raises(HypervisorError, match="did not keep what was defined: address of balloon"):
        bench.do(act.Define(new_run=True))


def test_ignition_is_there_before_the_start_and_private(bench: Bench) -> None:
    made = machine(profile=PROFILE)
    made.spec.ignition_data = b'{"ignition": {}}'
    bench.put(made)
    bench.do(act.Define(new_run=True))
    assert bench.paths.ignition.read_bytes() == b'{"ignition": {}}'
    assert stat.S_IMODE(bench.paths.ignition.stat().st_mode) == 0o600
    assert stat.S_IMODE(bench.paths.root.stat().st_mode) == 0o711


def test_a_start_forgets_how_the_last_run_ended(bench: Bench) -> None:
    bench.running()
    bench.do(act.Destroy())
    failed = replace(bench.machine.run, failures=3, not_before=T0 + SECOND, error="no")
    bench.store.write(lambda tx: tx.set_run(ID, failed))
    bench.clock.now += 5 * SECOND
    bench.do(act.Start())
    run = bench.machine.run
    assert (run.started_at, run.pressed_at, run.last_press_at) == (T0 + 5 * SECOND, 0, 0)
    assert (run.not_before, run.error, run.failures) == (0, "", 3)
    assert [kind for kind, _, _ in bench.told()] == ["started", "started"]


@pytest.mark.parametrize(("restore", "reason"), [(True, "restored"), (False, "booted")])
def test_a_managed_save_is_restored_or_dropped(bench: Bench, restore: bool, reason: str) -> None:
    bench.running()
    bench.hypervisor.save(ID)
    bench.do(act.Start(restore=restore))
    snapshot = bench.connection.snapshot(ID)
    assert snapshot is not None
    assert (snapshot.reason, snapshot.managed_save) == (reason, False)
    assert bench.told()[-1][:2] == ("started", reason)


@pytest.mark.parametrize("action", [action for action in START if not isinstance(action, act.PrepareDevice)])
def test_a_start_that_fails_waits_longer_each_time(bench: Bench, action: Action) -> None:
    bench.put(machine())
    for wait in (1, 2, 4):
        assert bench.fail(action, HypervisorError("out of memory"))
        assert bench.machine.run.not_before == T0 + wait * SECOND
    run = bench.machine.run
    assert (run.failures, run.error) == (3, "out of memory")
    assert bench.told() == [("failed", "start-failed", 0)] * 3


# --- stop ----------------------------------------------------------------------------------------


def test_the_first_press_begins_the_grace_time_and_later_ones_do_not(bench: Bench) -> None:
    bench.running()
    bench.hypervisor.set_deaf(ID)
    bench.do(act.PressButton(first=True))
    bench.clock.now += 5 * SECOND
    bench.do(act.PressButton(first=False))
    run = bench.machine.run
    assert (run.pressed_at, run.last_press_at) == (T0, T0 + 5 * SECOND)


def test_the_grace_time_begins_with_a_press_that_fails_too(bench: Bench) -> None:
    bench.running()
    bench.hypervisor.fail_next("press_power_button", HypervisorError("QEMU does not answer"))
    with pytest.raises(HypervisorError):
        bench.do(act.PressButton(first=True))
    assert (bench.machine.run.pressed_at, bench.machine.run.last_press_at) == (T0, T0)


def test_a_destroy_is_known_for_ours_even_if_it_fails_half_way(bench: Bench) -> None:
    bench.running()
    bench.hypervisor.fail_next("destroy", HypervisorError("stuck"))
    with pytest.raises(HypervisorError):
        bench.do(act.Destroy())
    assert bench.machine.run.pressed_at == T0
    bench.clock.now += SECOND
    bench.do(act.Destroy())
    assert bench.machine.run.pressed_at == T0


def test_a_resume_is_remembered(bench: Bench) -> None:
    bench.running()
    bench.hypervisor.pause(ID, "io error")
    bench.do(act.Resume())
    snapshot = bench.connection.snapshot(ID)
    assert snapshot is not None
    assert snapshot.state is DomainState.RUNNING
    assert bench.machine.run.resumed_at == T0


@pytest.mark.parametrize("action", [act.PressButton(first=True), act.Resume(), *END[:2], *END[3:]])
def test_what_else_fails_is_told_and_only_time_helps(bench: Bench, action: Action) -> None:
    bench.put(machine())
    assert not bench.fail(action, HypervisorError("stuck"))
    assert not bench.fail(action, HypervisorError("stuck"))
    assert bench.told() == [("failed", "action-failed", 0)], "once"
    (reason,) = bench.machine.reasons
    assert (reason.code, reason.action, reason.since) == ("action-failed", type(action).__name__, T0)
    assert bench.machine.run == Run()


def test_the_spec_is_never_changed(bench: Bench) -> None:
    bench.running()
    expected = pb.MachineSpec(volumes=[DATA.volume()])
    assert bench.machine.spec == expected


def test_a_define_tells_of_what_others_had_changed(bench: Bench) -> None:
    bench.put(machine(DATA))
    bench.do(*READY, act.Define(new_run=False))
    assert ("drift", "undone", 0) not in bench.told(), "nothing was there before"
    edited = bench.snapshot().persistent_xml.replace("<devices>", "<devices><filesystem><target dir='x'/></filesystem>")
    bench.connection.define(edited)
    bench.do(act.Define(new_run=False))
    (event,) = [event for event in bench.store.events(ID) if event.reason == "undone"]
    assert "there was filesystem x" in event.message
    bench.do(act.Define(new_run=False))
    assert [reason for _, reason, _ in bench.told()].count("undone") == 1


def test_the_persistent_domain_follows_a_moved_disk(bench: Bench) -> None:
    bench.running()
    alias = bench.row().alias
    theirs = f"<disk type='file'><source file='/b/snap'/><alias name='{alias}'/></disk>"
    bench.connection.destroy(ID)
    persistent = bench.snapshot().persistent_xml
    bench.connection.define(persistent.replace(bench.compiler.device_xml(bench.machine, bench.row()), theirs))
    bench.connection.start(ID)
    bench.connection.define(persistent)
    bench.do(act.FollowDisk(bench.row().key))
    assert "/b/snap" in bench.snapshot().persistent_xml
    assert ("drift", "followed", 0) in bench.told()


def grown(bench: Bench, size: int, found: int) -> None:
    """Ask the running guest's volume, of 512 bytes, to have `size`, when the latest look has found `found`."""
    bench.drivers.sizes["data"] = found
    bench.do(act.ResizeDisk(DATA.key, size))


def test_a_disk_that_has_grown_is_seen_by_its_guest_and_told_of(bench: Bench) -> None:
    bench.running()
    for _ in range(2):
        grown(bench, 2048, found=2048)
    backing = bench.row().backing
    assert isinstance(backing, DiskSource)
    assert backing.size == 2048
    assert bench.hypervisor.disk_sizes(ID) == {"vda": 2048}
    (event,) = [event for event in bench.store.events(ID) if event.reason == "grown"]
    assert event.message == 'volume "data" has grown from 512 B to 2 KiB'


@pytest.mark.parametrize(("size", "found"), [(2048, 1024), (2048, 4096), (2048, 0), (256, 256), (512, 512)])
def test_no_disk_is_asked_for_another_size_than_the_latest_look_found_nor_cut(
    bench: Bench, size: int, found: int
) -> None:
    bench.running()
    grown(bench, size, found)
    assert bench.hypervisor.disk_sizes(ID) == {}
    backing = bench.row().backing
    assert isinstance(backing, DiskSource)
    assert backing.size == 512


def test_a_disk_that_qemu_cannot_resize_is_not_tried(bench: Bench) -> None:
    bench.running()
    nbd = DiskSource("h", "", "raw", 512, kind="network", protocol="nbd")
    bench.store.write(lambda tx: tx.set_backing(ID, DATA.key, nbd))
    grown(bench, 2048, found=2048)
    assert bench.hypervisor.disk_sizes(ID) == {}


def test_a_resize_that_fails_leaves_what_is_known_and_is_tried_again(bench: Bench) -> None:
    bench.running()
    bench.hypervisor.fail_next("resize_disk", HypervisorError("Cannot grow device files"))
    with pytest.raises(HypervisorError):
        grown(bench, 2048, found=2048)
    assert not bench.fail(act.ResizeDisk(DATA.key, 2048), HypervisorError("Cannot grow device files"))
    assert bench.row().backing == DiskSource("handle-data", "/d", "raw", 512)
    (reason,) = bench.machine.reasons
    assert (reason.code, reason.action) == ("action-failed", "ResizeDisk")
    grown(bench, 2048, found=2048)
    assert bench.hypervisor.disk_sizes(ID) == {"vda": 2048}


def test_a_path_that_a_driver_has_changed_is_ours_until_the_next(bench: Bench) -> None:
    bench.put(machine(replace(DATA, backing=DiskSource("h", "/before", "raw", 512), port=1)))
    bench.do(act.PrepareDevice(DATA.key))
    for _ in range(2):
        found = bench.row().backing
        assert isinstance(found, DiskSource)
        assert (found.path, found.was) == ("/d", ("/before",))
        bench.do(act.PrepareDevice(DATA.key))


# --- secrets -------------------------------------------------------------------------------------


def locked(bench: Bench) -> str:
    """A machine with an encrypted volume; the UUID of its secret."""
    bench.drivers.passphrases["data"] = b"open sesame"
    bench.put(machine(DATA))
    bench.do(*READY)
    (secret,) = bench.row().backing.secrets  # type: ignore[union-attr]
    return secret.uuid


def opened(bench: Bench, uuid: str) -> bool:
    """Whether a disk was opened since the last look; the secret is gone either way."""
    assert bench.hypervisor.secrets == {}
    return bench.hypervisor.opened_with.pop(uuid, b"") == b"open sesame"


def test_a_start_a_restore_and_a_plug_have_the_secrets_and_leave_none(bench: Bench) -> None:
    uuid = locked(bench)
    bench.do(act.Define(new_run=True))
    assert not opened(bench, uuid)
    bench.do(act.Start())
    assert opened(bench, uuid)
    bench.hypervisor.save(ID)
    bench.do(act.Start(restore=True))
    assert bench.snapshot().reason == "restored"
    assert opened(bench, uuid)
    bench.hypervisor.eject(ID, bench.row().alias)
    bench.do(act.PlugDevice(DATA.key))
    assert bench.row().alias in bench.snapshot().live_xml
    assert opened(bench, uuid)


def test_a_start_that_fails_leaves_no_secret(bench: Bench) -> None:
    locked(bench)
    bench.do(act.Define(new_run=True))
    bench.hypervisor.fail_next("start", HypervisorError("no QEMU"))
    with pytest.raises(HypervisorError, match="no QEMU"):
        bench.do(act.Start())
    assert bench.hypervisor.secrets == {}


def test_a_run_that_is_restored_after_a_reboot_is_of_the_boot_that_it_runs_in(bench: Bench) -> None:
    bench.put(machine())
    bench.do(act.ChooseProfile(), act.Define(new_run=True), act.Start())
    bench.hypervisor.save(ID)
    bench.performer = replace(bench.performer, boot_id=lambda: "boot-2")
    bench.do(act.Start(restore=True))
    assert bench.machine.run.boot_id == "boot-2"


def test_a_saved_guest_gets_the_secret_of_a_disk_that_was_being_unplugged(bench: Bench) -> None:
    uuid = locked(bench)
    bench.do(act.Define(new_run=True), act.Start())
    bench.hypervisor.save(ID)
    bench.hypervisor.opened_with.clear()
    bench.store.write(lambda tx: tx.set_wanted(ID, DATA.key, False, T0))
    bench.do(act.Start(restore=True))
    assert opened(bench, uuid)


def test_a_volume_whose_secret_is_gone_says_so_and_holds_up_no_other(bench: Bench) -> None:
    locked(bench)
    bench.drivers.passphrases.clear()
    for action in (act.PlugDevice(DATA.key), act.Start()):
        with pytest.raises(NotReady, match="has no secret") as refused:
            bench.do(act.Define(new_run=True), action)
        assert bench.fail(action, refused.value)
    assert "has no secret for encryption" in bench.row().problem
    assert "has no secret for encryption" in bench.machine.run.error


def test_reason_address_taken_names_the_machine_that_has_it(bench: Bench) -> None:
    asked = nic_row("eth")
    bench.put(machine(asked, nic_row("other", mac="02:00:00:00:00:02")))
    owner = bench.row("other")
    bench.do(act.ChooseProfile(), act.AssignPorts())
    for mac, words in (
        (owner.mac, f"that of machine {ID}: it is leased"),
        ("52:54:00:00:00:99", "taken: it is leased"),
    ):
        bench.drivers.broken["eth"] = AddressHeld("10.0.0.7", "it is leased", mac)
        with pytest.raises(AddressHeld, match=words) as caught:
            bench.do(act.PrepareDevice(asked.key))
        assert bench.fail(act.PrepareDevice(asked.key), caught.value)
        assert bench.row("eth").problem_code == "address-taken"


def test_what_the_network_map_leads_elsewhere_is_released_when_the_guest_has_it_no_more(bench: Bench) -> None:
    asked = nic_row("eth")
    bench.put(machine(asked))
    prepare = act.PrepareDevice(asked.key)
    bench.do(act.ChooseProfile(), act.AssignPorts(), prepare, act.Define(new_run=True), act.Start())
    old = NicBackend("handle-eth", "network", "before", driver="device")
    bench.store.write(lambda tx: tx.set_backing(ID, asked.key, old))
    with pytest.raises(NotReady, match="the network map leads it elsewhere") as caught:
        bench.do(prepare)
    assert "OFF and ON" in caught.value.advice
    assert (bench.row("eth").backing, [call for call in bench.drivers.calls if call[0] == "release"]) == (old, [])
    bench.do(act.Destroy(), prepare)
    assert [call[:2] for call in bench.drivers.calls if call[0] == "release"] == [("release", "eth")]
    assert bench.row("eth").backing == replace(old, network="net", queues=1)


def test_a_guest_that_is_kept_from_the_kernels_help_has_its_nic_without_it_and_is_told_of(bench: Bench) -> None:
    row = nic_row("eth")
    bench.put(machine(row))
    bench.do(act.ChooseProfile(), act.AssignPorts(), act.Define(new_run=True), act.Start(), act.PrepareDevice(row.key))
    bench.hypervisor.fail_next("attach_device", DescriptorRefused("no"))
    bench.do(act.PlugDevice(row.key))
    domain = bench.hypervisor.connect().snapshot(ID)
    assert domain is not None
    assert '<driver name="qemu"/>' in domain.live_xml
    assert any("carried by QEMU alone" in event.message for event in bench.store.events(ID))
    assert bench.row("eth").plugged_at


def test_a_disk_that_another_program_holds_is_in_use(bench: Bench) -> None:
    row = volume_row("data")
    bench.put(machine(row))
    bench.do(act.ChooseProfile(), act.AssignPorts(), act.Define(new_run=True), act.Start(), act.PrepareDevice(row.key))
    bench.hypervisor.fail_next("attach_device", DiskLocked('Failed to get "write" lock'))
    with pytest.raises(DiskLocked) as caught:
        bench.do(act.PlugDevice(row.key))
    assert bench.fail(act.PlugDevice(row.key), caught.value)
    assert bench.row("data").problem_code == "in-use"


def test_a_disk_that_its_guest_is_kept_from_is_not_tried_in_another_way(bench: Bench) -> None:
    row = volume_row("data")
    bench.put(machine(row))
    bench.do(act.ChooseProfile(), act.AssignPorts(), act.Define(new_run=True), act.Start(), act.PrepareDevice(row.key))
    bench.hypervisor.fail_next("attach_device", DescriptorRefused("no"))
    with pytest.raises(DescriptorRefused):
        bench.do(act.PlugDevice(row.key))
