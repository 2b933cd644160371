"""When a backend is asked: who waits for whom, how long an answer is good, and who is woken."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import pytest

from sri_libvirt.devices import DiskHost, DiskKind, DiskSource, SecretPurpose
from sri_libvirt.errors import UNDER_WAY, NotReady
from sri_libvirt.jobs import THREADS, Jobs
from sri_libvirt.records import SECOND
from sri_libvirt.volumes.base import Found
from sri_libvirt.volumes.probing import ASKED, BACKSTOP, FIRST_PAUSE, FRESH, KEPT, PER_PLACE, Probing
from tests.unit.test_jobs import wait_for

GOOD = Found(1 << 30)
SILENT = NotReady("the monitors do not answer", "Look at them.", "backend-silent")
ABSENT = NotReady("there is no such image", "Make it.", "volume-refused")
ELSEWHERE = NotReady("10.0.0.9 has it open", "", "in-use")
KEY: dict[SecretPurpose, bytes] = {"auth": b"key"}


def source(name: str = "data", host: str = "mon") -> DiskSource:
    return DiskSource(
        f"ceph/{name}", "", "raw", 0, kind="network", protocol="rbd", name=f"pool/{name}", hosts=(DiskHost(host, 6789),)
    )


@dataclass
class Bench:
    """Probing whose clock and backends are the test's."""

    now: int = 1000 * SECOND
    woken: list[str] = field(default_factory=list)
    asked: list[tuple[str, bool]] = field(default_factory=list)
    alone: list[bool] = field(default_factory=list)
    counted: list[tuple[str, str]] = field(default_factory=list)
    answers: dict[str, Found | NotReady] = field(default_factory=dict)
    slow: int = 0
    passing: set[str] = field(default_factory=set)
    """What is answered though the gate is closed."""

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self.gate = threading.Event()
        self.gate.set()
        self.jobs = Jobs(self.woken.append)
        self.probing = Probing(self.jobs, self.probe, lambda: self.now, self.woken.append, self.count)

    def count(self, driver: str, outcome: str, seconds: float) -> None:
        assert 0 <= seconds < 10
        self.counted.append((driver, outcome))

    def probe(self, asked: DiskSource, secrets: Mapping[SecretPurpose, bytes], /, *, prove: bool, alone: bool) -> Found:
        assert asked.name.removeprefix("pool/") in self.passing or self.gate.wait(10)
        with self.lock:
            self.now += self.slow
        self.alone.append(alone)
        self.asked.append((asked.name.removeprefix("pool/"), prove))
        answer = self.answers.get(asked.name.removeprefix("pool/"), GOOD)
        if isinstance(answer, NotReady):
            raise answer
        return answer

    def local(self, name: str, kind: DiskKind) -> Found | NotReady:
        """The same of a device or file of this host."""
        disk = replace(source(name), kind=kind, protocol="", hosts=(), path=f"/dev/disk/by-id/{name}")
        return self._outcome(lambda: self.probing.ready(f"machine of {name}", name, disk, {}))

    def ready(
        self,
        name: str = "data",
        *,
        host: str = "mon",
        secrets: Mapping[SecretPurpose, bytes] = KEY,
        plugged: bool = False,
        since: int = 0,
        machine: str = "",
    ) -> Found | NotReady:
        """Ask, and let what was begun come to its end."""
        asked, waiter = source(name, host), machine or f"machine of {name}"
        return self._outcome(lambda: self.probing.ready(waiter, name, asked, secrets, plugged=plugged, since=since))

    def put(self, name: str, host: str = "mon", *, key: bytes = KEY["auth"], machine: str = "") -> str:
        """Ask, and do not wait for the answer; what is said meanwhile."""
        with pytest.raises(NotReady) as refused:
            self.probing.ready(machine or f"machine of {name}", name, source(name, host), {"auth": key})
        return str(refused.value)

    def _outcome(self, ask: Callable[[], Found]) -> Found | NotReady:
        try:
            return ask()
        except NotReady as error:
            return error
        finally:
            wait_for(lambda: self.jobs.counts() == (0, 0))

    def refusal(self, name: str = "data", **options: object) -> NotReady:
        found = self.ready(name, **options)  # type: ignore[arg-type]
        assert isinstance(found, NotReady)
        return found

    def wakes(self) -> list[str]:
        woken = sorted(self.woken)
        self.woken.clear()
        return woken


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.gate.set()
    made.jobs.stop(10)


def test_the_first_to_ask_is_told_at_once_and_woken_with_the_answer(bench: Bench) -> None:
    assert bench.probing.busy_until("data") is None
    assert bench.refusal().code == UNDER_WAY
    wait_for(lambda: bench.woken == ["machine of data"])
    assert bench.ready() == GOOD
    assert bench.asked == [("data", True)]


def test_an_answer_is_good_for_some_seconds_and_the_key_is_proved_once(bench: Bench) -> None:
    bench.ready()
    bench.now += FRESH
    assert bench.ready() == GOOD
    bench.now += 1
    assert bench.refusal().code == UNDER_WAY
    assert bench.ready() == GOOD
    assert bench.asked == [("data", True), ("data", False)]


def test_what_others_are_answered_makes_no_answer_good_for_longer(bench: Bench) -> None:
    """Meanwhile another host may have opened the volume."""
    bench.ready("a")
    for name in ("b", "c"):
        bench.now += FRESH - 1
        bench.ready(name)
    assert bench.ready("c") == GOOD
    assert bench.refusal("a").code == UNDER_WAY


@pytest.mark.parametrize("hosts", [("mon",), ("mon", "other")])
def test_a_machine_with_many_volumes_has_all_of_them_at_once(bench: Bench, hosts: tuple[str, ...]) -> None:
    """Their answers take much longer in turn than one is good for."""
    disks = [(f"{host} {number}", host) for host in hosts for number in range(10)]
    bench.slow = FRESH * 6 // 10
    bench.gate.clear()
    for name, host in disks:
        bench.put(name, host, machine="m")
    bench.gate.set()
    wait_for(lambda: bench.jobs.counts() == (0, 0))
    assert [bench.ready(name, host=host, machine="m") for name, host in disks] == [GOOD] * len(disks)
    assert len(bench.asked) == len(disks)
    bench.now += FRESH + 1
    assert bench.refusal(disks[-1][0], host=hosts[-1], machine="m").code == UNDER_WAY


def test_a_volume_that_its_machine_wants_later_makes_no_answer_good_for_longer(bench: Bench) -> None:
    bench.ready("a", machine="m")
    bench.now += FRESH + 1
    bench.ready("b", machine="m")
    assert bench.ready("b", machine="m") == GOOD
    assert bench.refusal("a", machine="m").code == UNDER_WAY


def test_no_answer_is_good_for_ever(bench: Bench) -> None:
    bench.gate.clear()
    bench.slow = KEPT // 2
    for name in ("a", "b", "c", "d"):
        bench.put(name, machine="m")
    bench.gate.set()
    wait_for(lambda: bench.jobs.counts() == (0, 0))
    assert bench.ready("b", machine="m") == GOOD
    assert bench.refusal("a", machine="m").code == UNDER_WAY


def test_no_answer_of_a_backend_that_is_silent_now_is_good_for_longer(bench: Bench) -> None:
    bench.answers = {"c": SILENT}
    bench.ready("a", machine="m")
    bench.now += FRESH - 1
    bench.ready("b", host="other", machine="m")
    bench.now += 2
    assert bench.ready("a", machine="m") == GOOD
    bench.ready("c")
    assert str(bench.refusal("a", machine="m")) == str(SILENT)


def test_other_credentials_are_another_question(bench: Bench) -> None:
    bench.ready()
    assert bench.refusal(secrets={"auth": b"other"}).code == UNDER_WAY
    assert bench.asked == [("data", True), ("data", True)]


def test_while_a_backend_is_silent_one_asks_for_all(bench: Bench) -> None:
    bench.answers = {"a": SILENT, "b": SILENT}
    bench.ready("a")
    assert str(bench.refusal("a")) == str(SILENT)
    assert str(bench.refusal("b")) == str(SILENT)
    assert bench.refusal("b").code == "backend-silent"
    assert bench.refusal("b").advice == SILENT.advice
    assert [name for name, _ in bench.asked] == ["a"]
    assert bench.probing.busy_until("a") == bench.now + 5 * SECOND
    assert bench.probing.busy_until("b") == bench.now + 5 * SECOND + BACKSTOP


def test_the_pause_doubles_up_to_a_minute(bench: Bench) -> None:
    bench.answers = {"data": SILENT}
    pauses = []
    for _ in range(6):
        bench.ready()
        bench.ready()
        until = bench.probing.busy_until("data")
        assert until is not None
        pauses.append((until - bench.now) // SECOND)
        bench.now = until
    assert pauses == [5, 10, 20, 40, 60, 60]
    assert len(bench.asked) == 6


def test_who_waited_for_its_turn_is_told_once_that_the_backend_is_silent(bench: Bench) -> None:
    bench.answers = {"a": SILENT}
    bench.gate.clear()
    assert [bench.put(name) for name in ("a", "b")] == [ASKED, ASKED]
    bench.gate.set()
    wait_for(lambda: bench.jobs.counts() == (0, 0))
    assert bench.probing.busy_until("b") is None
    assert str(bench.refusal("b")) == str(SILENT)
    assert bench.probing.busy_until("b") == bench.now + 5 * SECOND + BACKSTOP


def test_once_it_answers_all_are_woken(bench: Bench) -> None:
    bench.answers = {"a": SILENT}
    for name in ("a", "b", "c"):
        bench.ready(name)
    wait_for(lambda: "machine of a" in bench.woken)
    bench.wakes()
    bench.answers = {}
    bench.now += 5 * SECOND
    bench.ready("a")
    wait_for(lambda: sorted(bench.woken) == [f"machine of {name}" for name in "abc"])
    assert bench.ready("a") == GOOD
    assert bench.probing.busy_until("b") is not None
    bench.ready("b")
    assert bench.ready("b") == GOOD


def test_if_the_one_that_asks_is_gone_another_takes_its_turn(bench: Bench) -> None:
    bench.answers = {"a": SILENT}
    bench.ready("a")
    bench.ready("b")
    wait_for(lambda: bench.woken == ["machine of a"])
    bench.wakes()
    bench.probing.forget("a")
    assert bench.wakes() == ["machine of b"]
    assert bench.probing.busy_until("b") == bench.now + 5 * SECOND
    bench.now += 5 * SECOND
    bench.ready("b")
    assert bench.ready("b") == GOOD


def test_who_waits_too_long_for_others_asks_by_itself(bench: Bench) -> None:
    bench.answers = {"a": SILENT}
    bench.ready("a")
    bench.ready("b")
    bench.now += 5 * SECOND + BACKSTOP
    bench.ready("b")
    assert bench.ready("b") == GOOD


def test_what_one_volume_lacks_holds_up_no_other(bench: Bench) -> None:
    bench.answers = {"a": ABSENT}
    bench.ready("a")
    assert bench.refusal("a").code == "volume-refused"
    bench.ready("b")
    assert bench.ready("b") == GOOD
    assert bench.probing.busy_until("a") == bench.now + 5 * SECOND


def test_a_wrong_key_holds_up_nobody_with_another(bench: Bench) -> None:
    bench.answers = {"a": SILENT}
    bench.ready("a")
    assert bench.refusal("b", secrets={"auth": b"right"}).code == UNDER_WAY
    assert bench.ready("b", secrets={"auth": b"right"}) == GOOD


def crowd(bench: Bench, *hosts: str, size: int = 30) -> None:
    """So many ask there, each with a key of its own, and no answer comes."""
    bench.gate.clear()
    for host in hosts:
        for number in range(size):
            bench.put(f"{host} {number}", host, key=b"key of %d" % number)


def test_many_keys_at_one_silent_place_take_few_threads(bench: Bench) -> None:
    crowd(bench, "mon")
    assert bench.jobs.counts() == (PER_PLACE - 1, 30 - (PER_PLACE - 1))


def test_whatever_is_silent_other_work_begins_at_once(bench: Bench) -> None:
    crowd(bench, *(f"portal {number}" for number in range(THREADS)))
    done = threading.Event()
    bench.jobs.begin("image", done.set, waiter="", group="registry")
    assert done.wait(10)
    assert not bench.asked


def test_those_whom_a_place_has_answered_do_not_wait_for_those_whom_it_has_not(bench: Bench) -> None:
    bench.passing = {"good", "new"}
    bench.ready("good")
    bench.now += KEPT + 1
    crowd(bench, "mon")
    bench.put("good")
    wait_for(lambda: bench.asked == [("good", True), ("good", False)])


def test_those_who_are_new_at_a_place_do_not_wait_for_those_whom_it_does_not_answer(bench: Bench) -> None:
    bench.answers = {f"mon {number}": SILENT for number in range(30)}
    crowd(bench, "mon")
    bench.gate.set()
    wait_for(lambda: bench.jobs.counts() == (0, 0))
    bench.now += FIRST_PAUSE
    crowd(bench, "mon")
    assert bench.jobs.counts() == (1, 29)
    bench.passing = {"new"}
    bench.put("new", key=b"right")
    wait_for(lambda: bench.asked[-1] == ("new", True))


def test_a_cluster_is_one_backend_in_whatever_order_its_monitors_are_named(bench: Bench) -> None:
    hosts = (DiskHost("a", 6789), DiskHost("b", 6789))
    for name, named in (("one", hosts), ("two", hosts[::-1])):
        with pytest.raises(NotReady):
            bench.probing.ready("m", name, replace(source(name), hosts=named), KEY)
    assert len(bench.probing._backends) == 1


def test_another_backend_is_not_concerned(bench: Bench) -> None:
    bench.answers = {"a": SILENT}
    bench.ready("a")
    bench.ready("b", host="other")
    assert bench.ready("b", host="other") == GOOD


@pytest.mark.parametrize(("kind", "together"), [("block", False), ("file", True)])
def test_devices_of_one_directory_are_backends_of_their_own(bench: Bench, kind: DiskKind, together: bool) -> None:
    """Files of one directory are on one file system."""
    bench.answers = {"a": SILENT}
    for name in ("a", "b"):
        bench.local(name, kind)
    if together:
        assert str(bench.local("b", kind)) == str(SILENT)
    else:
        assert bench.local("b", kind) == GOOD
        assert str(bench.local("a", kind)) == str(SILENT)


def test_one_that_is_open_elsewhere_is_asked_for_often(bench: Bench) -> None:
    bench.answers = {"data": ELSEWHERE}
    for _ in range(4):
        bench.ready()
        bench.ready()
        assert bench.probing.busy_until("data") == bench.now + 5 * SECOND
        bench.now += 5 * SECOND


def test_a_volume_that_went_bad_is_not_good_any_more(bench: Bench) -> None:
    bench.ready()
    bench.now += FRESH + 1
    bench.answers = {"data": ABSENT}
    bench.ready()
    assert bench.refusal().code == "volume-refused"


def test_what_is_forgotten_leaves_nothing(bench: Bench) -> None:
    bench.answers = {"a": SILENT}
    for name in ("a", "b"):
        bench.ready(name)
    assert bench.probing.waiting() == 2
    for name in ("a", "b", "b", "never seen"):
        bench.probing.forget(name)
    assert bench.probing.waiting() == 0
    assert (bench.probing._volumes, bench.probing._backends) == ({}, {})


def test_no_secret_is_kept(bench: Bench) -> None:
    bench.ready(secrets={"auth": b"tops3cret", "encryption": b"tops3cret"})
    assert "tops3cret" not in repr(vars(bench.probing))


def test_jobs_that_waited_while_their_backend_fell_silent_do_not_ask(bench: Bench) -> None:
    bench.answers = {"a": SILENT, "b": SILENT, "c": SILENT}
    for name in ("a", "b", "c"):
        bench.put(name)
    wait_for(lambda: bench.jobs.counts() == (0, 0))
    assert [name for name, _ in bench.asked] == ["a"]


def test_the_source_alone_is_a_question(bench: Bench) -> None:
    disk = replace(source(), kind="file", protocol="", name="", hosts=(), path="/srv/disks/a.raw")
    with pytest.raises(NotReady):
        bench.probing.ready("m", "file", disk, {})
    wait_for(lambda: bench.jobs.counts() == (0, 0))
    assert bench.probing.ready("m", "file", disk, {}) == GOOD


def test_a_volume_that_is_plugged_is_looked_at_apart(bench: Bench) -> None:
    """Its own guest has it open; and what it lacks by now does not matter to who asks before a plug."""
    bench.ready()
    bench.answers = {"data": Found(2 << 30)}
    assert bench.probing.size_of("data") == 0
    bench.ready(plugged=True)
    assert bench.ready(plugged=True) == Found(2 << 30)
    assert bench.ready() == GOOD
    assert (bench.alone, bench.probing.size_of("data")) == ([True, False], 2 << 30)
    bench.now += FRESH + 1
    bench.answers = {"data": ABSENT}
    bench.ready(plugged=True)
    assert bench.probing.size_of("data") == 2 << 30, "the last that was found"
    bench.probing.forget("data")
    assert bench.probing.size_of("data") == 0


def test_a_look_at_a_plugged_volume_wakes_its_machine_by_news_alone(bench: Bench) -> None:
    def look() -> list[str]:
        bench.ready(plugged=True)
        bench.now += 300 * SECOND
        return bench.wakes()

    woken = ["machine of data"]
    assert [look(), look()] == [woken, []]
    bench.answers = {"data": Found(2 << 30)}
    assert [look(), look()] == [woken, []]
    bench.answers = {"data": ABSENT}
    assert [look(), look()] == [woken, []]
    bench.answers = {"data": SILENT}
    assert [look(), look()] == [woken, []]
    bench.answers = {}
    assert [look(), look()] == [woken, []]
    assert not any(prove for _, prove in bench.asked), "its guest has it open"


def test_a_look_at_a_plugged_volume_holds_up_nobody_who_waits_to_be_plugged(bench: Bench) -> None:
    bench.answers = {"a": SILENT}
    bench.ready("a", plugged=True)
    assert bench.probing.waiting() == 0
    assert str(bench.refusal("b")) == str(SILENT)
    assert bench.probing.busy_until("b") == bench.now + 5 * SECOND
    assert bench.probing.waiting() == 1
    bench.now += 5 * SECOND
    bench.ready("b")
    assert bench.ready("b") == GOOD


def test_plugged_volumes_leave_a_silent_backend_to_the_one_that_asks_for_all(bench: Bench) -> None:
    bench.answers = {"a": SILENT, "b": SILENT}
    bench.ready("a")
    bench.ready("a")
    bench.now += 5 * SECOND
    bench.ready("b", plugged=True)
    assert [name for name, _ in bench.asked] == ["a"]
    bench.now += BACKSTOP
    bench.ready("b", plugged=True)
    assert [name for name, _ in bench.asked] == ["a", "b"]
    until = bench.probing.busy_until("a")
    assert until is not None
    bench.now = until
    bench.ready("a")
    assert [name for name, _ in bench.asked] == ["a", "b", "a"], "it still has its turn"


def test_who_wants_a_new_answer_gets_none_of_before(bench: Bench) -> None:
    bench.ready(plugged=True)
    bench.answers = {"data": Found(2 << 30)}
    since = bench.now + 1
    bench.now = since
    assert bench.ready(plugged=True) == GOOD, "it is fresh"
    assert bench.refusal(plugged=True, since=since).code == UNDER_WAY
    assert bench.ready(plugged=True, since=since) == Found(2 << 30)
    assert len(bench.asked) == 2


@pytest.mark.parametrize("answer", [SILENT, ABSENT])
def test_who_wants_a_new_answer_does_not_wait_for_the_next_try(bench: Bench, answer: NotReady) -> None:
    bench.answers = {"data": answer}
    bench.ready(plugged=True)
    bench.now += 1
    since = bench.now
    assert bench.refusal(plugged=True, since=since).code == UNDER_WAY, "not what it said before"
    assert bench.refusal(plugged=True, since=since).code == answer.code
    assert len(bench.asked) == 2
    bench.answers = {}
    bench.now += 1
    since = bench.now
    bench.ready(plugged=True, since=since)
    assert bench.ready(plugged=True, since=since) == GOOD


def test_every_probe_is_counted_by_driver_and_outcome(bench: Bench) -> None:
    bench.answers = {"b": ABSENT, "c": NotReady("the passphrase is wrong")}
    for name in ("a", "b", "c"):
        bench.ready(name)
        bench.ready(name)
    assert bench.counted == [("ceph", "ok"), ("ceph", "volume-refused"), ("ceph", "failed")]
