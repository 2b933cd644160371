"""Every call of libvirt hangs once: the machine is held, and when the call is back the work is finished, once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest

from sri_libvirt import config, failpoints
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.hypervisor.fake import FakeHypervisor
from tests.contract.loop import Loop, Witness, disk, serving_loop, spec_of, until

CALLS = (
    "connect", "offer", "snapshot", "network_active", "define", "start", "attach_device", "detach_device",
    "press_power_button", "destroy", "undefine",
)  # fmt: skip


@pytest.fixture
def hypervisor(tmp_path: Path) -> FakeHypervisor:
    return FakeHypervisor(tmp_path / "fake.json")


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm(None)


@pytest.fixture
async def loop(tmp_path: Path, hypervisor: FakeHypervisor, call: str) -> AsyncIterator[Loop]:
    grace = config.duration("0s" if call == "destroy" else "5s")
    deadline = config.duration("1s")
    settle = config.duration("0s")
    async with serving_loop(
        tmp_path, hypervisor, call_deadline=deadline, shutdown_grace=grace, detach_settle=settle, lanes=1
    ) as loop:
        yield loop


async def life(loop: Loop, trap: failpoints.Once) -> None:
    """From create to gone, with a plug and an unplug; whatever hangs is let go once that was seen."""
    spec = spec_of(disks=("data",), nics=("network://net",))
    machine_id = await loop.create(spec)

    async def reach(what: str, condition: object) -> None:
        assert callable(condition)

        def there() -> bool:
            if "stuck-call" in loop.codes(machine_id):
                trap.release.set()
            return bool(condition())

        await until(what, there, loop.explain)

    def state(wanted: pb.MachineState) -> object:
        return lambda: loop.stored(machine_id).status.state == wanted and not loop.codes(machine_id)

    def devices(count: int) -> object:
        return lambda: len(loop.live(machine_id).devices) == count and not loop.codes(machine_id)

    await reach("running", state(pb.MACHINE_RUNNING))
    await loop.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=disk("late")))
    await reach("plugged", devices(3))
    await loop.stub.DetachVolume(pb.DetachVolumeRequest(machine_id=machine_id, name="late"))
    await reach("unplugged", devices(2))
    await loop.power(machine_id, pb.POWER_OFF)
    await reach("off", state(pb.MACHINE_SUSPENDED))
    await loop.delete(machine_id)
    await reach("gone", lambda: loop.store.machine(machine_id) is None)
    assert loop.left_over() == ([], [])


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", CALLS)
async def test_a_call_that_hangs_is_survived(loop: Loop, call: str, when: str) -> None:
    loop.hypervisor.networks["net"] = True
    witness = Witness()
    loop.hypervisor.watch(witness)
    trap = failpoints.Once("hang", f"{when} libvirt.{call}")
    failpoints.arm(trap)
    await life(loop, trap)
    assert trap.point in trap.passed, "the life does not make this call"
    assert trap.release.is_set(), "nobody noticed that it hung"
    assert sum(event.kind.value == "started" for event in witness.events) == 1


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
