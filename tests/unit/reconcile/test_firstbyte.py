"""When a guest's first byte came: after its start, in a log that grows, is new, or turns over, and of nobody else's."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from sri_libvirt.reconcile import firstbyte
from sri_libvirt.reconcile.firstbyte import FirstBytes
from sri_libvirt.traces import Traces
from tests.unit.test_jobs import wait_for


class Scene:
    """A state directory with a log for each machine, and what is listened to there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.traces = Traces(time.time_ns)
        self.looks: list[str] = []
        self.first = FirstBytes(self._log_of, self.traces)

    def _log_of(self, machine_id: str) -> Path:
        self.looks.append(machine_id)
        return self.log(machine_id)

    def log(self, machine_id: str) -> Path:
        return self.directory / machine_id

    def start(self, machine_id: str, prints: bytes = b"") -> None:
        with self.first.of(machine_id):
            self.print(machine_id, prints)

    def print(self, machine_id: str, text: bytes) -> None:
        with self.log(machine_id).open("ab") as log:
            log.write(text)

    def seconds(self, machine_id: str) -> list[float]:
        return [(each.end - each.begin) / 1e9 for each in self.traces.of(machine_id)]

    def looked(self, machine_id: str, times: int = 3) -> None:
        """Wait until it was looked at some more."""
        before = self.looks.count(machine_id)
        wait_for(lambda: self.looks.count(machine_id) >= before + times)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    scene.first.start()
    yield scene
    scene.first.stop()
    scene.first.join(10)
    assert not scene.first.is_alive()


def test_the_first_byte_after_a_start_is_a_span_from_its_end(scene: Scene) -> None:
    scene.print("a", b"of the run before")
    begun = time.monotonic()
    scene.start("a")
    scene.start("silent")
    scene.looked("a")
    assert scene.traces.of("a") == []
    scene.print("a", b"x")
    wait_for(lambda: bool(scene.traces.of("a")))
    (span,) = scene.traces.of("a")
    assert (span.kind, span.name) == ("guest", firstbyte.NAME)
    assert 0 < (span.end - span.begin) / 1e9 <= time.monotonic() - begun
    scene.print("a", b"y")
    scene.looked("silent")
    assert len(scene.traces.of("a")) == 1, "the first alone"
    assert scene.traces.of("silent") == []


def test_what_is_printed_before_libvirt_comes_back_is_heard_at_once(scene: Scene) -> None:
    scene.start("a", b"early")
    wait_for(lambda: bool(scene.traces.of("a")))


def test_a_log_that_turned_over_is_a_first_byte_and_one_that_is_new_and_empty_none(scene: Scene) -> None:
    scene.print("a", b"long" * 100)
    scene.start("a")
    scene.log("a").rename(scene.log("a.0"))
    scene.looked("a")
    scene.log("a").touch()
    scene.looked("a")
    assert scene.traces.of("a") == []
    scene.print("a", b"x")
    wait_for(lambda: bool(scene.traces.of("a")))


def test_a_start_that_fails_is_not_listened_to_and_one_anew_is_from_its_own_end(scene: Scene) -> None:
    with pytest.raises(OSError, match="no"), scene.first.of("a"):
        raise OSError("no")
    scene.start("b")
    scene.looked("b")
    assert "a" not in scene.looks[1:], "once, before the start"
    scene.start("b")
    anew = time.monotonic()
    scene.print("b", b"x")
    wait_for(lambda: bool(scene.traces.of("b")))
    assert scene.seconds("b")[0] <= time.monotonic() - anew
    scene.start("c", b"x")
    wait_for(lambda: bool(scene.traces.of("c")))
    assert len(scene.traces.of("b")) == 1


def test_what_one_prints_that_is_started_anew_is_not_the_first_word_of_the_one_before(scene: Scene) -> None:
    """Which was silent, and is stopped: the next one prints before libvirt has come back from its start."""
    scene.start("a")
    scene.looked("a")
    anew = time.monotonic()
    with scene.first.of("a"):
        scene.print("a", b"x")
        scene.start("b", b"x")
        wait_for(lambda: bool(scene.traces.of("b")))
        assert scene.traces.of("a") == []
    wait_for(lambda: bool(scene.traces.of("a")))
    assert len(scene.traces.of("a")) == 1
    assert scene.seconds("a")[0] <= time.monotonic() - anew


def test_a_log_that_cannot_be_read_holds_up_no_start_and_no_other(scene: Scene) -> None:
    (scene.directory / "file").write_text("a directory once")
    with scene.first.of("file/a"):  # ENOTDIR, which is neither "gone" nor "empty"
        pass
    scene.start("b", b"x")
    wait_for(lambda: bool(scene.traces.of("b")))
    assert scene.traces.of("file/a") == []


def test_who_prints_nothing_is_looked_at_less_and_less_and_at_last_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    scene = Scene(tmp_path)
    monkeypatch.setattr(firstbyte, "time", SimpleNamespace(monotonic=lambda: now[0]))
    waits: list[float] = []

    def wait(_self: object, seconds: float | None) -> bool:
        if seconds is None:
            scene.first.stop()
            return False
        waits.append(seconds)
        now[0] += seconds
        return True

    with scene.first.of("silent"):
        pass
    monkeypatch.setattr(threading.Condition, "wait", wait)
    scene.first.run()
    assert waits[0] == pytest.approx(firstbyte.SHORTEST)
    assert waits[-1] == pytest.approx(firstbyte.LONGEST * firstbyte.SHARE, rel=0.05)
    assert firstbyte.LONGEST < now[0] < firstbyte.LONGEST * 1.1
    assert len(waits) < 400
