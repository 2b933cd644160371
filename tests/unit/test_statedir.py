"""The state directory: one provider has it, and who only looks keeps nobody out."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sri_libvirt import statedir
from sri_libvirt.errors import ConfigError
from sri_libvirt.paths import StatePaths


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    paths = StatePaths(tmp_path / "state")
    statedir.prepare(paths)
    return paths


def test_a_second_provider_is_refused_and_the_first_keeps_the_lock(paths: StatePaths) -> None:
    with statedir.lock(paths):
        for _ in range(2):
            with pytest.raises(ConfigError, match="another provider runs on"), statedir.lock(paths):
                pytest.fail("two providers on one state directory")
        assert paths.lock.read_text() == f"{os.getpid()}\n"
    with statedir.lock(paths):
        assert paths.lock.read_text() == f"{os.getpid()}\n"


def test_the_lock_is_given_back_when_the_provider_fails(paths: StatePaths) -> None:
    with pytest.raises(RuntimeError), statedir.lock(paths):
        raise RuntimeError
    with statedir.lock(paths):
        pass


@contextmanager
def looked_at(paths: StatePaths) -> Iterator[Callable[[], None]]:
    """Somebody asks whether a provider runs, as `machine why` does; until the returned function is called."""
    fd = os.open(paths.lock, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield lambda: fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def test_who_only_looks_does_not_keep_a_provider_from_starting(
    paths: StatePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    with looked_at(paths) as leave:
        tries: list[float] = []

        def sleep(seconds: float) -> None:
            tries.append(seconds)
            if len(tries) == 3:
                leave()

        monkeypatch.setattr(time, "sleep", sleep)
        with statedir.lock(paths):
            assert len(tries) == 3


def test_the_wait_for_the_lock_is_short(paths: StatePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    with looked_at(paths), pytest.raises(ConfigError), statedir.lock(paths):
        pytest.fail("not refused")
    assert 0.2 <= now[0] - 100 < 0.3
