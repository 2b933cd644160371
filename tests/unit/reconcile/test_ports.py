"""Machines with more devices than root ports: what has no port is told of and holds up nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.reconcile import actions as act
from sri_libvirt.records import Attachment
from tests.unit.reconcile.world import (
    ID,
    POLICY,
    PROFILE,
    T0,
    World,
    codes,
    machine,
    nic_row,
    power,
    state,
    volume_row,
)

IMAGE = Attachment(ID, "image", "", 1, b"", True, T0, target="vdaaa", serial="image")
SEED = Attachment(ID, "seed", "", 1, b"", True, T0, target="vdaab", serial="seed")


def volumes(count: int) -> list[Attachment]:
    return [volume_row(f"v{index}", target=f"vd{chr(97 + index)}") for index in range(count)]


def world(*rows: Attachment, ports: int, power: pb.Power = pb.POWER_ON, **changes: object) -> World:
    return World(machine(*rows, power=power, **changes), policy=replace(POLICY, ports=ports))


def defines(some: World) -> int:
    return sum(isinstance(action, act.Define) for action in some.done)


def prepared(some: World) -> Counter[str]:
    return Counter(action.key[1] for action in some.done if isinstance(action, act.PrepareDevice))


@pytest.mark.rule("R-G9-2")
@pytest.mark.parametrize("problem", ["", "the backend is away"])
def test_reason_no_port_holds_up_no_cold_start(problem: str) -> None:
    late = volume_row("late", target="vdz", problem=problem, problem_at=T0 if problem else 0)
    some = world(*volumes(4), late, ports=4)
    some.settle()
    assert state(some) == "RUNNING"
    assert codes(some) == ["no-port"]
    assert prepared(some)["late"] == 0


@pytest.mark.rule("R-G9-2")
def test_reason_no_port_is_told_before_the_hardware_is_chosen() -> None:
    some = world(IMAGE, *volumes(3), ports=2)
    made = some.look()
    told = [reason.message for reason in made.reasons if reason.code == "no-port"]
    assert [message.split(" has ")[0] for message in told] == ['volume "v1"', 'volume "v2"']
    assert all("all 2 of this machine" in message for message in told)


@pytest.mark.parametrize("count", [3, 12])
def test_a_machine_that_is_off_with_an_image_that_is_missing_is_defined_once(count: int) -> None:
    some = world(IMAGE, SEED, *volumes(count), ports=4, power=pb.POWER_OFF)
    some.broken = {""}
    for _ in range(20):  # libvirt tells of every define, which is another look
        some.settle()
    assert defines(some) == 1
    assert state(some) == "SUSPENDED"
    assert codes(some).count("no-port") == count - 2
    assert some.persistent == {volumes(2)[index].alias for index in range(2)}


def test_a_port_that_gets_free_is_taken_by_the_next_in_order() -> None:
    rows = volumes(4)
    some = world(*rows, nic_row("x"), ports=3, power=pb.POWER_OFF)
    some.settle()
    assert some.record is not None
    gone = tuple(replace(row, wanted=row.name != "v0") for row in some.record.attachments)
    some.record = replace(some.record, attachments=gone)
    some.settle()
    assert {row.name: row.port for row in some.record.attachments} == {"v1": 2, "v2": 3, "v3": 1, "x": 0}
    assert codes(some) == ["no-port"]


def test_a_network_interface_without_a_network_holds_no_port() -> None:
    some = world(nic_row("waits", network=""), nic_row("b"), volume_row("c"), ports=2)
    some.settle()
    assert state(some) == "RUNNING"
    assert codes(some) == ["network-unknown"]


letters = "abcdefgh"
devices = st.one_of(
    st.builds(
        lambda letter, wanted, incarnation: volume_row(
            letter, target=f"vd{letter}", wanted=wanted, incarnation=incarnation
        ),
        st.sampled_from(letters),
        st.booleans(),
        st.integers(1, 2),
    ),
    st.builds(
        lambda letter, network, wanted: nic_row(letter, network=network, wanted=wanted),
        st.sampled_from(letters),
        st.sampled_from(["network://net", ""]),
        st.booleans(),
    ),
    st.sampled_from([IMAGE, SEED]),
)


def one_of_each_name(rows: list[Attachment]) -> tuple[Attachment, ...]:
    """The RPCs allow one wanted row of a name."""
    wanted: set[tuple[str, str]] = set()
    kept = []
    for row in rows:
        if row.wanted and (row.kind, row.name) in wanted:
            continue
        wanted |= {(row.kind, row.name)} if row.wanted else set()
        kept.append(row)
    return tuple(kept)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(devices, max_size=14, unique_by=lambda row: row.key).map(one_of_each_name),
    st.integers(2, 6),
    st.sampled_from([pb.POWER_ON, pb.POWER_OFF]),
    st.booleans(),
    st.sets(st.sampled_from(["", *letters])),
)
def test_any_rows_and_any_ports_come_to_rest_and_only_what_has_a_port_is_prepared(
    rows: tuple[Attachment, ...], ports: int, wish: pb.Power, chosen: bool, broken: set[str]
) -> None:
    profile = replace(PROFILE, ports=ports) if chosen else None
    some = world(*rows, ports=ports, power=wish, profile=profile)
    some.broken = broken
    for _ in range(3):  # the world fails when it is asked to prepare what has no port
        some.settle()
    assert max(prepared(some).values(), default=0) <= 2, "a retry only after a while"
    some.broken = set()
    some.run_until(lambda: state(some) == ("RUNNING" if wish == pb.POWER_ON else "SUSPENDED"))
    some.run_until(lambda: not ({"device-not-ready", "release-failed", "older-device-first"} & set(codes(some))))
    some.settle()
    assert some.record is not None
    having = {row.alias for row in some.record.attachments if row.port}
    assert some.persistent == having
    assert len(having) == ports or "no-port" not in codes(some)
    before = defines(some)
    some.settle()
    assert defines(some) == before, "nothing is defined that is so already"
    power(some, pb.POWER_ON)
    some.run_until(lambda: state(some) == "RUNNING")
    assert some.live == having
