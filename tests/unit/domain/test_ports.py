"""Who gets which root port."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sri_libvirt.domain.ports import assign
from sri_libvirt.records import Attachment
from tests.unit.domain.samples import image_row, nic_row, seed_row, volume_row


def by_name(rows: list[Attachment], ports: int = 8) -> dict[str, int]:
    return {key[1] or key[0]: port for key, port in assign(rows, ports).items()}


def placed(rows: list[Attachment], ports: int = 8) -> list[Attachment]:
    given = assign(rows, ports)
    return [replace(row, port=given[row.key]) for row in rows]


@pytest.mark.rule("R-A4-7", "R-G12-4", "R-G12-5")
def test_first_define_by_device_name_not_by_list() -> None:
    rows = [nic_row("y"), volume_row("c", "odaa"), volume_row("a", "odb"), nic_row("x"), volume_row("b", "oda")]
    assert by_name([*rows, image_row(), seed_row()]) == {
        "image": 1, "b": 2, "a": 3, "c": 4, "x": 5, "y": 6, "seed": 8,
    }  # fmt: skip


def test_without_image_and_seed_their_ports_are_free() -> None:
    assert by_name([volume_row("a", "oda"), nic_row("x")], 2) == {"a": 1, "x": 2}


def test_image_port_is_kept_while_the_image_is_not_prepared() -> None:
    assert by_name([image_row(backing=None), volume_row("a", "oda")]) == {"image": 0, "a": 2}


@pytest.mark.rule("R-G12-5")
def test_later_attach_takes_the_lowest_free_and_moves_nobody() -> None:
    first = placed([image_row(), volume_row("a", "oda"), volume_row("b", "odb"), nic_row("x")])
    without_a = [row for row in first if row.name != "a"]
    rows = [*without_a, volume_row("new", "odc"), nic_row("late")]
    assert by_name(rows) == {"image": 1, "new": 2, "b": 3, "x": 4, "late": 5}


def test_an_unwanted_row_holds_its_port() -> None:
    leaving = replace(placed([volume_row("a", "oda")])[0], wanted=False)
    again = replace(volume_row("a", "oda"), incarnation=2)
    assert assign([leaving, again], 4) == {leaving.key: 1, again.key: 2}


def test_what_is_not_prepared_or_not_wanted_gets_none() -> None:
    assert by_name([nic_row("x", backing=None), volume_row("gone", "oda", wanted=False)]) == {"x": 0, "gone": 0}


def test_too_many_devices_wait() -> None:
    rows = [image_row(), seed_row(), volume_row("a", "oda"), volume_row("b", "odb"), nic_row("x")]
    assert by_name(rows, 3) == {"image": 1, "a": 2, "seed": 3, "b": 0, "x": 0}


letters = st.sampled_from("abcdefgh")
row = st.one_of(
    st.builds(lambda name, device: volume_row(name, f"od{device}"), letters, letters), st.builds(nic_row, letters)
)


@given(
    st.lists(row, unique_by=lambda each: each.key, max_size=12),
    st.lists(st.booleans(), min_size=14, max_size=14),
    st.integers(2, 8),
    st.booleans(),
)
def test_no_port_twice_and_none_moves(rows: list[Attachment], early: list[bool], ports: int, image: bool) -> None:
    rows = [*rows, *([image_row(), seed_row()] if image else [])]
    late = {row.key for row, now in zip(rows, early, strict=False) if not now}
    before = {
        row.key: row for row in placed([replace(row, backing=None) if row.key in late else row for row in rows], ports)
    }
    after = placed([replace(row, port=before[row.key].port) for row in rows], ports)
    held = [row.port for row in after if row.port]
    assert len(held) == len(set(held))
    assert all(port <= ports for port in held)
    assert all(row.port == before[row.key].port for row in after if before[row.key].port)
    assert not any(before[key].port for key in late)
    assert len(held) in (ports, len(after))
