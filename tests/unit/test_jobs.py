"""Slow work: who waits is woken, a group is asked one thing at a time, and what hangs leaves others a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field

import pytest

from sri_libvirt import jobs as module
from sri_libvirt.errors import NotReady
from sri_libvirt.jobs import Jobs


@dataclass
class Bench:
    """Jobs whose work ends when the test lets it."""

    threads: int = 3
    woken: list[str] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    gates: dict[str, threading.Event] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.jobs = Jobs(self.woken.append, self.threads)

    def begin(
        self,
        name: str,
        group: str = "",
        *,
        waiter: str = "m",
        bounds: Mapping[Hashable, int] | None = None,
        doubtful: bool = False,
    ) -> None:
        gate = self.gates.setdefault(name, threading.Event())

        def work() -> None:
            self.begun.append(name)
            assert gate.wait(10)

        self.jobs.begin(name, work, waiter=waiter, group=group or name, bounds=bounds, doubtful=doubtful)

    def let(self, *names: str) -> None:
        for name in names:
            self.gates[name].set()
            wait_for(lambda name=name: not self.jobs.is_under_way(name))  # type: ignore[misc]


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    for gate in made.gates.values():
        gate.set()
    made.jobs.stop(10)


def test_all_who_asked_for_a_job_are_woken_once_at_its_end(bench: Bench) -> None:
    bench.begin("probe", waiter="a")
    wait_for(lambda: bench.begun == ["probe"])
    bench.begin("probe", waiter="b")
    bench.begin("probe", waiter="a")
    assert (bench.woken, bench.jobs.is_under_way("probe")) == ([], True)
    bench.let("probe")
    wait_for(lambda: sorted(bench.woken) == ["a", "b"])
    assert bench.begun == ["probe"]


def test_a_group_is_asked_one_thing_at_a_time_in_order(bench: Bench) -> None:
    for name in ("one", "two", "three"):
        bench.begin(name, "ceph")
    wait_for(lambda: bench.begun == ["one"])
    assert bench.jobs.counts() == (1, 2)
    bench.let("one")
    wait_for(lambda: bench.begun == ["one", "two"])
    bench.let("two", "three")
    assert bench.begun == ["one", "two", "three"]


def test_no_more_run_than_there_are_threads(bench: Bench) -> None:
    for name in ("a", "b", "c", "d"):
        bench.begin(name)
    wait_for(lambda: len(bench.begun) == 3)
    assert bench.jobs.counts() == (3, 1)
    bench.let("a")
    wait_for(lambda: len(bench.begun) == 4)


def test_of_what_jobs_have_in_common_no_more_run_than_each_of_them_says(bench: Bench) -> None:
    bench.threads, bench.jobs = 9, Jobs(threads=9)
    for number in range(3):
        bench.begin(f"failing {number}", bounds={"place": 3, "unproven": 2, "failing": 1})
    for number in range(3):
        bench.begin(f"new {number}", bounds={"place": 3, "unproven": 2})
    for number in range(3):
        bench.begin(f"good {number}", bounds={"place": 3})
    bench.begin("elsewhere", bounds={"other": 3})
    wait_for(lambda: sorted(bench.begun) == ["elsewhere", "failing 0", "good 0", "new 0"])
    assert bench.jobs.counts() == (4, 6)
    bench.let("new 0")
    wait_for(lambda: bench.begun[-1] == "new 1")
    bench.let("good 0")
    wait_for(lambda: bench.begun[-1] == "good 1")


def test_what_is_doubtful_leaves_a_thread_for_the_others(bench: Bench) -> None:
    for name in ("dead 1", "dead 2", "dead 3"):
        bench.begin(name, doubtful=True)
    wait_for(lambda: len(bench.begun) == 2)
    bench.begin("good")
    wait_for(lambda: bench.begun[-1] == "good")


def test_a_bug_in_a_job_is_its_end(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.jobs.begin("odd", lambda: dict[str, None]()["odd"], waiter="m", group="odd")
    wait_for(lambda: bench.woken == ["m"])
    assert not bench.jobs.is_under_way("odd")


def test_too_many_are_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    bench.begin("a")
    bench.begin("b")
    with pytest.raises(NotReady, match="2 pieces of slow work wait"):
        bench.begin("c")
    bench.begin("a")


def test_after_a_stop_nothing_is_begun(bench: Bench) -> None:
    bench.begin("runs", "ceph")
    bench.begin("waits", "ceph")
    wait_for(lambda: bench.begun == ["runs"])
    bench.jobs.stop(0)
    assert not bench.jobs.is_under_way("waits")
    bench.let("runs")
    bench.jobs.stop(10)
    assert (bench.begun, bench.jobs.counts()) == (["runs"], (0, 0))
    with pytest.raises(NotReady):
        bench.begin("later")


def test_a_single_thread_is_not_kept_from_the_doubtful() -> None:
    """There is nobody to keep it for: it would never be tried again."""
    done = threading.Event()
    Jobs(threads=1).begin("a", done.set, waiter="", group="a", doubtful=True)
    assert done.wait(10)
