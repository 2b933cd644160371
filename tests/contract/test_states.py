"""What a guest, its QEMU or an operator can bring a machine into, and what the provider says and does of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import HypervisorError, UnusableSave
from sri_libvirt.hypervisor.base import DiskError
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.records import StopCause
from tests.contract.loop import Loop, Witness, serving_loop, spec_of, until


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


ASSERTION = "../hw/core/cpu.c:1: f: Assertion `x' failed."


@pytest.mark.parametrize("cause", [StopCause.PANICKED, StopCause.ABORTED, StopCause.KILLED])
async def test_a_guest_that_falls_is_started_again_and_told_of_by_its_cause(
    loop: Loop, witness: Witness, cause: StopCause
) -> None:
    machine_id = await loop.created()
    match cause:
        case StopCause.PANICKED:
            loop.hypervisor.panic(machine_id)
        case StopCause.ABORTED:
            loop.hypervisor.abort_qemu(machine_id, ASSERTION)
        case _:
            loop.hypervisor.kill_qemu(machine_id)
    await until("another start", lambda: witness.starts(machine_id) == 2, loop.explain)
    (stopped,) = [event for event in loop.store.events(machine_id) if event.kind == "stopped"]
    assert stopped.reason == cause
    assert (ASSERTION in stopped.message) is (cause is StopCause.ABORTED)


async def test_a_guest_that_has_halted_under_a_qemu_that_hangs_has_a_reason_and_can_be_ended(loop: Loop) -> None:
    machine_id = await loop.created()
    loop.hypervisor.hang_at_end(machine_id)
    loop.hypervisor.guest_powers_off(machine_id)
    await loop.reason(machine_id, "halted")
    await loop.off(machine_id)
    assert loop.stored(machine_id).run.stopped is StopCause.REQUESTED


@pytest.mark.parametrize("by_delete", [False, True])
async def test_a_crashed_guest_whose_qemu_is_kept_has_a_reason_and_can_be_ended(loop: Loop, by_delete: bool) -> None:
    machine_id = await loop.created()
    loop.hypervisor.panic(machine_id, kept=True)
    await loop.reason(machine_id, "guest-crashed")
    assert (await loop.machine(machine_id)).status.state == pb.MACHINE_PENDING
    if by_delete:
        await loop.delete(machine_id)
        await loop.gone(machine_id)
    else:
        await loop.off(machine_id)
        await loop.on(machine_id)


async def test_a_guest_that_sleeps_is_woken(loop: Loop, witness: Witness) -> None:
    machine_id = await loop.created()
    loop.hypervisor.sleep(machine_id)
    await until("wake-up", lambda: loop.stored(machine_id).run.resumes, loop.explain)
    await loop.state(machine_id, "RUNNING")
    assert not loop.codes(machine_id)


async def test_a_guest_without_room_on_a_disk_says_which_and_goes_on_when_there_is_some(
    loop: Loop, witness: Witness
) -> None:
    machine_id = await loop.created(spec_of(disks=("data",)))
    loop.hypervisor.fail_disk(machine_id, "vda", DiskError.NO_SPACE)
    words = 'QEMU paused the guest at an I/O error of volume "data" (no space is left for it)'
    assert words in await loop.reason(machine_id, "io-error")
    await until("a resume at once", lambda: loop.stored(machine_id).run.resumes == 1, loop.explain)
    (event,) = {event.message for event in loop.store.events(machine_id) if event.kind == "disk"}
    assert words in event
    loop.hypervisor.mend_disks(machine_id)
    loop.hypervisor.connect().resume(machine_id)
    await loop.state(machine_id, "RUNNING")
    assert not loop.codes(machine_id)
    assert witness.starts(machine_id) == 1


async def test_a_restore_that_fails_once_is_tried_again(loop: Loop, witness: Witness) -> None:
    machine_id = await loop.created()
    run = loop.stored(machine_id).run.uuid
    loop.hypervisor.fail_next("start", HypervisorError("Failed to connect socket to virtlogd-sock", 38))
    loop.hypervisor.save(machine_id)
    assert "virtlogd" in await loop.reason(machine_id, "restore-failed")
    await until("restore", lambda: ("started", "restored") in loop.told(machine_id), loop.explain)
    await loop.state(machine_id, "RUNNING")
    assert loop.stored(machine_id).run.uuid == run
    assert "save-dropped" not in [kind for kind, _ in loop.told(machine_id)]


async def test_a_save_that_is_none_is_dropped_and_that_is_told(loop: Loop, witness: Witness) -> None:
    machine_id = await loop.created()
    loop.hypervisor.fail_next("start", UnusableSave("image magic is incorrect", 9, certain=True))
    loop.hypervisor.save(machine_id)
    await until("another start", lambda: loop.told(machine_id).count(("started", "booted")) == 2, loop.explain)
    assert ("save-dropped", "unusable") in loop.told(machine_id)
    assert ("failed", "start-failed") in loop.told(machine_id)


async def test_a_save_that_libvirt_itself_dropped_is_not_told_of_as_restored(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_id = await loop.created()
    start = type(loop.hypervisor.connect()).start
    monkeypatch.setattr(type(loop.hypervisor.connect()), "start", lambda c, m, **_: start(c, m, force_boot=True))
    loop.hypervisor.save(machine_id)
    await until("another start", lambda: loop.told(machine_id).count(("started", "booted")) == 2, loop.explain)
    assert ("save-dropped", "incomplete") in loop.told(machine_id)
    assert ("started", "restored") not in loop.told(machine_id)


@pytest.mark.parametrize("agent", [True, False])
async def test_the_clock_of_a_restored_guest_is_set_or_told_of(loop: Loop, agent: bool) -> None:
    machine_id = await loop.created()
    if agent:
        loop.hypervisor.set_agent(machine_id)
    loop.hypervisor.save(machine_id)
    word = "clock-set" if agent else "clock-behind"
    await until("word of the clock", lambda: ("clock", word) in loop.told(machine_id), loop.explain)
    assert isinstance(loop.hypervisor, FakeHypervisor)
    assert loop.hypervisor._domains[machine_id].clock_set is agent


async def test_an_agent_whose_call_fails_keeps_no_guest_from_running(loop: Loop) -> None:
    machine_id = await loop.created()
    loop.hypervisor.fail_next("set_time", HypervisorError("internal error: the agent lies"))
    loop.hypervisor.save(machine_id)
    await until("word of the clock", lambda: ("clock", "clock-behind") in loop.told(machine_id), loop.explain)
    await loop.state(machine_id, "RUNNING")


async def test_a_device_that_its_guest_ejects_comes_back_and_then_waits_with_a_reason(loop: Loop) -> None:
    machine_id = await loop.created(spec_of(disks=("data",)))
    (alias,) = loop.live(machine_id).devices

    def plugs() -> int:
        return next(row.plugs for row in loop.stored(machine_id).attachments)

    loop.hypervisor.eject(machine_id, alias)
    await until("first plug", lambda: plugs() == 1 and alias in loop.live(machine_id).devices, loop.explain)
    loop.hypervisor.eject(machine_id, alias)
    await loop.reason(machine_id, "device-ejected")
    assert (await loop.machine(machine_id)).status.volumes[0].state == pb.VOLUME_PENDING
    await until("second plug", lambda: plugs() == 2 and alias in loop.live(machine_id).devices, loop.explain)
    await until("peace", lambda: not loop.codes(machine_id), loop.explain)
    assert ("device", "ejected") in loop.told(machine_id)
