"""What follows from events of the hardware; that they arrive is proven with umockdev (tests/contract/host)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from sri_libvirt.host import live


def test_only_the_hosts_own_roots_are_live() -> None:
    assert live.is_own(Path("/sys"), Path("/proc"))
    assert not live.is_own(Path("/host/sys"), Path("/proc"))
    assert not live.is_own(Path("/sys"), Path("/host/proc"))


class Sources:
    """Stands for the watcher: says what the test wants, or cannot start."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.stopped = 0
        self.say: Callable[[frozenset[str]], None] = lambda _: None

    def __call__(self, changed: Callable[[frozenset[str]], None]) -> Sources:
        self.say = changed
        return self

    def start(self) -> None:
        if self.error:
            raise self.error

    def stop(self) -> None:
        self.stopped += 1


@pytest.mark.parametrize(
    ("subsystems", "followed"),
    [
        ({"memory"}, ["hardware"]),
        ({"cpu", "net"}, ["links", "hardware"]),
        ({"pci"}, ["hardware"]),
        ({"node"}, ["hardware"]),
        ({"misc"}, ["hardware"]),  # /dev/kvm
        ({"net"}, ["links"]),
        ({"block"}, []),
    ],
)
def test_who_is_told_of_which_changes(
    subsystems: set[str], followed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = Sources()
    told: list[str] = []
    monkeypatch.setattr(live, "Hotplug", sources)
    stop = live.follow(lambda: told.append("hardware"), lambda: told.append("links"))
    sources.say(frozenset(subsystems))
    assert told == followed
    stop()
    assert sources.stopped == 1


@pytest.mark.parametrize("error", [OSError(errno.EPERM, "not permitted"), ImportError("no libudev")])
def test_where_nobody_tells_of_changes_there_are_none(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "Hotplug", Sources(error))
    live.follow(*[lambda: pytest.fail("nothing changed")] * 2)()


class Monitor:
    """What pyudev's monitor hands out, in order; an exception is raised."""

    def __init__(self, *found: str | Exception) -> None:
        self._found = list(found)

    def poll(self, timeout: float) -> object:
        if not self._found:
            return None
        found = self._found.pop(0)
        if isinstance(found, Exception):
            raise found
        return type("Device", (), {"subsystem": found})


def test_subsystems_of_events() -> None:
    assert live._events(Monitor("pci", "net", "pci", "usb")) == {"pci", "net"}
    assert live._events(Monitor()) == set()


def test_lost_events_can_have_been_any() -> None:
    assert live._events(Monitor("pci", OSError(errno.ENOBUFS, "no buffer space"))) == live.SUBSYSTEMS


def test_a_storm_does_not_hold_the_thread() -> None:
    storm = Monitor(*["pci"] * (live._MOST_EVENTS + 1))
    assert live._events(storm) == {"pci"}
    assert storm.poll(0) is not None
