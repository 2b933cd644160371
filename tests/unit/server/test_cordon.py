"""Cordon and drain: what each command makes of the state, and what is told to whoever is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sri_libvirt.paths import StatePaths
from sri_libvirt.server.cordon import Cordon, CordonKeeper, changed, of_text
from sri_libvirt.store import Store


@pytest.mark.parametrize(
    ("before", "command", "reason", "after"),
    [
        (Cordon(), "cordon", "a disk", Cordon(9, "a disk")),
        (Cordon(), "drain", "", Cordon(9, "", 9)),
        (Cordon(3, "a disk"), "cordon", "", Cordon(3, "a disk")),
        (Cordon(3, "a disk"), "cordon", "a board", Cordon(3, "a board")),
        (Cordon(3, "a disk"), "drain", "", Cordon(3, "a disk", 9)),
        (Cordon(3, "a disk", 4), "drain", "", Cordon(3, "a disk", 4)),
        (Cordon(3, "a disk", 4), "cordon", "", Cordon(3, "a disk", 4)),
        (Cordon(3, "a disk", 4), "uncordon", "", Cordon()),
        (Cordon(), "uncordon", "", Cordon()),
    ],
)
def test_commands(before: Cordon, command: str, reason: str, after: Cordon) -> None:
    assert changed(before, command, reason, 9) == after


def test_words() -> None:
    assert Cordon().words == ""
    ending = "and takes no new machines; `sri-libvirt uncordon` ends that"
    assert Cordon(1).words == f"this host is cordoned {ending}"
    assert Cordon(1, "a disk", 1).words == f"this host is drained (a disk) {ending}"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(StatePaths(tmp_path / "state"), lambda: 1)
    yield opened
    opened.close()


def test_it_is_remembered_and_everybody_is_told(store: Store) -> None:
    told: list[str] = []
    keeper = CordonKeeper(store, lambda: 7, lambda: told.append("told"))
    assert keeper.drained_since() == 0
    assert keeper.command("drain", {"reason": "a disk"}) == {"since": 7, "reason": "a disk", "drained": 7}
    assert (keeper.drained_since(), told) == (7, ["told"])
    assert CordonKeeper(store, lambda: 8, lambda: None).state == Cordon(7, "a disk", 7)
    keeper.command("uncordon", {})
    assert CordonKeeper(store, lambda: 8, lambda: None).state == of_text(None) == Cordon()
