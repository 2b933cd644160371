"""What a machine's image reference means is learned once, before anything is chosen or made for the machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.reconcile.actions import ChooseProfile, PrepareDevice, ResolveImage, Start
from sri_libvirt.records import SECOND, Attachment
from tests.unit.reconcile.world import PIN, POLICY, T0, World, image_row, machine, volume_row


def fetched(*rows: Attachment, power: pb.Power = pb.POWER_ON) -> World:
    """A machine whose image is in a registry."""
    spec = pb.MachineSpec(power=power, image=pb.ImageSpec(image="r/debian:12"))
    world = World(replace(machine(image_row(), *rows, power=power), spec=spec))

    def busy_until(row: Attachment) -> int | None:
        return world.slow.get("the reference") if row.kind == "image" and row.image is None else None

    world.policy = replace(
        POLICY, unresolved=lambda row: row.kind == "image" and row.image is None, busy_until=busy_until
    )
    return world


@pytest.mark.parametrize("power", [pb.POWER_ON, pb.POWER_OFF])
def test_it_is_learned_before_the_hardware_is_chosen_and_once(power: pb.Power) -> None:
    world = fetched(power=power)
    world.settle()
    assert [type(action) for action in world.done[:2]] == [ResolveImage, ChooseProfile]
    assert sum(isinstance(action, ResolveImage) for action in world.done) == 1
    assert world.record is not None
    assert world.record.image == PIN
    assert isinstance(world.done[-1], Start) == (power == pb.POWER_ON)


def test_until_it_is_known_nothing_is_made_and_nobody_is_asked_again() -> None:
    world = fetched(volume_row())
    world.slow = {"the reference": T0 + 40 * SECOND}
    made = world.settle()
    assert made is not None
    assert [reason.code for reason in made.reasons] == ["under-way"]
    world.now += 20 * SECOND
    world.settle()
    assert [type(action) for action in world.done] == [ResolveImage]
    world.slow = {}
    world.now += 1
    world.settle()
    assert isinstance(world.done[-1], Start)


def test_its_status_says_it_by_content_once_it_is_known() -> None:
    world = fetched()
    world.slow = {"the reference": T0 + 40 * SECOND}
    world.settle()
    assert world.record is not None
    assert world.look().status.image_ref == "r/debian:12"
    world.slow = {}
    world.settle()
    assert world.look().status.image_ref == PIN.reference


def test_a_machine_that_goes_meanwhile_asks_no_more() -> None:
    world = fetched()
    world.slow = {"the reference": T0 + 40 * SECOND}
    world.settle()
    assert world.record is not None
    world.now += 1
    world.record = replace(world.record, deleted_at=world.now)
    assert world.settle() is None
    assert not any(isinstance(action, PrepareDevice) for action in world.done)
