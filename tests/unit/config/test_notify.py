"""Signs of life: sent after every part has shown that it works, and never otherwise."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from sri_libvirt import config
from sri_libvirt.notify import Heart, ServiceManager


@dataclass(frozen=True, slots=True)
class Told(ServiceManager):
    """A service manager that keeps what it is told."""

    watchdog: float = 60.0
    seen: list[dict[str, str]] = field(default_factory=list)

    def tell(self, **state: str) -> None:
        self.seen.append(state)


ALIVE = {"WATCHDOG": "1"}


def well() -> str:
    return ""


def raising() -> str:
    raise OSError("the disk is gone")


def test_a_heart_beats_while_all_parts_work() -> None:
    told = Told()
    heart = Heart(told, {"first": well, "second": well})
    heart.beat()
    heart.beat()
    assert told.seen == [ALIVE, ALIVE]


@pytest.mark.parametrize("check", [lambda: "a thread has ended", raising])
@pytest.mark.parametrize("part", ["first", "second"])
def test_one_part_that_fails_is_enough_for_silence(check: Callable[[], str], part: str) -> None:
    told = Told()
    parts = {"first": well, "second": well}
    Heart(told, parts | {part: check}).beat()
    assert told.seen == []
    Heart(told, parts).beat()
    assert told.seen == [ALIVE]


def test_a_part_that_hangs_keeps_the_heart_silent_and_does_not_hinder_the_stop() -> None:
    told = Told(watchdog=0.03)
    hangs, release = threading.Event(), threading.Event()

    def hang() -> str:
        hangs.set()
        release.wait()
        return ""

    heart = Heart(told, {"rpcs": hang})
    heart.start()
    assert hangs.wait(30)
    heart.stop()
    release.set()
    heart.join(30)
    assert not heart.is_alive()
    assert told.seen == []


def test_the_heart_goes_on_until_it_is_stopped() -> None:
    told = Told(watchdog=0.003)
    thrice = threading.Event()

    def check() -> str:
        if len(told.seen) >= 3:
            thrice.set()
        return ""

    heart = Heart(told, {"any": check})
    heart.start()
    assert thrice.wait(30)
    heart.stop()
    heart.join(30)
    assert not heart.is_alive()


def test_without_a_watchdog_nothing_runs() -> None:
    heart = Heart(Told(watchdog=0.0), {"any": raising})
    heart.start()
    assert not heart.is_alive()
    heart.stop()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ("", 0.0)),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, ("/run/n", 60.0)),
        ({"NOTIFY_SOCKET": "@abstract", "WATCHDOG_USEC": "1500000"}, ("@abstract", 1.5)),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"}, ("/run/n", 0.0)),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "soon"}, ("/run/n", 0.0)),
    ],
)
def test_who_wants_to_be_told(environ: dict[str, str], expected: tuple[str, float]) -> None:
    assert config.service_manager(7, environ) == expected
