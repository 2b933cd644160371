"""A device that waits for slow work: neither cools nor is prepared again meanwhile, and holds up no other device."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.reconcile.actions import PlugDevice, PrepareDevice, Start
from sri_libvirt.records import SECOND
from tests.unit.reconcile.world import POLICY, T0, World, machine, volume_row


def waits(*names: str, until: int = T0 + 40 * SECOND, power: pb.Power = pb.POWER_ON) -> World:
    """A machine for whose volumes, but "data", slow work is under way."""
    rows = [volume_row(), *(volume_row(name, target=f"vd{name[0]}") for name in names)]
    world = World(machine(*rows, power=power), slow=dict.fromkeys(names, until))

    def busy_until(row: object) -> int | None:
        return world.slow.get(row.name)  # type: ignore[attr-defined]

    world.policy = replace(POLICY, busy_until=busy_until)
    return world


def prepared(world: World, name: str) -> int:
    return sum(isinstance(action, PrepareDevice) and action.key[1] == name for action in world.done)


def test_a_cold_start_waits_for_it_and_asks_once() -> None:
    world = waits("ceph")
    made = world.settle()
    assert made is not None
    assert (prepared(world, "ceph"), made.wake_at) == (1, T0 + 30 * SECOND), "a long wait is told of"
    assert [reason.message for reason in made.reasons if "asked for" in reason.message]
    world.now += 20 * SECOND
    assert world.settle() is not None
    assert prepared(world, "ceph") == 1, "neither tried again nor timed by prepare_retry"
    assert not world.live


def test_its_end_is_acted_on_at_once() -> None:
    world = waits("ceph")
    world.settle()
    world.slow.clear()
    world.now += 1
    world.settle()
    assert isinstance(world.done[-1], Start)
    assert len(world.live) == 2


def test_after_a_restart_nothing_is_known_and_it_is_tried_at_once() -> None:
    world = waits("ceph")
    world.settle()
    world.policy = POLICY
    world.slow.clear()
    world.settle()
    assert len(world.live) == 2


def test_a_guest_that_runs_gets_its_other_devices_meanwhile() -> None:
    world = waits("ceph")
    world.slow = {}
    world.settle()
    assert world.record is not None
    late, other = volume_row("log", target="vdl"), volume_row("iscsi", target="vdi")
    world.record = replace(world.record, attachments=(*world.record.attachments, other, late))
    world.slow = {"iscsi": T0 + 40 * SECOND}
    world.settle()
    assert PlugDevice(late.key) in world.done
    assert (late.alias in world.live, other.alias in world.live) == (True, False)
    world.now += 40 * SECOND
    world.settle()
    assert other.alias in world.live


@pytest.mark.parametrize("then", [0, 41 * SECOND])
def test_a_machine_that_is_off_has_it_prepared_too(then: int) -> None:
    world = waits("ceph", power=pb.POWER_OFF)
    world.settle()
    assert prepared(world, "ceph") == 1
    world.now += then
    world.settle()
    assert prepared(world, "ceph") == (2 if then else 1)


def test_it_leaves_at_once_when_it_is_not_wanted_any_more() -> None:
    world = waits("ceph")
    world.settle()
    assert world.record is not None
    world.now += 1
    data, ceph = world.record.attachments
    rows = (data, replace(ceph, wanted=False, changed_at=world.now))
    world.record = replace(world.record, attachments=rows)
    world.settle()
    assert [row.name for row in world.record.attachments] == ["data"]
    assert len(world.live) == 1


@pytest.mark.parametrize(
    ("code", "tries"),
    [
        ("under-way", 0),
        ("backend-silent", 0),
        ("volume-refused", 0),
        ("in-use", 0),
        ("image-unreachable", 0),
        ("image-refused", 0),
        ("image-not-allowed", 1),
        ("held", 1),
    ],
)
def test_each_wait_has_its_reason_and_slow_work_its_own_times(code: str, tries: int) -> None:
    """Of 8 seconds, of which slow work has said that it is of no use to ask; without it there is a try after 5."""
    world = waits("ceph", until=T0 + 60 * SECOND)
    world.settle()
    assert world.record is not None
    data, ceph = world.record.attachments
    world.record = replace(world.record, attachments=(data, replace(ceph, problem_code=code, problem="it waits")))
    world.done.clear()
    for _ in range(8):
        made = world.look()
        assert any(reason.code == code for reason in made.reasons)
        world.now += SECOND
        if PrepareDevice(ceph.key) in made.actions:
            world.done.append(PrepareDevice(ceph.key))
            waited = replace(ceph, problem_code=code, problem="it waits", problem_at=world.now)
            world.record = replace(world.record, attachments=(data, waited))
    assert prepared(world, "ceph") == tries


def test_reason_cold_only_is_given_until_the_next_cold_start() -> None:
    world = waits("ceph")
    world.slow = {}
    world.settle()
    assert world.record is not None
    locked = volume_row("luks", target="vdl")
    world.record = replace(world.record, attachments=(*world.record.attachments, locked))
    world.policy = replace(POLICY, cold_only=lambda row: "it cannot be plugged" if row.name == "luks" else "")
    made = world.settle()
    assert made is not None
    assert [reason.code for reason in made.reasons] == ["cold-only"]
    assert (prepared(world, "luks"), made.wake_at) == (0, T0 + 30 * SECOND), "only the long wait is told of"
    world.stop_guest("finished", "failed", "failed")
    world.run_until(lambda: locked.alias in world.live)
    made = world.settle()
    assert made is not None
    assert not made.reasons
