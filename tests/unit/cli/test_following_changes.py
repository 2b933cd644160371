"""Being told of changes by a daemon that comes and goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from sri_libvirt import statedir
from sri_libvirt.cli import output as out
from sri_libvirt.cli.machine import following
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
    assert list(islice(following.changes(paths), 4)) == [None, SOME, None, SOME]
    assert asked == [0, 1, 2, 3, 4, 5], "a pause before each"
    assert told == ["the provider has ended: waiting for it"]
