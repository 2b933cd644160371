"""Opens are bounded in time, do not pile up, and a connection that comes too late is closed."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from sri_libvirt.errors import Unreachable
from sri_libvirt.hypervisor.opening import Opener

PATIENCE = 10.0


class Wire:
    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


class Daemon:
    """Answers opens, once it is not frozen any more."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.wires: list[Wire] = []
        self.asked = 0

    def __call__(self) -> Wire:
        self.asked += 1
        assert self.answers.wait(PATIENCE)
        self.wires.append(Wire())
        return self.wires[-1]


def test_an_open_gives_its_connection() -> None:
    daemon = Daemon()
    daemon.answers.set()
    opener = Opener(daemon, seconds=PATIENCE)
    assert [opener.open(), opener.open()] == daemon.wires
    assert not any(wire.closed.is_set() for wire in daemon.wires)


@pytest.mark.parametrize("error", [Unreachable("no socket"), RuntimeError("a bug")])
def test_a_failure_is_the_callers(error: Exception) -> None:
    def fails() -> Wire:
        raise error

    with pytest.raises(type(error), match=str(error)):
        Opener(fails, seconds=PATIENCE).open()


def test_a_frozen_daemon_is_given_up_and_asked_once_until_it_answers() -> None:
    daemon = Daemon()
    opener = Opener(daemon, seconds=0.02)
    for _ in range(3):
        with pytest.raises(Unreachable, match="did not answer within"):
            opener.open()
    assert daemon.asked == 1
    daemon.answers.set()
    wait_for(lambda: daemon.wires and daemon.wires[0].closed.is_set())
    opener = Opener(daemon, seconds=PATIENCE)
    assert opener.open() is daemon.wires[1]
    assert not daemon.wires[1].closed.is_set()


def wait_for(condition: Callable[[], object]) -> None:
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.005)):
        if condition():
            return
        pause.wait(0.005)
    pytest.fail("it does not come")
