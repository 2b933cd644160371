"""Calls of libvirt, actions and files hang: what is held, what goes on, and that the work is finished, once."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import grpc
import pytest

from sri_libvirt import config, failpoints
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import HypervisorError
from sri_libvirt.hypervisor.fake import FakeConnection, FakeHypervisor
from sri_libvirt.hypervisor.fake_networks import FakeNetwork
from sri_libvirt.reconcile import actions as act
from sri_libvirt.reconcile.actions import Action
from sri_libvirt.records import SECOND
from tests import third_party
from tests.backends import artifacts
from tests.backends.registry import Registry
from tests.contract import crashing
from tests.contract.hung import serving
from tests.contract.loop import MIB, Loop, Witness, disk, let_looks_find, locked, serving_loop, spec_of, until

CALLS = (
    "connect", "offer", "snapshot", "network", "define", "start", "attach_device", "detach_device",
    "press_power_button", "destroy", "undefine", "disk_errors", "resize_disk", "set_secret", "drop_secret",
)  # fmt: skip

ACTIONS = tuple(
    each.__name__ for each in get_args(Action) if each not in (act.Resume, act.PressButton)
)  # a guest that is paused has its own test; a press is a call


@pytest.fixture
def hypervisor(tmp_path: Path) -> FakeHypervisor:
    return FakeHypervisor(tmp_path / "fake.json")


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm(None)


@pytest.fixture
async def loop(
    tmp_path: Path, hypervisor: FakeHypervisor, call: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Loop]:
    monkeypatch.syspath_prepend(third_party.install(tmp_path / "site"))
    grace = config.duration("0s" if call in ("destroy", "Destroy") else "5s")
    deadline = config.duration("1s")
    settle = config.duration("0s")
    with ExitStack() as stack:
        insecure = (registry(stack, tmp_path),) if call == "ResolveImage" else ()
        async with serving_loop(
            tmp_path,
            hypervisor,
            call_deadline=deadline,
            shutdown_grace=grace,
            detach_settle=settle,
            lanes=1,
            insecure_registry=insecure,
        ) as loop:
            yield loop


def registry(stack: ExitStack, root: Path) -> str:
    """The host of a registry that has an image; the machine of `life` has it then."""
    (root / "registry").mkdir()
    made = stack.enter_context(Registry(root / "registry"))
    artifacts.ironcore(made, "org/image", "v1", parts={"rootfs": b"\xeb\x3c\x90" + bytes(MIB)})
    (root / "image").write_text(f"{made.host}/org/image:v1")
    return made.host


def sources(loop: Loop, machine_id: str) -> set[str]:
    """What the persistent domain's devices are made of."""
    return {each.source for each in loop.persistent(machine_id).devices.values()}


async def life(loop: Loop, trap: failpoints.Once) -> None:
    """From create to gone, with a plug and an unplug; whatever hangs is let go once that was seen."""
    spec = spec_of(disks=("data",), nics=("network://net",))
    reference = loop.paths.root.parent / "image"
    image = reference.exists()
    if image:
        spec.image.image = reference.read_text()
    machine_id = await loop.create(spec)

    async def reach(what: str, condition: object) -> None:
        assert callable(condition)

        def there() -> bool:
            if {"stuck-call", "stuck-work"}.intersection(loop.codes(machine_id)):
                trap.release.set()
            return bool(condition())

        await until(what, there, loop.explain)

    def state(wanted: pb.MachineState) -> object:
        return lambda: loop.stored(machine_id).status.state == wanted and not loop.codes(machine_id)

    def devices(count: int) -> object:
        return lambda: len(loop.live(machine_id).devices) == count + image and not loop.codes(machine_id)

    await reach("running", state(pb.MACHINE_RUNNING))
    if trap.point.endswith("SetClock"):
        loop.hypervisor.save(machine_id)
        await reach("word of the clock", lambda: ("clock", "clock-behind") in loop.told(machine_id))
    if trap.point.endswith("UnplugStranger"):
        crashing.stranger(loop.hypervisor, machine_id)
        await reach("end of a device that nobody knows", devices(2))
    if trap.point.endswith("FollowDisk"):
        (ours,) = (each.source for each in loop.live(machine_id).devices.values() if each.kind == "disk")
        crashing.moved(loop.hypervisor, machine_id)
        await reach("persistent domain that follows", lambda: "/backup/snap" in sources(loop, machine_id))
        crashing.moved(loop.hypervisor, machine_id, ours)
        await reach("disk of ours", lambda: ours in sources(loop, machine_id) and not loop.codes(machine_id))
    if trap.point.endswith(("ResizeDisk", "resize_disk")):
        let_looks_find(loop.provider, 2 * MIB)
        loop.provider.queue.wake(machine_id)
        await reach("a larger disk", lambda: ("device", "grown") in loop.told(machine_id))
        let_looks_find(loop.provider, 0)
    if trap.point.endswith("disk_errors"):
        loop.hypervisor.pause(machine_id, "io error")
        await reach("resume", lambda: loop.stored(machine_id).run.resumes)
    late = locked("late") if trap.point.endswith("_secret") else disk("late")
    await loop.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=late))
    await reach("plugged", devices(3))
    await loop.stub.DetachVolume(pb.DetachVolumeRequest(machine_id=machine_id, name="late"))
    await reach("unplugged", devices(2))
    await loop.power(machine_id, pb.POWER_OFF)
    await reach("off", state(pb.MACHINE_SUSPENDED))
    await loop.delete(machine_id)
    await reach("gone", lambda: loop.store.machine(machine_id) is None)
    assert loop.left_over() == ([], [])
    await until("end of all secrets", lambda: loop.hypervisor.secrets == {})


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", CALLS)
async def test_a_call_that_hangs_is_survived(loop: Loop, call: str, when: str) -> None:
    loop.hypervisor.networks["net"] = FakeNetwork()
    witness = Witness()
    loop.hypervisor.watch(witness)
    trap = failpoints.Once("hang", f"{when} libvirt.{call}")
    failpoints.arm(trap)
    await life(loop, trap)
    assert trap.point in trap.passed, "the life does not make this call"
    assert trap.release.is_set(), "nobody noticed that it hung"
    assert sum(event.kind.value == "started" for event in witness.events) == 1


@pytest.mark.parametrize("call", ACTIONS)
async def test_an_action_that_hangs_is_survived(loop: Loop, call: str) -> None:
    """Whatever it hangs in: a file, a program, a driver of somebody else's."""
    loop.hypervisor.networks["net"] = FakeNetwork()
    trap = failpoints.Once("hang", f"before perform.{call}")
    failpoints.arm(trap)
    await life(loop, trap)
    assert trap.point in trap.passed, "the life does not do this"
    assert trap.release.is_set(), "nobody noticed that it hung"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_change_whose_store_failed_is_carried_out_when_it_was_stored_all_the_same(
    tmp_path: Path, when: str
) -> None:
    """And when it was not, by the caller's next try, which in the first case changes nothing any more."""
    async with serving_loop(tmp_path, FakeHypervisor()) as loop:
        machine_id = await loop.created()
        failpoints.arm(failpoints.Once("fail", f"{when} store.MachineRuntime.update_machine_power"))
        with pytest.raises(grpc.aio.AioRpcError, match="a test lets it fail") as refused:
            await loop.power(machine_id, pb.POWER_OFF)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        await loop.off(machine_id)


# --- stops and deletes never wait behind creates -------------------------------------------------


@dataclass
class Clock:
    """The real time, and what a test lets pass besides."""

    ahead: int = 0

    def __call__(self) -> int:
        return time.time_ns() + self.ahead


@asynccontextmanager
async def with_lanes_in_slow_starts(
    tmp_path: Path, hypervisor: FakeHypervisor, clock: Clock
) -> AsyncIterator[tuple[Loop, list[str], list[str]]]:
    """A provider with two lanes, both in starts that hang for long, and four machines that run."""
    async with serving_loop(tmp_path, hypervisor, clock=clock, lanes=2) as loop:
        running = [await loop.created(spec_of(disks=("data",))) for _ in range(4)]
        release = hypervisor.hang("start")
        try:
            starting = [await loop.create() for _ in range(2)]
            for machine_id in starting:
                await loop.reason(machine_id, "starting")
            await until("both lanes in a start", lambda: len(loop.provider.queue._busy) == 2, loop.explain)
            yield loop, running, starting
        finally:
            release()


async def test_stops_and_deletes_go_on_while_all_lanes_are_in_slow_starts(
    tmp_path: Path, hypervisor: FakeHypervisor
) -> None:
    async with with_lanes_in_slow_starts(tmp_path, hypervisor, Clock()) as (loop, running, starting):
        await loop.delete(running[0])
        await loop.power(running[1], pb.POWER_OFF)
        await loop.gone(running[0])
        await loop.state(running[1], "SUSPENDED")
        loop.provider.cordon.command("drain", {})
        await loop.state(running[2], "SUSPENDED")
        await loop.state(running[3], "SUSPENDED")
        assert [loop.codes(each) for each in starting] == [["starting"]] * 2, "their lanes are with them still"


async def test_a_machine_that_waits_for_a_lane_says_so_until_it_has_one(
    tmp_path: Path, hypervisor: FakeHypervisor
) -> None:
    clock = Clock()
    async with with_lanes_in_slow_starts(tmp_path, hypervisor, clock) as (loop, _, starting):
        late = await loop.create()
        off = await loop.create(spec_of(power=pb.POWER_OFF, disks=("data",)))
        await loop.state(off, "SUSPENDED")  # what it needs no others for is told at once
        queue = loop.provider.queue
        await until("both wait", lambda: {late, off} <= set(queue.waiting(clock() + 1)), loop.explain)
        clock.ahead += 31 * SECOND
        for machine_id in (late, off):
            assert "finished with other machines" in await loop.reason(machine_id, "waiting-for-lane")
            assert loop.told(machine_id).count(("waiting", "waiting-for-lane")) == 1
    async with serving_loop(tmp_path, hypervisor) as loop:
        for machine_id in (late, *starting):
            await loop.state(machine_id, "RUNNING")
        for machine_id in (late, off):
            await until("no reason", lambda each=machine_id: loop.codes(each) == [], loop.explain)  # type: ignore[misc]


async def test_after_a_restart_stops_and_deletes_go_first(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    async with serving_loop(tmp_path, hypervisor, lanes=1) as loop:
        deleted, off = await loop.created(), await loop.created()
        starting = [await loop.create(spec_of(power=pb.POWER_OFF)) for _ in range(3)]
        for machine_id in starting:
            await loop.state(machine_id, "SUSPENDED")
        hypervisor.set_reachable(False)
        await loop.delete(deleted)
        await loop.power(off, pb.POWER_OFF)
        for machine_id in starting:
            await loop.power(machine_id, pb.POWER_ON)
    hypervisor.set_reachable(True)
    release = hypervisor.hang("start")
    async with serving_loop(tmp_path, hypervisor, lanes=1) as loop:
        await loop.gone(deleted)
        await loop.state(off, "SUSPENDED")
        release()
        for machine_id in starting:
            await loop.state(machine_id, "RUNNING")


# --- a look that fails ---------------------------------------------------------------------------


@pytest.mark.parametrize("error", [HypervisorError("cannot acquire state change lock", 68), KeyError("a bug")])
async def test_a_machine_whose_look_fails_says_so_and_is_switched_off_and_deleted(
    tmp_path: Path, hypervisor: FakeHypervisor, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    code = "bug" if isinstance(error, KeyError) else "look-failed"
    async with serving_loop(tmp_path, hypervisor, shutdown_grace=config.duration("1s")) as loop:
        odd, other = [await loop.created(spec_of(disks=("data",))) for _ in range(2)]
        look = FakeConnection.snapshot

        def fails(self: FakeConnection, machine_id: str) -> object:
            found = look(self, machine_id)
            if found is not None and found.active and machine_id == odd:
                raise error
            return found

        monkeypatch.setattr(FakeConnection, "snapshot", fails)
        loop.provider.queue.wake(odd)
        await loop.reason(odd, code)
        assert (await loop.machine(odd)).status.state == pb.MACHINE_RUNNING
        await loop.off(other)
        await loop.off(odd)
        await loop.power(odd, pb.POWER_ON)
        await loop.reason(odd, code)
        await loop.delete(odd)
        await loop.gone(odd)
        await loop.delete(other)
        await loop.gone(other)
        assert loop.told(odd).count(("failed", code)) == 0
        assert loop.left_over() == ([], [])


# --- a file system that hangs --------------------------------------------------------------------


async def test_four_images_on_a_file_system_that_hangs_hold_up_no_lane(
    tmp_path: Path, hypervisor: FakeHypervisor
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "good.raw").write_bytes(os.urandom(65536))
    (images / "good.raw").chmod(0o444)
    with serving(tmp_path, images / "remote.raw") as hung:
        async with serving_loop(tmp_path, hypervisor, lanes=2) as loop:
            hung.stop()
            waiting = [await loop.create(spec_of_image(hung.path)) for _ in range(4)]
            for machine_id in waiting:
                message = await loop.reason(machine_id, "slow-storage")
                assert f"nothing more is begun at the image directory {images}" in message
                assert "goes on since" in message
            neighbour = await loop.create(spec_of_image(images / "good.raw"))
            await loop.reason(neighbour, "slow-storage")
            innocent = await loop.created(spec_of(disks=("data",)))
            await loop.off(innocent)
            await loop.delete(waiting[0])
            await loop.gone(waiting[0])
            assert loop.provider._watchdog.late() == 0
            assert await asyncio.to_thread(loop.provider._signs_of_life()["lanes"]) == ""
            hung.go_on()
            await loop.state(neighbour, "RUNNING")
            for machine_id in waiting[1:]:  # FUSE as it is served here lets only root read
                await until("seen", lambda each=machine_id: loop.codes(each) == ["device-not-ready"], loop.explain)  # type: ignore[misc]


def spec_of_image(path: Path) -> pb.MachineSpec:
    spec = spec_of()
    spec.image.image = str(path)
    return spec
