"""What machines do under a whole provider on the fake hypervisor, from their creation to their end, and in trouble."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import HypervisorError
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.hypervisor.fake_networks import FakeNetwork
from sri_libvirt.reconcile.sources import wake_all
from sri_libvirt.records import SECOND, StopCause
from tests.contract.loop import MIB, FakeHost, Loop, Witness, disk, serving_loop, spec_of, until
from tests.contract.refusal import refused


@pytest.fixture
def hypervisor(tmp_path: Path) -> FakeHypervisor:
    return FakeHypervisor(tmp_path / "fake.json")


@pytest.fixture
def witness(hypervisor: FakeHypervisor) -> Witness:
    witness = Witness()
    hypervisor.watch(witness)
    return witness


@pytest.fixture
async def loop(tmp_path: Path, hypervisor: FakeHypervisor) -> AsyncIterator[Loop]:
    async with serving_loop(tmp_path, hypervisor) as loop:
        yield loop


# --- create, power, delete -----------------------------------------------------------------------


@pytest.mark.rule("R-A3-8", "R-A4-8", "R-G9-3", "R-G11-1")
async def test_a_machine_runs_with_its_devices_and_then_rests(loop: Loop, witness: Witness) -> None:
    machine_id = await loop.created(spec_of(disks=("zeta", "alpha"), nics=("isolated", "")))
    first = await loop.machines()
    status = first[0].status
    assert [(each.name, each.state) for each in status.volumes] == [
        ("zeta", pb.VOLUME_ATTACHED),
        ("alpha", pb.VOLUME_ATTACHED),
    ]
    assert [each.state for each in status.network_interfaces] == [
        pb.NETWORK_INTERFACE_ATTACHED,
        pb.NETWORK_INTERFACE_PENDING,
    ]
    assert all(each.handle for each in status.volumes)
    assert loop.codes(machine_id) == ["network-unknown"]
    assert len(loop.persistent(machine_id).devices) == 3
    wake_all(loop.store, loop.provider.queue)
    await asyncio.sleep(1)  # the rest itself is what is tested
    assert await loop.machines() == first
    assert witness.starts(machine_id) == 1
    assert len(loop.told(machine_id)) == len(set(loop.told(machine_id)))


async def test_power_off_and_on_is_a_new_run_of_the_same_hardware(loop: Loop, witness: Witness) -> None:
    machine_id = await loop.created(spec_of(disks=("data",)))
    run, before = loop.stored(machine_id).run, loop.persistent(machine_id)
    await loop.off(machine_id)
    assert loop.stored(machine_id).run.stopped is StopCause.REQUESTED
    assert (await loop.machine(machine_id)).status.volumes[0].state == pb.VOLUME_ATTACHED
    await loop.on(machine_id)
    after = loop.persistent(machine_id)
    assert after.devices == before.devices
    assert after.addresses == before.addresses
    assert loop.stored(machine_id).run.uuid not in ("", run.uuid)
    assert witness.starts(machine_id) == 2


async def test_a_machine_that_is_created_off_is_prepared_and_not_started(loop: Loop, witness: Witness) -> None:
    machine_id = await loop.create(spec_of(power=pb.POWER_OFF, disks=("data",)))
    await until("disk", lambda: loop.stored(machine_id).attachments[0].port)
    await loop.state(machine_id, "SUSPENDED")
    assert witness.starts(machine_id) == 0
    await loop.on(machine_id)


@pytest.mark.rule("R-G10-1")
async def test_a_deaf_guest_is_destroyed_after_the_grace_time(loop: Loop) -> None:
    machine_id = await loop.created()
    loop.hypervisor.set_deaf(machine_id)
    await loop.power(machine_id, pb.POWER_OFF)
    await loop.reason(machine_id, "shutting-down")
    await loop.state(machine_id, "SUSPENDED")
    assert ("destroy", "grace-over") in loop.told(machine_id)
    run = loop.stored(machine_id).run
    assert run.stopped is StopCause.REQUESTED
    assert run.stopped_at - run.pressed_at >= 1_000_000_000


@pytest.mark.parametrize("power", [pb.POWER_ON, pb.POWER_OFF])
@pytest.mark.rule("R-A5-5")
async def test_delete_leaves_nothing(loop: Loop, power: pb.Power) -> None:
    machine_id = await loop.create(spec_of(power=power, disks=("data",), nics=("isolated",)))
    await loop.state(machine_id, "RUNNING" if power == pb.POWER_ON else "SUSPENDED")
    await loop.delete(machine_id)
    await loop.gone(machine_id)
    assert loop.left_over() == ([], [])
    async with refused(grpc.StatusCode.NOT_FOUND):
        await loop.delete(machine_id)


@pytest.mark.rule("R-A11-2", "R-G11-3")
async def test_delete_of_a_deaf_guest_is_running_until_it_is_off(loop: Loop) -> None:
    machine_id = await loop.created()
    loop.hypervisor.set_deaf(machine_id)
    await loop.delete(machine_id)
    await loop.reason(machine_id, "shutting-down")
    assert (await loop.machine(machine_id)).status.state == pb.MACHINE_RUNNING
    await loop.gone(machine_id)


async def test_delete_of_a_machine_that_never_started(loop: Loop) -> None:
    machine_id = await loop.create(spec_of(nics=("no-such-network",)))
    await loop.reason(machine_id, "device-not-ready")
    await loop.delete(machine_id)
    await loop.gone(machine_id)
    assert loop.left_over() == ([], [])


# --- changes of a running machine ----------------------------------------------------------------


async def test_an_attach_to_a_running_machine_is_plugged_and_kept_by_a_cold_boot(loop: Loop, witness: Witness) -> None:
    machine_id = await loop.created(spec_of(disks=("data",)))
    request = pb.AttachVolumeRequest(machine_id=machine_id, volume=disk("late"))
    await loop.stub.AttachVolume(request)
    await loop.stub.AttachVolume(request)  # equal: no new generation
    await until("plug", lambda: len(loop.live(machine_id).devices) == 2)
    machine = await loop.observed(machine_id)
    assert machine.metadata.generation == 2
    await until("persistent side", lambda: loop.persistent(machine_id).devices == loop.live(machine_id).devices)
    before = loop.live(machine_id).devices
    await until(
        "status", lambda: [each.state for each in loop.stored(machine_id).status.volumes] == [pb.VOLUME_ATTACHED] * 2
    )
    assert witness.starts(machine_id) == 1
    await loop.off(machine_id)
    await loop.on(machine_id)
    assert loop.live(machine_id).devices == before
    assert loop.codes(machine_id) == []


async def test_a_detach_from_a_running_machine_settles_and_the_data_survives(loop: Loop) -> None:
    machine_id = await loop.created(spec_of(disks=("data", "other")))
    files = set(loop.paths.machine(machine_id).root.glob("*.qcow2"))
    alias = next(row.alias for row in loop.stored(machine_id).attachments if row.name == "data")
    request = pb.DetachVolumeRequest(machine_id=machine_id, name="data")
    await loop.stub.DetachVolume(request)
    async with refused(grpc.StatusCode.NOT_FOUND):
        await loop.stub.DetachVolume(request)
    machine = await loop.observed(machine_id)
    assert [each.name for each in machine.spec.volumes] == [each.name for each in machine.status.volumes] == ["other"]
    await loop.reason(machine_id, "detach-settles")
    assert alias in loop.live(machine_id).devices
    await until("unplug", lambda: alias not in loop.live(machine_id).devices)
    await until("row gone", lambda: len(loop.stored(machine_id).attachments) == 1)
    assert alias not in loop.persistent(machine_id).devices
    assert set(loop.paths.machine(machine_id).root.glob("*.qcow2")) == files
    assert len(files) == 2
    assert loop.codes(machine_id) == []
    await loop.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=disk("data")))
    await until("plug", lambda: len(loop.live(machine_id).devices) == 2)
    assert set(loop.paths.machine(machine_id).root.glob("*.qcow2")) == files


async def test_a_guest_that_ignores_unplug_is_asked_until_its_reset(loop: Loop, hypervisor: FakeHypervisor) -> None:
    machine_id = await loop.created(spec_of(disks=("data", "other")))
    hypervisor.set_deaf_to_unplug(machine_id)
    await loop.stub.DetachVolume(pb.DetachVolumeRequest(machine_id=machine_id, name="data"))
    await loop.reason(machine_id, "unplugging")
    await loop.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=disk("data")))
    await until("rest", lambda: loop.codes(machine_id) == [])
    before = loop.live(machine_id).devices
    hypervisor.reset(machine_id)  # completes the unplug that was sent, although the disk is wanted again
    await until("plugged anew", lambda: loop.live(machine_id).devices == before)


async def test_all_volumes_detached_at_once_are_held_and_nothing_happens_when_they_come_back(
    tmp_path: Path, hypervisor: FakeHypervisor
) -> None:
    # A settle time that also a busy machine keeps between the two calls.
    async with serving_loop(tmp_path, hypervisor, detach_settle=5 * SECOND) as loop:
        machine_id = await loop.created(spec_of(disks=("data", "other")))
        before = loop.live(machine_id).devices
        for name in ("data", "other"):
            await loop.stub.DetachVolume(pb.DetachVolumeRequest(machine_id=machine_id, name=name))
        await until("hold of both", lambda: loop.codes(machine_id) == ["detach-held"] * 2, loop.explain)
        for name in ("data", "other"):
            await loop.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=disk(name)))
        await until("rest", lambda: loop.codes(machine_id) == [])
        assert loop.live(machine_id).devices == before
        assert not any(row.unplug_at for row in loop.stored(machine_id).attachments)


async def test_a_plug_that_fails_is_tried_again(loop: Loop, hypervisor: FakeHypervisor) -> None:
    machine_id = await loop.created()
    hypervisor.fail_next("attach_device", HypervisorError("libvirt could not plug the device: no"))
    await loop.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=disk("late")))
    assert "no" in await loop.reason(machine_id, "device-not-ready")
    await until("plug", lambda: len(loop.live(machine_id).devices) == 1)
    await until("rest", lambda: loop.codes(machine_id) == [])


async def test_a_detach_and_the_same_attach_change_nothing(loop: Loop) -> None:
    machine_id = await loop.created(spec_of(disks=("data",)))
    before = loop.stored(machine_id).attachments
    await loop.stub.DetachVolume(pb.DetachVolumeRequest(machine_id=machine_id, name="data"))
    await loop.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=disk("data")))
    machine = await loop.observed(machine_id)
    assert machine.status.volumes[0].state == pb.VOLUME_ATTACHED
    await until("rest", lambda: loop.codes(machine_id) == [])
    after = loop.stored(machine_id).attachments
    assert [(row.alias, row.port) for row in after] == [(row.alias, row.port) for row in before]


async def test_another_disk_of_the_same_name_waits_for_the_older(loop: Loop, hypervisor: FakeHypervisor) -> None:
    machine_id = await loop.created(spec_of(disks=("data",)))
    hypervisor.set_deaf_to_unplug(machine_id)
    await loop.stub.DetachVolume(pb.DetachVolumeRequest(machine_id=machine_id, name="data"))
    larger = pb.Volume(name="data", empty_disk=pb.EmptyDisk(size_bytes=2 * MIB))
    await loop.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=larger))
    machine = await loop.observed(machine_id)
    assert machine.status.volumes[0].state == pb.VOLUME_PENDING
    await loop.reason(machine_id, "older-device-first")
    hypervisor.set_deaf_to_unplug(machine_id, False)
    await until("the newer alone", lambda: [row.incarnation for row in loop.stored(machine_id).attachments] == [2])
    await until("plug", lambda: loop.stored(machine_id).status.volumes[0].state == pb.VOLUME_ATTACHED)
    assert len(loop.live(machine_id).devices) == 1


async def test_a_network_interface_gets_its_network_later(loop: Loop) -> None:
    machine_id = await loop.created(spec_of(nics=("",)))
    await loop.stub.DetachNetworkInterface(pb.DetachNetworkInterfaceRequest(machine_id=machine_id, name="nic-"))
    nic = pb.NetworkInterface(name="nic-", network_id="isolated")
    await loop.stub.AttachNetworkInterface(
        pb.AttachNetworkInterfaceRequest(machine_id=machine_id, network_interface=nic)
    )
    attached = [pb.NETWORK_INTERFACE_ATTACHED]
    await until("plug", lambda: [each.state for each in loop.stored(machine_id).status.network_interfaces] == attached)
    await until("rest", lambda: loop.codes(machine_id) == [])


async def test_an_address_is_one_machines_until_it_lets_it_go(loop: Loop) -> None:
    """Reserved before the guest has its device, given up when that is gone, and said whose it is meanwhile."""
    loop.hypervisor.networks["lan"] = network = FakeNetwork(forward="nat")
    spec = spec_of()
    spec.network_interfaces.add(name="eth", network_id="lan", ips=["10.0.0.7", "2001:db8::7"])
    first = await loop.created(spec)
    mac = loop.stored(first).attachments[0].mac
    assert network.reserved == [[mac, "10.0.0.7"]]
    second = await loop.create(spec)
    message = await loop.reason(second, "address-taken")
    assert f"10.0.0.7 is that of machine {first}" in message
    await loop.delete(first)
    await loop.gone(first)
    await loop.state(second, "RUNNING")
    assert network.reserved == [[loop.stored(second).attachments[0].mac, "10.0.0.7"]]
    await loop.stub.DetachNetworkInterface(pb.DetachNetworkInterfaceRequest(machine_id=second, name="eth"))
    await until("the release", lambda: not loop.stored(second).attachments)
    assert network.reserved == []


async def test_addresses_that_no_interface_can_have_are_refused(loop: Loop) -> None:
    spec = spec_of()
    spec.network_interfaces.add(name="eth", network_id="", ips=["10.0.0.7", "10.0.0.300"])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await loop.create(spec)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "network_interfaces[0].ips[1]" in str(caught.value.details())


async def test_annotations_are_no_new_generation_and_restart_nothing(loop: Loop, witness: Witness) -> None:
    machine_id = await loop.created()
    before = await loop.machine(machine_id)
    request = pb.UpdateMachineAnnotationsRequest(machine_id=machine_id, annotations={"colour": "blue"})
    await loop.stub.UpdateMachineAnnotations(request)
    after = await loop.machine(machine_id)
    assert after.metadata.annotations == {"colour": "blue"}
    assert after.metadata.generation == before.metadata.generation == 1
    assert after.status == before.status
    await loop.off(machine_id)
    assert (await loop.machine(machine_id)).metadata.annotations == {"colour": "blue"}
    assert witness.starts(machine_id) == 1


# --- libvirt in trouble --------------------------------------------------------------------------


@pytest.mark.rule("R-A1-5", "R-G6-2", "R-G6-4", "R-G11-4")
async def test_libvirt_away_and_back(loop: Loop, witness: Witness) -> None:
    machine_id = await loop.created(spec_of(disks=("data",)))
    assert await loop.health("libvirt") == "SERVING"
    before = (await loop.machine(machine_id)).status
    loop.hypervisor.set_reachable(False)
    await loop.reason(machine_id, "unreachable")
    await loop.power(machine_id, pb.POWER_OFF)
    late = await loop.create()
    await loop.reason(late, "unreachable")
    machine = await loop.machine(machine_id)
    assert machine.metadata.generation == 2
    assert machine.status == before, "generation 2 counts as observed, or what was known was lost"
    assert await loop.health("libvirt") == "NOT_SERVING"
    assert await loop.health("") == "SERVING"
    loop.hypervisor.set_reachable(True)
    await loop.state(machine_id, "SUSPENDED")
    await loop.state(late, "RUNNING")
    assert await loop.health("libvirt") == "SERVING"
    assert witness.starts(machine_id) == 1


async def test_a_restart_of_libvirt_starts_nothing_again(loop: Loop, witness: Witness) -> None:
    machine_id = await loop.created()
    loop.hypervisor.set_reachable(False)
    await loop.reason(machine_id, "unreachable")
    loop.hypervisor.set_reachable(True)
    await until("rest", lambda: loop.codes(machine_id) == [])
    assert witness.starts(machine_id) == 1
    assert (await loop.machine(machine_id)).status.state == pb.MACHINE_RUNNING


@pytest.mark.parametrize("method", ["define", "start"])
async def test_a_start_that_fails_is_tried_again_with_back_off(loop: Loop, method: str, witness: Witness) -> None:
    loop.hypervisor.fail_next(method, HypervisorError("no bytes left"), HypervisorError("no bytes left"))
    machine_id = await loop.create()
    assert "no bytes left" in await loop.reason(machine_id, "start-failed")
    assert (await loop.machine(machine_id)).status.state == pb.MACHINE_PENDING
    await loop.state(machine_id, "RUNNING")
    assert loop.told(machine_id).count(("failed", "start-failed")) == 2
    await until("rest", lambda: loop.codes(machine_id) == [])
    assert witness.starts(machine_id) == 1


@pytest.mark.rule("R-A5-6")
async def test_a_call_that_hangs_holds_up_its_own_machine_only(loop: Loop) -> None:
    stuck = await loop.created()
    release = loop.hypervisor.hang("press_power_button")
    try:
        await loop.power(stuck, pb.POWER_OFF)
        await loop.observed(stuck)  # recorded before the call
        others = [await loop.create(spec_of(disks=("data",))) for _ in range(4)]
        for other in others:
            await loop.state(other, "RUNNING")
        assert (await loop.machine(stuck)).status.state == pb.MACHINE_RUNNING
        assert loop.provider.metrics.registry.get_sample_value(
            "sri_libvirt_actions_total", {"action": "PressButton", "outcome": "ok"}
        ) is None  # fmt: skip
    finally:
        release()
    await loop.state(stuck, "SUSPENDED")


@pytest.mark.rule("R-G9-1", "R-G13-1")
async def test_a_device_that_is_not_ready_is_waited_for(loop: Loop) -> None:
    machine_id = await loop.create(spec_of(nics=("lan",)))
    assert "lan" in await loop.reason(machine_id, "device-not-ready")
    loop.hypervisor.networks["lan"] = FakeNetwork()
    await loop.state(machine_id, "RUNNING")
    assert loop.codes(machine_id) == []


# --- guests in trouble ---------------------------------------------------------------------------


@pytest.mark.rule("R-G5-1")
async def test_a_guest_that_powers_itself_off_stays_off_until_power_off_and_on(loop: Loop, witness: Witness) -> None:
    machine_id = await loop.created()
    loop.hypervisor.guest_powers_off(machine_id)
    await loop.state(machine_id, "SUSPENDED")
    await loop.reason(machine_id, "guest-powered-off")
    assert witness.starts(machine_id) == 1
    await loop.power(machine_id, pb.POWER_OFF)
    await until("off as wanted", lambda: loop.codes(machine_id) == [])
    await loop.on(machine_id)
    assert witness.starts(machine_id) == 2


@pytest.mark.parametrize("end", ["kill_qemu", "terminate_qemu", "destroy_from_outside"])
@pytest.mark.rule("R-G5-3")
async def test_a_guest_that_falls_over_is_started_again_after_a_pause(loop: Loop, end: str, witness: Witness) -> None:
    machine_id = await loop.created()
    run = loop.stored(machine_id).run.uuid
    getattr(loop.hypervisor, end)(machine_id)
    await loop.reason(machine_id, "back-off")
    assert (await loop.machine(machine_id)).status.state == pb.MACHINE_PENDING
    await loop.state(machine_id, "RUNNING")
    assert loop.stored(machine_id).run.uuid != run
    assert witness.starts(machine_id) == 2


@pytest.mark.rule("R-G5-8")
async def test_a_guest_that_is_paused_is_left_alone(loop: Loop) -> None:
    machine_id = await loop.created()
    loop.hypervisor.pause(machine_id)
    await loop.reason(machine_id, "paused")
    assert (await loop.machine(machine_id)).status.state == pb.MACHINE_PENDING
    loop.hypervisor.connect().resume(machine_id)
    await loop.state(machine_id, "RUNNING")


@pytest.mark.rule("R-G5-9")
async def test_a_guest_that_is_paused_at_an_io_error_is_resumed(loop: Loop, witness: Witness) -> None:
    machine_id = await loop.created()
    loop.hypervisor.pause(machine_id, "io error")
    await until("resume", lambda: loop.stored(machine_id).run.resumed_at)
    await loop.state(machine_id, "RUNNING")
    assert witness.starts(machine_id) == 1


@pytest.mark.rule("R-G5-7")
async def test_a_managed_save_is_restored_as_the_same_run(loop: Loop, witness: Witness) -> None:
    machine_id = await loop.created()
    run = loop.stored(machine_id).run.uuid
    loop.hypervisor.save(machine_id)
    await until("restore", lambda: ("started", "restored") in loop.told(machine_id), loop.explain)
    await loop.state(machine_id, "RUNNING")
    assert loop.stored(machine_id).run.uuid == run
    assert witness.starts(machine_id) == 2


async def test_a_guest_started_from_outside_gets_the_button_and_its_grace(loop: Loop) -> None:
    machine_id = await loop.created()
    await loop.off(machine_id)
    pressed = loop.stored(machine_id).run.pressed_at
    loop.hypervisor.connect().start(machine_id)
    await until("another press", lambda: loop.stored(machine_id).run.pressed_at > pressed, loop.explain)
    await loop.state(machine_id, "SUSPENDED")
    assert ("destroy", "grace-over") not in loop.told(machine_id)


# --- restarts of the provider --------------------------------------------------------------------


def later(tmp_path: Path) -> FakeHypervisor:
    """The same hypervisor as another process finds it."""
    return FakeHypervisor(tmp_path / "fake.json")


async def test_a_restart_of_the_provider_is_a_resync(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    async with serving_loop(tmp_path, hypervisor) as loop:
        machine_id = await loop.created(spec_of(disks=("data",), nics=("isolated",)))
        before, xml = await loop.machines(), loop.persistent(machine_id)
    hypervisor, witness = later(tmp_path), Witness()
    hypervisor.watch(witness)
    async with serving_loop(tmp_path, hypervisor) as loop:
        assert await loop.machines() == before
        other = await loop.created()  # the lanes work
        await until("every machine looked at", lambda: len(loop.provider.queue) == 0)
        assert await loop.machine(machine_id) == before[0]
        assert loop.persistent(machine_id) == xml
        assert witness.starts(machine_id) == 0
        assert witness.starts(other) == 1


@pytest.mark.rule("R-G5-6")
async def test_what_happened_while_the_provider_was_away(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    async with serving_loop(tmp_path, hypervisor) as loop:
        fell = await loop.created()
        halted = await loop.created()
    hypervisor.kill_qemu(fell)
    hypervisor.guest_powers_off(halted)
    hypervisor, witness = later(tmp_path), Witness()
    hypervisor.watch(witness)
    async with serving_loop(tmp_path, hypervisor) as loop:
        await loop.reason(halted, "guest-powered-off")
        await loop.state(halted, "SUSPENDED")
        await until("start", lambda: witness.starts(fell) == 1)
        await loop.state(fell, "RUNNING")
        assert witness.starts(halted) == 0


@pytest.mark.rule("R-G5-1")
async def test_a_boot_of_the_host_starts_what_ran_and_leaves_the_others_off(
    tmp_path: Path, hypervisor: FakeHypervisor
) -> None:
    host = FakeHost()
    async with serving_loop(tmp_path, hypervisor, host) as loop:
        ran, halted, off = await loop.created(), await loop.created(), await loop.created()
        loop.hypervisor.guest_powers_off(halted)
        await loop.state(halted, "SUSPENDED")
        await loop.off(off)
        host.going_down = True
        loop.hypervisor.guest_powers_off(ran)  # libvirt-guests presses the button of all
        await loop.reason(ran, "host-stopping")
    hypervisor, witness = later(tmp_path), Witness()
    hypervisor.watch(witness)
    async with serving_loop(tmp_path, hypervisor, FakeHost(boot="boot-2")) as loop:
        await loop.state(ran, "RUNNING")
        assert (await loop.machine(halted)).status.state == pb.MACHINE_SUSPENDED
        assert (await loop.machine(off)).status.state == pb.MACHINE_SUSPENDED
        assert [witness.starts(each) for each in (ran, halted, off)] == [1, 0, 0]


async def test_where_nobody_can_tell_a_stop_shortly_before_the_hosts_end_is_the_hosts(
    tmp_path: Path, hypervisor: FakeHypervisor
) -> None:
    """As in a pod that the host's systemd does not answer: libvirt-guests presses the button of all, then all ends."""
    async with serving_loop(tmp_path, hypervisor, FakeHost(going_down=None)) as loop:
        pressed = await loop.created()
        loop.hypervisor.guest_powers_off(pressed)
        await loop.reason(pressed, "guest-powered-off")
    async with serving_loop(tmp_path, hypervisor, FakeHost(going_down=None)) as loop:
        await loop.reason(pressed, "guest-powered-off")
    async with serving_loop(tmp_path, later(tmp_path), FakeHost("boot-2", going_down=None)) as loop:
        await loop.state(pressed, "RUNNING")
        assert ("stopped", "host") in loop.told(pressed)


async def test_machines_of_another_store_are_not_touched(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with (
        serving_loop(tmp_path / "a", hypervisor) as first,
        serving_loop(tmp_path / "b", hypervisor) as second,
    ):
        mine, theirs = await first.created(), await second.created()
        await first.delete(mine)
        await first.gone(mine)
        assert second.hypervisor.connect().domain_ids() == [theirs]
        assert second.codes(theirs) == []
