"""An admin command is the daemon's while one runs, else done here under the lock: never both."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from sri_libvirt import statedir
from sri_libvirt.cli import daemon
from sri_libvirt.errors import ConfigError
from sri_libvirt.paths import StatePaths
from sri_libvirt.server import asking


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths(tmp_path)


def test_nothing_is_done_here_while_a_daemon_runs(paths: StatePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(asking, "ask", lambda _socket, command, _arguments: asked.append(command))
    with statedir.lock(paths):
        daemon.through(paths, "sweep", {}, lambda: pytest.fail("done here, too"))
    assert asked == ["sweep"]


def test_no_daemon_can_start_while_it_is_done_here(paths: StatePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "ask", lambda *_: pytest.fail("a daemon was asked"))

    def here() -> str:
        with pytest.raises(ConfigError), statedir.lock(paths):
            pass
        return "done"

    assert daemon.through(paths, "sweep", {}, here) == "done"


def test_two_who_ask_whether_a_daemon_runs_do_not_see_each_other(paths: StatePaths) -> None:
    assert statedir.is_held(paths) is False
    with paths.lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert statedir.is_held(paths) is False
        fcntl.flock(other, fcntl.LOCK_EX)
        assert statedir.is_held(paths) is True
    assert statedir.is_held(paths) is False
