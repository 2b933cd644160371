"""Who gets which root port."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.domain.ports import assign, in_domain, leaving_names, placed, usable, without_network
from sri_libvirt.records import MOST_DEVICES, Attachment
from tests.unit.domain.samples import image_row, nic_row, seed_row, volume_row


def waiting_nic(name: str) -> Attachment:
    """One whose network has no id yet."""
    return nic_row(name, spec=pb.NetworkInterface(name=name).SerializeToString(), backing=None)


def by_name(rows: list[Attachment], ports: int = 8) -> dict[str, int]:
    return {key[1] or key[0]: port for key, port in assign(rows, ports).items()}


@pytest.mark.rule("R-A4-7", "R-G12-4", "R-G12-5")
def test_first_define_by_device_name_not_by_list() -> None:
    rows = [nic_row("y"), volume_row("c", "odaa"), volume_row("a", "odb"), nic_row("x"), volume_row("b", "oda")]
    assert by_name([*rows, image_row(), seed_row()]) == {
        "image": 1, "b": 2, "a": 3, "c": 4, "x": 5, "y": 6, "seed": 8,
    }  # fmt: skip


def test_without_image_and_seed_their_ports_are_free() -> None:
    assert by_name([volume_row("a", "oda"), nic_row("x")], 2) == {"a": 1, "x": 2}


def test_who_has_a_port_does_not_depend_on_who_is_prepared() -> None:
    rows = [image_row(), seed_row(), volume_row("a", "oda"), nic_row("x"), nic_row("y")]
    for ready in range(len(rows) + 1):
        some = [*rows[:ready], *(replace(row, backing=None) for row in rows[ready:])]
        assert by_name(some, 4) == {"image": 1, "a": 2, "x": 3, "y": 0, "seed": 4}


@pytest.mark.rule("R-G12-5")
def test_later_attach_takes_the_lowest_free_and_moves_nobody() -> None:
    first = placed([image_row(), volume_row("a", "oda"), volume_row("b", "odb"), nic_row("x")], 8)
    without_a = [row for row in first if row.name != "a"]
    rows = [*without_a, volume_row("new", "odc"), nic_row("late")]
    assert by_name(rows) == {"image": 1, "new": 2, "b": 3, "x": 4, "late": 5}


def test_an_unwanted_row_holds_its_port() -> None:
    leaving = replace(placed([volume_row("a", "oda")], 8)[0], wanted=False)
    again = replace(volume_row("a", "oda"), incarnation=2)
    other = volume_row("b", "odb")
    assert assign([leaving, again, other], 4) == {leaving.key: 1, again.key: 0, other.key: 2}
    assert assign([again, other], 4) == {again.key: 1, other.key: 2}, "it waited for the older of its name"


def test_what_has_no_network_or_is_not_wanted_gets_none() -> None:
    rows = [waiting_nic("x"), nic_row("y"), volume_row("gone", "oda", wanted=False)]
    assert by_name(rows, 2) == {"x": 0, "y": 1, "gone": 0}


def test_a_domain_has_what_is_wanted_prepared_and_has_a_port() -> None:
    rows = [
        volume_row("a", "oda", port=1), volume_row("b", "odb"), volume_row("c", "odc", port=2, wanted=False),
        nic_row("x", port=3, backing=None),
    ]  # fmt: skip
    assert [row.name for row in in_domain(rows)] == ["a"]
    assert [row.name for row in in_domain(placed(rows, 8))] == ["a", "b"]


def test_too_many_devices_wait() -> None:
    rows = [image_row(), seed_row(), volume_row("a", "oda"), volume_row("b", "odb"), nic_row("x")]
    assert by_name(rows, 3) == {"image": 1, "a": 2, "seed": 3, "b": 0, "x": 0}


@pytest.mark.parametrize(("vcpus", "most"), [(1, 47), (2, 95), (4, 126), (8, 152), (64, 184), (255, 184)])
def test_a_machine_has_as_many_ports_as_its_vcpus_can_serve(vcpus: int, most: int) -> None:
    assert usable(MOST_DEVICES, vcpus) == most
    assert usable(24, vcpus) == 24
    vectors = most + most * max(vcpus + 1, 3)
    assert vectors <= 190 * vcpus


letters = st.sampled_from("abcdefgh")
row = st.one_of(
    st.builds(
        lambda name, device, wanted, incarnation: replace(
            volume_row(name, f"od{device}", wanted=wanted), incarnation=incarnation
        ),
        letters,
        letters,
        st.booleans(),
        st.integers(1, 2),
    ),
    st.builds(lambda name, wanted: nic_row(name, wanted=wanted), letters, st.booleans()),
    st.builds(waiting_nic, letters),
)


@given(
    st.lists(row, unique_by=lambda each: each.key, max_size=12),
    st.lists(st.booleans(), min_size=14, max_size=14),
    st.integers(2, 8),
    st.booleans(),
)
def test_no_port_twice_and_none_moves(rows: list[Attachment], early: list[bool], ports: int, image: bool) -> None:
    rows = [*rows, *([image_row(), seed_row()] if image else [])]
    fixed = [row for row in rows if row.kind in ("image", "seed")]
    first = placed([*fixed, *(row for row, now in zip(rows, early, strict=False) if now and row not in fixed)], ports)
    known = {row.key: row for row in first}
    after = placed([known.get(row.key, row) for row in rows], ports)
    held = [row.port for row in after if row.port]
    assert len(held) == len(set(held))
    assert all(port <= ports for port in held)
    assert all(row.port == known[row.key].port for row in after if row.key in known and known[row.key].port)
    left_out = [row for row in after if row.wanted and not row.port and not without_network(row)]
    leaving = leaving_names(after)
    assert len(held) == ports or all((row.kind, row.name) in leaving for row in left_out)
    assert placed(after, ports) == after
