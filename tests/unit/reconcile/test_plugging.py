"""Devices of a running guest: plugged, unplugged and released by passes over what is stored and seen."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.hypervisor.base import DomainState
from sri_libvirt.reconcile import actions as act
from sri_libvirt.records import GIB, SECOND, Attachment, Run
from tests.unit.reconcile.world import POLICY, T0, World, machine, nic_row, snapshot, volume_row

SETTLE = POLICY.detach_settle


def running(*rows: Attachment) -> World:
    world = World(machine(*rows))
    world.settle()
    assert world.record is not None
    assert world.record.status.state == pb.MACHINE_RUNNING
    world.done.clear()
    return world


def attach(world: World, row: Attachment) -> Attachment:
    """As the RPC does: into the spec, and a row that is wanted from now on."""
    assert world.record is not None
    spec = pb.MachineSpec()
    spec.CopyFrom(world.record.spec)
    if row.kind == "volume":
        spec.volumes.add().CopyFrom(row.volume())
    else:
        spec.network_interfaces.add().CopyFrom(row.nic())
    new = replace(row, changed_at=world.now)
    others = tuple(other for other in world.record.attachments if other.key != row.key)
    generation = world.record.generation + 1
    world.record = replace(world.record, spec=spec, generation=generation, attachments=(*others, new))
    return new


def detach(world: World, name: str) -> Attachment:
    assert world.record is not None
    spec = pb.MachineSpec()
    spec.CopyFrom(world.record.spec)
    volumes = [volume for volume in spec.volumes if volume.name != name]
    nics = [nic for nic in spec.network_interfaces if nic.name != name]
    del spec.volumes[:], spec.network_interfaces[:]
    spec.volumes.extend(volumes)
    spec.network_interfaces.extend(nics)
    row = next(row for row in world.record.attachments if row.name == name and row.wanted)
    gone = replace(row, wanted=False, changed_at=world.now)
    rows = tuple(gone if other.key == row.key else other for other in world.record.attachments)
    world.record = replace(world.record, spec=spec, generation=world.record.generation + 1, attachments=rows)
    return gone


def again(world: World, row: Attachment) -> None:
    """The same row is wanted again, as the RPC finds it by its backing."""
    assert world.record is not None
    now = next(each for each in world.record.attachments if each.key == row.key)
    attach(world, replace(now, wanted=True))


def codes(world: World) -> list[str]:
    assert world.record is not None
    return [reason.code for reason in world.record.reasons]


def rows(world: World) -> dict[str, Attachment]:
    assert world.record is not None
    return {row.alias: row for row in world.record.attachments}


def test_an_attached_device_is_prepared_plugged_and_persisted() -> None:
    world = running(volume_row())
    new = attach(world, volume_row("late", target="vdb"))
    world.settle()
    assert new.alias in world.live & world.persistent
    assert rows(world)[new.alias].port == 2
    assert codes(world) == []
    assert world.record is not None
    assert {volume.state for volume in world.record.status.volumes} == {pb.VOLUME_ATTACHED}
    assert world.record.status.observed_generation == world.record.generation


def test_a_nic_is_plugged_when_its_network_is_known() -> None:
    world = running(nic_row(network=""))
    assert codes(world) == ["network-unknown"]
    detach(world, "nic")
    world.settle()
    new = attach(world, nic_row(incarnation=2))
    world.run_until(lambda: new.alias in world.live)


@pytest.mark.rule("R-G4-3")
def test_reason_detach_settles_and_nothing_is_sent_when_the_device_comes_back_in_time() -> None:
    world = running(volume_row(), volume_row("other", target="vdb"))
    old = detach(world, "data")
    made = world.settle()
    assert codes(world) == ["detach-settles"]
    assert made is not None
    assert made.wake_at == T0 + SETTLE
    world.now += SETTLE - 1
    again(world, old)
    world.settle()
    assert codes(world) == []
    assert not any(isinstance(action, act.UnplugDevice) for action in world.done)
    assert old.alias in world.live & world.persistent


def test_a_detached_device_leaves_the_guest_and_is_released_only_then() -> None:
    world = running(volume_row(), volume_row("other", target="vdb"))
    old = detach(world, "data")
    world.deaf_to_unplug = True
    world.run_until(lambda: codes(world) == ["unplugging"])
    assert old.alias in rows(world)
    world.reset()
    world.settle()
    assert old.alias not in rows(world)
    assert old.alias not in world.live | world.persistent


def test_reason_unplugging_asks_again_every_few_seconds() -> None:
    world = running(volume_row(), volume_row("other", target="vdb"))
    detach(world, "data")
    world.deaf_to_unplug = True
    world.run_until(lambda: world.done.count(act.UnplugDevice(("volume", "data", 1))) == 4)
    assert world.now == T0 + SETTLE + 3 * POLICY.unplug_every
    assert codes(world) == ["unplugging"]
    world.deaf_to_unplug = False
    world.run_until(lambda: codes(world) == [])


def test_a_device_that_vanishes_although_it_is_wanted_again_is_plugged_anew() -> None:
    world = running(volume_row(), volume_row("other", target="vdb"))
    world.deaf_to_unplug = True
    old = detach(world, "data")
    world.run_until(lambda: codes(world) == ["unplugging"])
    again(world, old)
    world.settle()
    assert codes(world) == []
    port = rows(world)[old.alias].port
    world.done.clear()
    world.reset()
    assert old.alias not in world.live
    world.settle()
    assert act.PlugDevice(old.key) in world.done
    assert old.alias in world.live
    assert rows(world)[old.alias].port == port


def test_a_second_detach_settles_anew() -> None:
    world = running(volume_row(), volume_row("other", target="vdb"))
    world.deaf_to_unplug = True
    old = detach(world, "data")
    world.run_until(lambda: codes(world) == ["unplugging"])
    again(world, old)
    world.settle()
    world.now += SECOND
    detach(world, "data")
    world.settle()
    assert codes(world) == ["detach-settles"]


@pytest.mark.rule("R-A10-5")
def test_another_volume_of_the_same_name_waits_for_the_older_one() -> None:
    world = running(volume_row(), volume_row("other", target="vdb"))
    world.deaf_to_unplug = True
    old = detach(world, "data")
    new = attach(world, volume_row(incarnation=2))
    world.run_until(lambda: "unplugging" in codes(world))
    assert set(codes(world)) == {"unplugging", "older-device-first"}
    world.deaf_to_unplug = False
    world.run_until(lambda: new.alias in world.live)
    assert old.alias not in rows(world)


def test_another_volume_of_the_same_target_waits_for_the_older_one() -> None:
    world = running(volume_row(), volume_row("other", target="vdb"))
    detach(world, "data")
    new = attach(world, volume_row("new", target="vda"))
    world.settle()
    assert set(codes(world)) == {"detach-settles", "older-device-first"}
    world.run_until(lambda: new.alias in world.live)


@pytest.mark.rule("R-G4-5", "R-G4-6")
def test_reason_detach_held_keeps_empty_disks_when_all_volumes_go_at_once() -> None:
    connection = pb.Volume(name="remote", connection=pb.VolumeConnection(driver="d", handle="h"))
    remote = volume_row("remote", target="vdb", spec=connection.SerializeToString())
    world = running(volume_row(), remote)
    held, gone = detach(world, "data"), detach(world, "remote")
    world.run_until(lambda: gone.alias not in world.live)
    assert world.now == T0 + SETTLE, "a connection may be wanted elsewhere"
    assert codes(world) == ["detach-held"]
    assert held.alias in world.live
    world.now += 60 * SECOND
    again(world, held)
    world.settle()
    assert codes(world) == []
    detach(world, "data")
    since = world.now
    world.run_until(lambda: held.alias not in world.live)
    assert world.now == since + POLICY.detach_hold


def test_the_hold_outlasts_the_return_of_the_first_volume() -> None:
    world = running(volume_row(), volume_row("other", target="vdb"))
    first, second = detach(world, "data"), detach(world, "other")
    world.now += 60 * SECOND
    world.settle()
    assert codes(world) == ["detach-held", "detach-held"]
    again(world, first)
    world.settle()
    assert codes(world) == ["detach-held"]
    again(world, second)
    world.settle()
    assert codes(world) == []
    assert not any(isinstance(action, act.UnplugDevice) for action in world.done)


def test_a_volume_that_stayed_a_while_longer_ends_no_settle_time() -> None:
    world = running(volume_row(), volume_row("other", target="vdb"))
    first = detach(world, "data")
    world.now += SETTLE + SECOND
    second = detach(world, "other")
    world.settle()
    assert first.alias not in world.live
    world.now += SETTLE
    world.settle()
    assert codes(world) == ["detach-held"]
    assert second.alias in world.live


def test_the_hold_gives_way_to_a_volume_that_needs_its_place() -> None:
    world = running(volume_row())
    detach(world, "data")
    world.now += 60 * SECOND
    world.settle()
    assert codes(world) == ["detach-held"]
    new = attach(world, volume_row("new", target="vda"))
    world.settle()
    assert new.alias in world.live


def test_the_hold_is_told_once() -> None:
    world = running(volume_row())
    detach(world, "data")
    world.now += SETTLE
    assert [event.kind for event in world.look().events] == ["held"]
    assert world.look().events == ()


@pytest.mark.rule("R-G9-2")
def test_reason_no_port_ends_when_a_port_gets_free() -> None:
    world = running(*(volume_row(f"v{index}", target=f"vd{'abcd'[index]}") for index in range(4)))
    new = attach(world, volume_row("late", target="vde"))
    world.settle()
    assert codes(world) == ["no-port"]
    old = detach(world, "v2")
    world.run_until(lambda: new.alias in world.live)
    assert rows(world)[new.alias].port == old.port


def test_a_device_that_cannot_be_prepared_keeps_no_other_waiting() -> None:
    world = running()
    bad = attach(world, volume_row("bad"))
    good = attach(world, volume_row("good", target="vdb"))
    world.broken = {"bad"}
    world.settle()
    assert good.alias in world.live
    assert codes(world) == ["device-not-ready"]
    world.broken = set()
    world.run_until(lambda: bad.alias in world.live)


@pytest.mark.parametrize("state", [DomainState.PAUSED, DomainState.SHUTTING_DOWN, DomainState.CRASHED])
def test_a_guest_that_does_not_run_gets_and_gives_nothing(state: DomainState) -> None:
    world = running(volume_row())
    world.domain = snapshot(state, "user")
    detach(world, "data")
    attach(world, volume_row("late", target="vdb"))
    world.now += 1000 * SECOND
    world.settle()
    assert world.done == []


def test_a_guest_that_is_to_stop_gets_nothing_more() -> None:
    world = running(volume_row())
    world.deaf = True
    attach(world, volume_row("late", target="vdb"))
    assert world.record is not None
    world.record.spec.power = pb.POWER_OFF
    world.settle()
    assert {type(action) for action in world.done} == {act.PressButton}


def test_addresses_stay_through_churn_and_a_cold_boot() -> None:
    world = running(*(volume_row(f"v{index}", target=f"vd{'abc'[index]}") for index in range(3)))
    detach(world, "v1")
    world.run_until(lambda: len(world.live) == 2)
    attach(world, volume_row("late", target="vdd"))
    world.settle()
    ports = {alias: row.port for alias, row in rows(world).items()}
    world.stop_guest("", "failed", "crashed")
    world.run_until(lambda: world.domain is not None and world.domain.active)
    assert {alias: row.port for alias, row in rows(world).items()} == ports
    assert world.live == frozenset(ports)


def test_reason_define_failed_waits_and_ends() -> None:
    world = running(volume_row())
    assert world.record is not None
    world.persistent = frozenset()
    world.record = replace(world.record, run=replace(world.record.run, error="no", not_before=T0 + SECOND))
    made = world.settle()
    assert codes(world) == ["define-failed"]
    assert made is not None
    assert made.wake_at == T0 + SECOND
    world.now += SECOND
    world.settle()
    assert codes(world) == []
    assert world.persistent == world.live


def test_a_backing_that_the_store_has_lost_is_prepared_and_nothing_is_plugged_twice() -> None:
    world = running(volume_row())
    assert world.record is not None
    row = replace(world.record.attachments[0], backing=None)
    world.record = replace(world.record, attachments=(row,))
    world.settle()
    assert world.record is not None
    assert world.record.status.volumes[0].state == pb.VOLUME_ATTACHED
    assert {type(action) for action in world.done} <= {act.AssignPorts, act.PrepareDevice, act.Define}


attachments = st.lists(
    st.builds(
        volume_row,
        st.sampled_from(["a", "b", "c"]),
        incarnation=st.integers(1, 2),
        wanted=st.booleans(),
        target=st.sampled_from(["vda", "vdb", "vdc"]),
        backing=st.none(),
        changed_at=st.sampled_from([T0 - 1000 * SECOND, T0 - SECOND, T0]),
        unplug_at=st.sampled_from([0, T0 - SECOND]),
    ),
    max_size=5,
    unique_by=lambda row: row.key,
)


@settings(max_examples=300, deadline=None)
@given(attachments, st.booleans(), st.sets(st.integers(0, 4)))
def test_whatever_is_attached_the_guest_comes_to_have_exactly_that(
    some: list[Attachment], deaf: bool, plugged: set[int]
) -> None:
    wanted: set[str] = set()
    kept: list[Attachment] = []
    for row in some:
        if row.wanted and (row.name in wanted or row.target in {other.target for other in kept if other.wanted}):
            continue  # the RPCs allow one wanted row per name and target
        wanted |= {row.name} if row.wanted else set()
        kept.append(row)
    world = running()
    assert world.record is not None
    targets: set[str] = set()
    port = 0
    made = []
    for index, row in enumerate(kept):
        if index in plugged and row.target not in targets and port < 4:
            targets.add(row.target)
            port += 1
            row = replace(row, port=port)
            world.live |= {row.alias}
        made.append(row)
    spec = machine(*made).spec
    world.record = replace(world.record, attachments=tuple(made), spec=spec, run=replace(world.record.run))
    world.deaf_to_unplug = deaf
    world.settle()
    world.deaf_to_unplug = False

    def there() -> bool:
        assert world.record is not None
        return not any(not row.wanted for row in world.record.attachments)

    world.run_until(there)
    world.settle()
    assert world.record is not None
    assert world.live == {row.alias for row in world.record.attachments} == world.persistent
    assert world.record.run.failures == Run().failures
    assert all(row.volume().empty_disk.size_bytes == GIB for row in world.record.attachments)


def test_reason_device_ejected_plugs_again_after_growing_pauses_and_a_calm_forgives() -> None:
    world = running(volume_row())
    (alias,) = world.live
    times: list[int] = []
    told = 0
    while len(times) < 11:
        world.eject(alias)
        while alias not in world.live:
            made = world.look()
            told += sum(event.reason == "ejected" for event in made.events)
            if made.actions:
                assert all(map(world._perform, made.actions))
                continue
            assert codes(world) == ["device-ejected"]
            assert world.record is not None
            assert world.record.status.volumes[0].state == pb.VOLUME_PENDING
            assert made.wake_at is not None
            world.now = made.wake_at
        times.append(world.now)
        assert world.settle() is not None
        assert codes(world) == []
    assert [(b - a) // SECOND for a, b in itertools.pairwise(times)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]
    assert told == 10
    world.now += 361 * SECOND
    world.eject(alias)
    world.settle()
    assert alias in world.live
    assert world.record is not None
    assert world.record.attachments[0].plugs == 1


def test_a_device_that_is_wanted_again_after_an_unplug_of_ours_waits_for_no_brake() -> None:
    world = running(volume_row())
    (alias,) = world.live
    world.eject(alias)
    world.settle()
    assert world.record is not None
    assert world.record.attachments[0].plugs == 1
    row = detach(world, "data")
    world.deaf_to_unplug = True
    world.run_until(lambda: bool(world.unplugging))
    again(world, row)
    world.reset()
    world.settle()
    assert alias in world.live
    assert codes(world) == []


def test_what_somebody_has_taken_away_is_made_ready_again_under_the_guest() -> None:
    world = running(nic_row("eth"))
    (row,) = world.record.attachments if world.record else ()
    lost = {row.key}
    world.policy = replace(POLICY, is_lost=lambda each: each.key in lost)
    assert world.look().actions == (act.AssignPorts(), act.PrepareDevice(row.key, plugged=True))
    world.broken = {"eth"}
    made = world.look()
    for action in made.actions:
        world._perform(action)
    made = world.look()
    assert not made.actions
    assert {reason.code for reason in made.reasons} == {"device-not-ready"}
    assert made.status.network_interfaces[0].state == pb.NETWORK_INTERFACE_ATTACHED, "the guest has it"
    assert made.wake_at is not None
    world.broken = set()
    lost.clear()
    world.settle()
    assert world.live == {row.alias}
