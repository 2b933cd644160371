"""What the host has no room for, and a host that is drained: machines wait, and say for what."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.reconcile.view import Policy
from sri_libvirt.records import SECOND, StopCause
from tests.unit.reconcile.world import POLICY, T0, World, machine, volume_row

PROBLEM = "the host has no room for it: disk: 1 GiB asked, 0 B free (of 10 GiB, 10 GiB claimed)"


@dataclass
class Host:
    """An operator's word on it."""

    drained: int = 0

    @property
    def policy(self) -> Policy:
        return replace(POLICY, drained_since=lambda: self.drained)


@pytest.mark.rule("R-G8-1")
def test_reason_no_room_holds_up_the_first_start_and_is_tried_again() -> None:
    row = volume_row(problem=PROBLEM, problem_advice="Delete machines.", problem_at=T0, problem_code="no-room")
    made = World(machine(row), now=T0 + SECOND).look()
    assert [(reason.code, reason.message) for reason in made.reasons] == [
        ("no-room", f'volume "data" is not ready: {PROBLEM}')
    ]
    assert made.actions == ()
    assert made.wake_at == T0 + POLICY.prepare_retry
    assert made.status.volumes[0].state == pb.VOLUME_PENDING
    later = World(machine(row), now=T0 + POLICY.prepare_retry)
    later.run_until(lambda: later.domain is not None and later.domain.active)


def running(host: Host) -> World:
    world = World(machine(), policy=host.policy)
    world.run_until(lambda: world.record is not None and world.record.status.state == pb.MACHINE_RUNNING)
    return world


def test_reason_drained_is_why_a_guest_is_off_until_the_host_is_uncordoned() -> None:
    host = Host()
    world = running(host)
    host.drained = world.now = world.now + 100 * SECOND
    world.run_until(lambda: world.domain is not None and not world.domain.active)
    made = world.settle()
    assert made is not None
    assert [reason.code for reason in made.reasons] == ["drained"]
    assert made.status.state == pb.MACHINE_SUSPENDED
    assert made.run.stopped is StopCause.REQUESTED
    assert world.record is not None
    assert world.record.spec.power == pb.POWER_ON
    world.boot = "boot-2"
    made = world.settle()
    assert made is not None
    assert [reason.code for reason in made.reasons] == ["drained"], "a reboot of the host changes nothing"
    host.drained = 0
    world.run_until(lambda: world.domain is not None and world.domain.active)


def test_a_drained_guest_that_does_not_listen_is_destroyed_after_the_grace_time() -> None:
    host = Host()
    world = running(host)
    world.deaf = True
    host.drained = world.now = world.now + 100 * SECOND
    begun = world.now
    world.run_until(lambda: world.domain is not None and not world.domain.active)
    assert world.now >= begun + POLICY.shutdown_grace


def test_what_the_guest_or_the_user_switched_off_stays_off_after_a_drain() -> None:
    host = Host()
    world = running(host)
    assert world.record is not None
    spec = pb.MachineSpec(power=pb.POWER_OFF)
    world.record = replace(world.record, spec=spec, power_at=world.now + SECOND)
    world.now += 2 * SECOND
    world.run_until(lambda: world.domain is not None and not world.domain.active)
    host.drained = world.now = world.now + SECOND
    made = world.settle()
    assert made is not None
    assert made.reasons == ()
    host.drained = 0
    made = world.settle()
    assert made is not None
    assert made.status.state == pb.MACHINE_SUSPENDED


def test_a_machine_of_a_drained_host_can_be_deleted() -> None:
    host = Host()
    world = running(host)
    host.drained = world.now = world.now + 100 * SECOND
    world.settle()
    assert world.record is not None
    world.record = replace(world.record, deleted_at=world.now)
    world.run_until(lambda: world.record is None)
