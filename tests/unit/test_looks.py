"""Work that may hang: nobody waits for long, a place that hangs is left alone, a late result is not lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from sri_libvirt import looks as module
from sri_libvirt.errors import NotReady
from sri_libvirt.looks import Looks


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    gate = threading.Event()
    yield gate
    gate.set()


@pytest.fixture
def looks() -> Looks:
    return Looks(clock=lambda: 1_700_000_000 * 10**9, patience=0.05)


def hangs(gate: threading.Event, result: str = "") -> Callable[[], str]:
    def work() -> str:
        gate.wait()
        return result

    return work


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.005)


def test_a_result_and_an_error_are_those_of_the_work(looks: Looks) -> None:
    assert looks.result("here", 1, "adding", lambda: 1 + 1) == 2
    assert looks.result("here", 1, "adding", lambda: 1 + 2) == 3, "done anew"
    with pytest.raises(KeyError, match="odd"):
        looks.result("here", 1, "failing", lambda: dict[str, int]()["odd"])


def test_who_waits_is_told_what_hangs_where_and_since_when(looks: Looks, gate: threading.Event) -> None:
    with pytest.raises(NotReady) as late:
        looks.result("the image directory /a", 1, "looking at /a/x", hangs(gate))
    problem = "looking at /a/x goes on since 2023-11-14 22:13:20 UTC, and nothing more is begun at the image directory"
    assert str(late.value) == f"{problem} /a before it is back"
    assert (late.value.code, bool(late.value.advice)) == ("slow-storage", True)


def test_a_place_that_hangs_is_refused_at_once_and_others_are_not(looks: Looks, gate: threading.Event) -> None:
    with pytest.raises(NotReady):
        looks.result("/a", 1, "looking at /a/x", hangs(gate))
    done: list[int] = []
    with pytest.raises(NotReady, match="looking at /a/x"):
        looks.result("/a", 2, "looking at /a/y", lambda: done.append(2))
    assert (done, looks.late()) == ([], 1)
    assert looks.result("/b", 2, "looking at /b/y", lambda: 7) == 7
    gate.set()
    wait_for(lambda: looks.late() == 0)
    assert looks.result("/a", 2, "looking at /a/y", lambda: 7) == 7


def test_a_late_result_is_kept_for_who_asks_again(looks: Looks, gate: threading.Event) -> None:
    for _ in range(3):
        with pytest.raises(NotReady):
            looks.result("/a", 1, "checking", hangs(gate, "first"))
    gate.set()
    wait_for(lambda: looks.late() == 0)
    assert looks.result("/a", 1, "checking", lambda: "second") == "first"
    assert looks.result("/a", 1, "checking", lambda: "second") == "second", "once"


def test_a_result_is_not_kept_for_ever(looks: Looks, gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotReady):
        looks.result("/a", 1, "checking", hangs(gate, "old"))
    gate.set()
    wait_for(lambda: looks.late() == 0)
    monkeypatch.setattr(module, "KEPT", -1.0)
    assert looks.result("/a", 1, "checking", lambda: "new") == "new"


def test_who_asks_for_the_same_meanwhile_gets_the_same(gate: threading.Event) -> None:
    looks = Looks(patience=10)
    counted: list[int] = []
    got: list[str] = []

    def work() -> str:
        counted.append(1)
        gate.wait()
        return "one"

    askers = [threading.Thread(target=lambda: got.append(looks.result("/a", 1, "looking", work))) for _ in range(3)]
    for each in askers:
        each.start()
    wait_for(lambda: counted)
    gate.set()
    for each in askers:
        each.join(10)
    assert got == ["one"] * 3


def test_threads_are_bounded(looks: Looks, gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    for place in ("/a", "/b"):
        with pytest.raises(NotReady):
            looks.result(place, 1, "looking", hangs(gate))
    with pytest.raises(NotReady, match="no more are begun"):
        looks.result("/c", 1, "looking", lambda: 1)
