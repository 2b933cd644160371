"""Being told of changes by a daemon that comes and goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sri_libvirt import statedir
from sri_libvirt.cli import output as out
from sri_libvirt.cli.machine import following
from sri_libvirt.cli.reading import Ask
from sri_libvirt.errors import Unavailable
from sri_libvirt.paths import StatePaths
from sri_libvirt.server import asking

SOME = frozenset({"a"})


def test_a_daemon_that_was_killed_is_waited_for_with_one_word_and_without_haste(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its socket lies there still."""
    paths = StatePaths(tmp_path)
    paths.admin_socket.touch()
    asked, slept, told = list[int](), list[float](), list[str]()

    def follow(_path: Path) -> Iterator[frozenset[str]]:
        asked.append(len(slept))
        if len(asked) in (1, 6):
            yield frozenset()
            yield SOME
        if len(asked) < 6:
            raise Unavailable("refused")

    monkeypatch.setattr(statedir, "is_held", lambda _: True)
    monkeypatch.setattr(asking, "follow", follow)
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(out, "warn", told.append)
    seen: list[frozenset[str] | None] = []

    def act(changed: frozenset[str] | None) -> bool:
        seen.append(changed)
        return len(seen) < 4

    following.follow(Ask(paths.admin_socket, lambda *_: None), paths, act)
    assert seen == [None, SOME, None, SOME]
    assert asked == [0, 1, 2, 3, 4, 5], "a pause before each"
    assert told == ["the provider does not answer: waiting for it"]


def test_one_that_does_not_answer_is_asked_again_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was asked for at a change is lost; at the first time nobody has been answered at all."""
    paths = StatePaths(tmp_path)
    seen: list[frozenset[str] | None] = []

    def act(changed: frozenset[str] | None) -> bool:
        seen.append(changed)
        if len(seen) in refused:
            raise Unavailable("64 others are being answered: try again")
        return len(seen) < 4

    monkeypatch.setattr(statedir, "is_held", lambda _: True)
    monkeypatch.setattr(asking, "follow", lambda _: iter([frozenset(), SOME]))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    refused = {2}
    following.follow(Ask(paths.reading_socket, lambda *_: None), paths, act)
    assert seen == [None, SOME, None, SOME]
    seen, refused = [], {1}
    with pytest.raises(Unavailable, match="try again"):
        following.follow(Ask(paths.reading_socket, lambda *_: None), paths, act)
