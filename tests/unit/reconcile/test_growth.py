"""Looks at volumes that guests have open: each once a period, and at once when an operator asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DiskSource
from sri_libvirt.errors import UNDER_WAY, InvalidSpec, NotFound, NotReady
from sri_libvirt.reconcile.growth import Growth, Rescan
from sri_libvirt.records import GIB, Attachment, Machine
from sri_libvirt.store import Store
from sri_libvirt.volumes.base import Found
from tests.unit.reconcile.parts import Clock
from tests.unit.reconcile.world import ID, T0, machine, volume_row

OTHER = "6b3ffb4e-8d3c-4f52-9d0a-0d2f3c1f0a02"
DISK = DiskSource("ceph/1", "", "raw", GIB, kind="network", protocol="rbd", name="pool/a")
NBD = replace(DISK, protocol="nbd")
ASKED = NotReady("it is being asked", code=UNDER_WAY)
SILENT = NotReady("no route", "See the net.", "backend-silent")


@dataclass
class Volumes:
    """Backends that answer as a test says: an answer, one after the other, the last one for ever."""

    answers: dict[str, list[Found | NotReady | Exception]] = field(default_factory=dict)
    mute: frozenset[str] = frozenset()
    looked: list[tuple[str, int]] = field(default_factory=list)
    meanwhile: Callable[[], object] = lambda: None

    def can_look(self, row: Attachment) -> bool:
        return row.name not in self.mute

    def look(self, row: Attachment, since: int = 0) -> Found | None:
        self.looked.append((row.name, since))
        self.meanwhile()
        if row.name in self.mute:
            return None
        answers = self.answers.get(row.name, [Found(GIB)])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def names(self) -> list[str]:
        return [name for name, _ in self.looked]


def volume(name: str, **changes: object) -> Attachment:
    return replace(volume_row(name, target=f"vd{name[0]}", port=1, backing=DISK), **changes)  # type: ignore[arg-type]


def running(*rows: Attachment, machine_id: str = ID, state: pb.MachineState = pb.MACHINE_RUNNING) -> Machine:
    """A machine in that state, with these volumes plugged."""
    status = pb.MachineStatus(state=state)
    for row in rows:
        status.volumes.add(name=row.name, state=pb.VOLUME_ATTACHED)
    rows = tuple(replace(row, machine=machine_id) for row in rows)
    return machine(*rows, id=machine_id, status=status)


def put(store: Store, made: Machine) -> None:
    store.write(lambda tx: tx.insert(made))
    store.write(lambda tx: tx.record_pass(
        made.id, status=made.status, run=made.run, reasons=(), observed_generation=made.generation))  # fmt: skip


# --- once a period -------------------------------------------------------------------------------


class Watched:
    """A thread that looks, with a period of some milliseconds."""

    def __init__(self, store: Store, volumes: Volumes, period: float = 0.02) -> None:
        self.thread = Growth(store, volumes, period)
        self.volumes = volumes

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, self.volumes.looked
            time.sleep(0.005)


@pytest.fixture
def watch(store: Store) -> Iterator[Callable[[Volumes], Watched]]:
    threads: list[Growth] = []

    def start(volumes: Volumes) -> Watched:
        made = Watched(store, volumes)
        threads.append(made.thread)
        made.thread.start()
        return made

    yield start
    for thread in threads:
        thread.stop()
        thread.join(20)
        assert not thread.is_alive()


def test_each_volume_that_a_running_guest_has_is_looked_at_again_and_again(
    store: Store, watch: Callable[[Volumes], Watched]
) -> None:
    put(store, running(volume("a"), volume("b"), volume("mine"), volume("x", backing=None), volume("y", wanted=False)))
    put(store, running(volume("off"), machine_id=OTHER, state=pb.MACHINE_SUSPENDED))
    made = watch(Volumes(mute=frozenset({"mine"})))
    made.until(lambda: min(made.volumes.names().count(name) for name in ("a", "b")) >= 3)
    assert set(made.volumes.looked) == {("a", 0), ("b", 0)}
    assert abs(made.volumes.names().count("a") - made.volumes.names().count("b")) <= 1


def test_one_that_is_new_comes_first_and_the_others_in_turn(store: Store) -> None:
    put(store, running(volume("a"), volume("b")))
    thread = Growth(store, Volumes(), 3600)
    thread._looked = {(ID, volume("b").key): 10.0, (ID, volume("a").key): 20.0, ("gone", volume("a").key): 1.0}
    assert [row.name for row in thread._in_turn()] == ["b", "a"]
    store.write(lambda tx: tx.put_attachment(volume("c")))
    assert [row.name for row in thread._in_turn()] == ["c", "b", "a"]
    assert len(thread._looked) == 3


def test_the_first_is_looked_at_at_once(store: Store) -> None:
    put(store, running(volume("a")))
    volumes = Volumes()
    thread = Growth(store, volumes, 3600)
    thread.start()
    end = time.monotonic() + 20
    while not volumes.looked:
        assert time.monotonic() < end
        time.sleep(0.005)
    thread.stop()
    thread.join(20)
    assert volumes.names() == ["a"]


def test_one_that_fails_or_is_a_bug_hides_no_other(store: Store, watch: Callable[[Volumes], Watched]) -> None:
    put(store, running(volume("a"), volume("b"), volume("c")))
    made = watch(Volumes(answers={"a": [SILENT], "b": [KeyError("x")]}))
    made.until(lambda: made.volumes.names().count("c") >= 2)


def test_one_that_left_since_the_period_began_is_not_looked_at(store: Store) -> None:
    put(store, running(volume("a"), volume("b")))
    volumes = Volumes()

    def leave() -> None:
        row = volume("b")
        store.write(lambda tx: tx.delete_attachment(ID, row.key))

    volumes.meanwhile = leave
    thread = Growth(store, volumes, 0.02)
    for row in thread._in_use():
        thread._look(row)
    assert volumes.names() == ["a"]


def test_where_there_is_nothing_to_look_at_it_sleeps_a_period(store: Store) -> None:
    reads: list[int] = []
    thread = Growth(store, Volumes(), 3600)
    in_use = thread._in_use
    thread._in_use = lambda: reads.append(1) or in_use()  # type: ignore[method-assign,func-returns-value]
    thread.start()
    end = time.monotonic() + 20
    while not reads:
        assert time.monotonic() < end
        time.sleep(0.005)
    thread.stop()
    thread.join(20)
    assert (reads, thread.is_alive()) == ([1], False)


# --- at once -------------------------------------------------------------------------------------


@dataclass
class Bench:
    store: Store
    clock: Clock
    volumes: Volumes = field(default_factory=Volumes)

    def rescan(self, volume: str = "") -> list[dict[str, Any]]:
        asked = Rescan(self.store, self.volumes, self.clock, answer_seconds=0.3, grow_seconds=0.3)
        return asked.rescan({"machine": ID, "volume": volume})

    def outcomes(self, volume: str = "") -> dict[str, str]:
        return {each["volume"]: each["outcome"] for each in self.rescan(volume)}

    def glance(self) -> dict[str, dict[str, Any]]:
        return Rescan(self.store, self.volumes, self.clock).glance({"machine": ID})

    def sees(self, size: int) -> None:
        """The guest sees so much of its volume "a" by now."""
        self.store.write(lambda tx: tx.set_backing(ID, volume("a").key, replace(DISK, size=size)))


@pytest.fixture
def bench(store: Store, clock: Clock) -> Bench:
    return Bench(store, clock)


def test_all_volumes_of_a_machine_are_asked_for_anew(bench: Bench) -> None:
    put(bench.store, running(volume("a"), volume("b")))
    bench.volumes.answers = {"a": [ASKED, ASKED, Found(GIB)]}
    told = bench.rescan()
    assert [each["outcome"] for each in told] == ["same", "same"]
    assert told[0]["message"] == "it has 1 GiB, and the guest sees all of it"
    assert (told[0]["bytes_before"], told[0]["bytes"]) == (GIB, GIB)
    assert bench.volumes.looked[:2] == [("a", T0), ("b", T0)], "all at once, and no answer of before"
    assert bench.volumes.names().count("b") == 1


def test_one_volume_is_asked_for_by_its_name(bench: Bench) -> None:
    put(bench.store, running(volume("a"), volume("b")))
    assert bench.outcomes("b") == {"b": "same"}
    assert bench.volumes.names() == ["b"]
    with pytest.raises(NotFound, match='has no volume "c"'):
        bench.rescan("c")


def test_a_larger_volume_is_waited_for_until_the_guest_sees_it(bench: Bench) -> None:
    put(bench.store, running(volume("a")))
    bench.volumes.answers = {"a": [Found(2 * GIB)]}
    growing = threading.Timer(0.05, lambda: bench.sees(2 * GIB))
    growing.start()
    (told,) = bench.rescan()
    growing.join()
    assert (told["outcome"], told["message"]) == ("grown", "the guest sees 2 GiB of it now, and saw 1 GiB")


@pytest.mark.parametrize(
    ("backing", "answer", "outcome", "words"),
    [
        (DISK, Found(2 * GIB), "growing", "of which the guest sees 1 GiB yet"),
        (NBD, Found(2 * GIB), "grows-at-start", "until its next start: QEMU cannot resize"),
        (DISK, Found(GIB // 2), "smaller", "it has 512 MiB, and the guest was given 1 GiB"),
        (DISK, SILENT, "backend-silent", "no route"),
        (DISK, ASKED, UNDER_WAY, "is being asked"),
        (DISK, NotReady("not allowed"), "fails", "not allowed"),
    ],
)
def test_what_else_can_come_of_it(
    bench: Bench, backing: DiskSource, answer: Found | NotReady, outcome: str, words: str
) -> None:
    put(bench.store, running(volume("a", backing=backing)))
    bench.volumes.answers = {"a": [answer]}
    (told,) = bench.rescan()
    assert (told["outcome"], words in told["message"]) == (outcome, True), told


def test_one_that_is_to_be_prepared_anew_meanwhile_is_told_of_as_it_was(bench: Bench) -> None:
    put(bench.store, running(volume("a")))
    bench.volumes.answers = {"a": [Found(2 * GIB)]}
    key = volume("a").key
    bench.volumes.meanwhile = lambda: bench.store.write(lambda tx: tx.set_backing(ID, key, None))
    (told,) = bench.rescan()
    assert told["outcome"] == "growing"


def test_what_no_guest_has_open_is_not_asked_for(bench: Bench) -> None:
    put(bench.store, running(volume("a"), volume("mine")))
    bench.volumes.mute = frozenset({"mine"})
    assert bench.outcomes() == {"a": "same", "mine": "not-asked"}
    bench.store.write(lambda tx: tx.forget(ID))
    put(bench.store, running(volume("a"), state=pb.MACHINE_SUSPENDED))
    assert bench.outcomes() == {"a": "not-asked"}


@pytest.mark.parametrize("arguments", [{}, {"machine": 7}, {"machine": "nobody"}])
def test_a_machine_that_is_none(bench: Bench, arguments: dict[str, Any]) -> None:
    with pytest.raises(NotFound if arguments.get("machine") == "nobody" else InvalidSpec):
        Rescan(bench.store, bench.volumes, bench.clock).rescan(arguments)


def test_a_glance_takes_answers_of_before_and_tells_no_sizes(bench: Bench) -> None:
    put(bench.store, running(volume("a"), volume("b"), volume("mine")))
    bench.volumes.mute = frozenset({"mine"})
    bench.volumes.answers = {"b": [SILENT]}
    assert bench.glance() == {
        "a": {"answers": True, "problem": None},
        "b": {"answers": False, "problem": "no route"},
    }
    assert bench.volumes.looked == [("a", 0), ("b", 0)]
