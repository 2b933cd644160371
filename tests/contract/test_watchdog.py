"""A call of libvirt that does not come back: its machine is held, all others go on, and its late end is noticed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sri_libvirt import app, config
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.hypervisor.fake import FakeHypervisor
from tests.contract.loop import Loop, Witness, disk, serving_loop, spec_of, until

DEADLINE = "2s"
"""Of calls that start and end guests; others have a quarter."""


@pytest.fixture
def hypervisor(tmp_path: Path) -> FakeHypervisor:
    return FakeHypervisor(tmp_path / "fake.json")


@pytest.fixture
async def loop(tmp_path: Path, hypervisor: FakeHypervisor) -> AsyncIterator[Loop]:
    async with serving_loop(tmp_path, hypervisor, call_deadline=config.duration(DEADLINE)) as loop:
        yield loop


def witness(hypervisor: FakeHypervisor) -> Witness:
    witness = Witness()
    hypervisor.watch(witness)
    return witness


async def attach(loop: Loop, machine_id: str) -> None:
    await loop.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=disk("late")))


def attached(loop: Loop, machine_id: str) -> bool:
    return len(loop.live(machine_id).devices) == 1


async def test_a_call_that_never_returns_holds_its_machine_and_its_late_success_is_noticed(loop: Loop) -> None:
    machine_id = await loop.created()
    release = loop.hypervisor.hang("attach_device")
    await attach(loop, machine_id)
    message = await loop.reason(machine_id, "stuck-call")
    assert "(attach_device)" in message
    await until("event", lambda: ("failed", "stuck-call") in loop.told(machine_id), loop.explain)  # the watchdog's own
    assert (await loop.machine(machine_id)).status.state == pb.MACHINE_RUNNING
    release()
    await until("attached", lambda: loop.codes(machine_id) == [] and attached(loop, machine_id), loop.explain)
    assert ("late", "attach_device") in loop.told(machine_id)
    assert [kind for kind, reason in loop.told(machine_id) if reason == "attached"] == ["device"], "plugged once"


async def test_five_guests_that_hang_at_once_do_not_hold_up_the_others(loop: Loop) -> None:
    stuck = [await loop.created() for _ in range(5)]
    release = loop.hypervisor.hang("attach_device")
    for machine_id in stuck:
        await attach(loop, machine_id)
    for machine_id in stuck:
        await loop.reason(machine_id, "stuck-call")
    other = await loop.created(spec_of(disks=("data",)))
    await loop.off(other)
    release()
    for machine_id in stuck:
        await until("attached", lambda each=machine_id: attached(loop, each), loop.explain)  # type: ignore[misc]


@pytest.mark.parametrize("deleted", [False, True])
async def test_a_destroy_passes_a_call_that_is_stuck(loop: Loop, deleted: bool) -> None:
    machine_id = await loop.created()
    release = loop.hypervisor.hang("attach_device")
    await attach(loop, machine_id)
    await loop.reason(machine_id, "stuck-call")
    if deleted:
        await loop.delete(machine_id)
    else:
        await loop.power(machine_id, pb.POWER_OFF)
    snapshot = loop.hypervisor.connect().snapshot
    await until("destroyed", lambda: not (found := snapshot(machine_id)) or not found.active, loop.explain)
    await loop.state(machine_id, "TERMINATED" if deleted else "SUSPENDED")
    assert snapshot(machine_id) is not None, "nothing but the destroy touches it"
    release()
    if deleted:
        await loop.gone(machine_id)
    await until("rest", lambda: loop.codes(machine_id) == [], loop.explain)


async def test_a_start_that_comes_back_late_is_not_done_twice(loop: Loop) -> None:
    seen = witness(loop.hypervisor)
    release = loop.hypervisor.hang("start")
    machine_id = await loop.create()
    await loop.reason(machine_id, "stuck-call")
    release()
    await loop.state(machine_id, "RUNNING")
    assert seen.starts(machine_id) == 1
    stored = loop.stored(machine_id)
    assert (stored.run.started_at > 0, stored.run.failures) == (True, 0)


def count_lanes() -> int:
    """Those that work, and those that were given up in a call."""
    return sum(thread.name.startswith("lane") for thread in threading.enumerate())


async def test_a_look_that_hangs_holds_every_machine_it_was_for_and_each_is_looked_at_after(loop: Loop) -> None:
    machine_id = await loop.created()
    release = loop.hypervisor.hang("snapshot")
    loop.provider.queue.wake(machine_id)
    assert "(snapshot)" in await loop.reason(machine_id, "stuck-call")
    lanes = count_lanes()
    assert lanes
    loop.provider.queue.wake(machine_id)  # another look would cost another lane
    await until("a rest", lambda: len(loop.provider.queue) == 0)
    assert count_lanes() <= lanes
    release()
    await until("no reason", lambda: loop.codes(machine_id) == [], loop.explain)
    await loop.off(machine_id)


async def test_a_provider_ends_though_a_call_is_stuck(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    async with serving_loop(tmp_path, hypervisor, call_deadline=config.duration(DEADLINE)) as loop:
        machine_id = await loop.created()
        release = hypervisor.hang("attach_device")
        await attach(loop, machine_id)
        await loop.reason(machine_id, "stuck-call")
        ended = asyncio.create_task(loop.provider.stop())
        await asyncio.wait_for(ended, 8)
    release()
    async with serving_loop(tmp_path, hypervisor) as loop:
        await until("attached", lambda: attached(loop, machine_id), loop.explain)


async def test_no_destructive_act_before_the_look_after_a_reconnect(loop: Loop) -> None:
    """Deleted while libvirt is away: unreachable is not gone, so files and record stay until the guest has ended."""
    machine_id = await loop.created(spec_of(disks=("data",)))
    loop.hypervisor.set_reachable(False)
    await loop.delete(machine_id)
    await loop.reason(machine_id, "unreachable")
    assert loop.paths.machine(machine_id).root.exists()
    assert len(loop.stored(machine_id).attachments) == 1
    loop.hypervisor.set_reachable(True)
    await loop.gone(machine_id)
    assert loop.left_over() == ([], [])


async def test_events_that_are_lost_silently_are_made_up_for_by_the_resync(
    tmp_path: Path, hypervisor: FakeHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "RESYNC_SECONDS", 0.1)
    async with serving_loop(tmp_path, hypervisor) as loop:
        machine_id = await loop.created()
        monkeypatch.setattr(hypervisor, "_listeners", [])
        hypervisor.guest_powers_off(machine_id)
        await loop.state(machine_id, "SUSPENDED")
        assert "guest-powered-off" in loop.codes(machine_id)
