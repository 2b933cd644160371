"""A wall clock that is set while machines are worked on: every wait ends when its rule says, and in its order.

The provider runs on the host's own clocks as a test gives them: CLOCK_BOOTTIME goes on, the wall clock jumps.
"""

from __future__ import annotations

import random
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.clock import HostClocks
from sri_libvirt.errors import HypervisorError
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.records import SECOND, StopCause
from sri_libvirt.store import backup
from sri_libvirt.store.automatic import AutomaticBackups
from tests.contract.loop import FakeHost, Loop, serving_loop, spec_of, until

HOUR = 3600 * SECOND
YEAR = 8766 * HOUR
GRACE = 30 * SECOND
JUMPS = [-HOUR, HOUR, -10 * YEAR, 10 * YEAR]


class Hands:
    """The host's clocks. Time passes only when a test lets it."""

    def __init__(self) -> None:
        self.boot = "boot-1"
        self.elapsed = 1000 * SECOND
        self.ahead = 1_700_000_000 * SECOND
        self._lock = threading.Lock()

    def clocks(self) -> HostClocks:
        return HostClocks(lambda: self.boot, lambda: self.elapsed, lambda: self.elapsed + self.ahead)

    async def passes(self, loop: Loop, seconds: int) -> None:
        """Let seconds pass, one by one; the lanes do what each brings."""
        for _ in range(seconds):
            self.elapsed += SECOND
            for machine_id in loop.store.machine_ids():
                loop.provider.queue.wake(machine_id, 0)
            await until("rest", lambda: at_rest(loop))


def at_rest(loop: Loop) -> bool:
    """Whether the lanes have done all that is due."""
    queue = loop.provider.queue
    with queue._lock:
        return not queue._busy and all(due.time > loop.store.clock() for due in queue._due.values())


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def hypervisor(tmp_path: Path) -> FakeHypervisor:
    return FakeHypervisor(tmp_path / "fake.json")


@pytest.fixture
async def loop(tmp_path: Path, hypervisor: FakeHypervisor, hands: Hands) -> AsyncIterator[Loop]:
    async with serving_loop(tmp_path, hypervisor, clock=hands.clocks(), shutdown_grace=GRACE) as loop:
        yield loop


@pytest.mark.parametrize("jump", JUMPS)
async def test_a_delete_ends_after_its_grace_and_no_sooner(loop: Loop, hands: Hands, jump: int) -> None:
    machine_id = await loop.created(spec_of())
    loop.hypervisor.set_deaf(machine_id)
    await loop.delete(machine_id)
    await until("a press", lambda: loop.stored(machine_id).run.pressed_at)
    hands.ahead += jump
    await hands.passes(loop, GRACE // SECOND - 1)
    assert machine_id in [each.metadata.id for each in await loop.machines()]
    await hands.passes(loop, 2)
    await until("its end", lambda: machine_id not in loop.store.machine_ids())


@pytest.mark.parametrize("jump", JUMPS)
async def test_a_failed_start_is_tried_again_when_its_back_off_ends(
    loop: Loop, hypervisor: FakeHypervisor, hands: Hands, jump: int
) -> None:
    hands.ahead += jump
    hypervisor.fail_next("start", HypervisorError("no"))
    machine_id = await loop.create(spec_of())
    await until("a failure", lambda: loop.stored(machine_id).run.error)
    hands.ahead -= jump
    await hands.passes(loop, 2)
    await until("a guest", lambda: loop.stored(machine_id).status.state == pb.MACHINE_RUNNING)


@pytest.mark.parametrize("jump", JUMPS)
async def test_a_guest_that_powered_itself_off_starts_after_off_and_on(loop: Loop, hands: Hands, jump: int) -> None:
    machine_id = await loop.created(spec_of())
    await hands.passes(loop, 1)
    loop.hypervisor.guest_powers_off(machine_id)
    await until("the stop", lambda: loop.stored(machine_id).run.stopped is StopCause.GUEST)
    hands.ahead += jump
    await hands.passes(loop, 1)
    await loop.off(machine_id)
    await hands.passes(loop, 1)
    await loop.on(machine_id)


@pytest.mark.parametrize("jump", JUMPS)
async def test_a_managed_save_is_restored_whatever_the_clock_was_set_to(loop: Loop, hands: Hands, jump: int) -> None:
    machine_id = await loop.created(spec_of())
    hands.ahead += jump
    await hands.passes(loop, 1)
    loop.hypervisor.save(machine_id)
    await until("a restored guest", lambda: "restored" in {event.reason for event in loop.store.events(machine_id)})
    assert "save-dropped" not in {event.kind for event in loop.store.events(machine_id)}


async def test_the_newest_machine_is_the_first_of_the_list_whatever_its_clock_said(loop: Loop, hands: Hands) -> None:
    older = await loop.created(spec_of())
    hands.ahead -= HOUR
    newer = await loop.created(spec_of())
    assert [each.metadata.id for each in await loop.machines()] == [newer, older]


async def test_a_restart_and_a_reboot_go_on_with_the_time(
    tmp_path: Path, hypervisor: FakeHypervisor, hands: Hands
) -> None:
    host = FakeHost()
    async with serving_loop(tmp_path, hypervisor, host, hands.clocks()) as loop:
        machine_id = await loop.created(spec_of())
        hands.elapsed += 60 * SECOND
        before = loop.store.clock()
        await loop.off(machine_id)
    hands.ahead -= HOUR
    async with serving_loop(tmp_path, hypervisor, host, hands.clocks()) as loop:
        assert loop.store.clock() == before
    host.boot = hands.boot = "boot-2"
    hands.elapsed = SECOND
    async with serving_loop(tmp_path, hypervisor, host, hands.clocks()) as loop:
        assert loop.store.clock() == before
        assert loop.stored(machine_id).power_at <= before


@pytest.mark.parametrize("jump", JUMPS)
async def test_backups_are_due_and_ordered_whatever_the_clock_says(loop: Loop, hands: Hands, jump: int) -> None:
    backups = AutomaticBackups(loop.paths, HOUR, 2, loop.store.clock)
    assert backups.once()
    hands.ahead += jump
    hands.elapsed += HOUR // 2
    assert backups.due_in() == HOUR // 2
    assert backups.once()
    assert backups.once()
    assert [path.name.split("-")[1] for path in backup.automatic(loop.paths.backups)] == ["000002", "000003"]


@pytest.mark.parametrize("seed", range(4))
async def test_any_jump_at_any_point_still_reaches_the_wish(loop: Loop, hands: Hands, seed: int) -> None:
    chance = random.Random(seed)
    machine_id = await loop.created(spec_of(disks=("data",)))
    for _ in range(6):
        power = chance.choice([pb.POWER_ON, pb.POWER_OFF])
        loop.hypervisor.set_deaf(machine_id, chance.random() < 0.5)
        await loop.stub.UpdateMachinePower(pb.UpdateMachinePowerRequest(machine_id=machine_id, power=power))
        for _ in range(chance.randrange(4)):
            hands.ahead += chance.choice(JUMPS)
            await hands.passes(loop, chance.randrange(3))
        await hands.passes(loop, GRACE // SECOND + 10)
        wanted = pb.MACHINE_RUNNING if power == pb.POWER_ON else pb.MACHINE_SUSPENDED
        assert loop.stored(machine_id).status.state == wanted, loop.codes(machine_id)
        assert not loop.codes(machine_id)
