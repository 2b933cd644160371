"""What each method of a Transaction changes, and what it leaves alone."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from sri_libvirt import resources
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import NotFound, StoreError
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import LABEL_UID, SECOND, Event, Machine, Reason, Run, StopCause, StopEvent
from sri_libvirt.resources import CPU, Claim, Usage
from sri_libvirt.store import Reader, Store, Transaction, codec, timeline
from sri_libvirt.store.frames import Frame
from tests.unit.store.records import DISK, NIC, PROFILE, full, labelled, machine, row


class Clock:
    now = 1_000_000 * SECOND

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    opened = Store.open(StatePaths(tmp_path / "state"), clock)
    yield opened
    opened.close()


def current(store: Store, machine_id: str = "m1") -> Machine:
    found = store.machine(machine_id)
    assert found is not None
    return found


def frame(store: Store, machine_id: str = "m1") -> pb.Machine:
    (found,) = store.frames(machine_id)
    return pb.Machine.FromString(found)


def reply_size(store: Store) -> int:
    return pb.ListMachinesResponse(machines=[pb.Machine.FromString(each) for each in store.frames()]).ByteSize()


def test_the_rpcs_columns(store: Store) -> None:
    store.write(lambda tx: tx.insert(full()))
    spec = pb.MachineSpec(volumes=[pb.Volume(name="v", empty_disk=pb.EmptyDisk())])

    def work(tx: Transaction) -> None:
        tx.set_spec("m1", spec, 5)
        tx.set_annotations("m1", {"b": "c"})
        tx.set_deleted("m1", 123)

    store.write(work)
    assert current(store) == replace(full(), spec=spec, generation=5, annotations={"b": "c"}, deleted_at=123)
    shown = frame(store)
    assert (shown.spec, shown.metadata.generation, shown.metadata.deleted_at) == (spec, 5, 123)
    assert dict(shown.metadata.annotations) == {"b": "c"}
    store.write(lambda tx: tx.set_spec("m1", spec, 6, power_at=60))
    assert (current(store).generation, current(store).power_at) == (6, 60)


def test_the_loops_columns(store: Store) -> None:
    store.write(lambda tx: tx.insert(machine(attachments=(row(),))))
    status = pb.MachineStatus(state=pb.MACHINE_RUNNING, image_ref="i")
    run, reasons = Run(uuid="r", stopped=StopCause.HOST), (Reason("c", "m", "a", 3, True),)

    def work(tx: Transaction) -> None:
        tx.record_pass("m1", status=status, run=run, reasons=reasons, observed_generation=1)
        tx.set_profile("m1", PROFILE)
        tx.set_ports("m1", {("volume", "v", 1): 3})
        tx.set_backing("m1", ("volume", "v", 1), DISK)

    store.write(work)
    found = current(store)
    assert (found.status, found.run, found.reasons, found.observed_generation) == (status, run, reasons, 1)
    assert found.profile == PROFILE
    assert (found.attachments[0].port, found.attachments[0].backing) == (3, DISK)
    shown = frame(store).status
    assert (shown.state, shown.image_ref, shown.observed_generation) == (pb.MACHINE_RUNNING, "i", 1)
    assert (found.generation, found.annotations, found.spec) == (1, {}, machine().spec)
    store.write(lambda tx: tx.set_backing("m1", ("volume", "v", 1), None, "p", "a", 9, "no-room"))
    failed = current(store).attachments[0]
    assert (failed.backing, failed.problem, failed.problem_advice, failed.problem_at) == (None, "p", "a", 9)
    assert failed.problem_code == "no-room"
    store.write(lambda tx: tx.set_backing("m1", ("volume", "v", 1), NIC))
    assert current(store).attachments[0].problem == ""


def test_attachments(store: Store) -> None:
    store.write(lambda tx: tx.insert(machine(attachments=(row(), row(kind="nic", name="n", mac="02:aa")))))
    store.write(lambda tx: tx.put_attachment(row(incarnation=2)))
    store.write(lambda tx: tx.set_wanted("m1", ("volume", "v", 1), False, 20))
    store.write(lambda tx: tx.set_wanted("m1", ("volume", "v", 2), True, 30, b"new"))
    found = {each.key: each for each in current(store).attachments}
    assert (found["volume", "v", 1].wanted, found["volume", "v", 1].changed_at) == (False, 20)
    assert (found["volume", "v", 2].spec, found["volume", "v", 2].changed_at) == (b"new", 30)
    assert store.write(lambda tx: tx.mac_owner("02:aa")) == ("m1", "n")
    assert store.write(lambda tx: tx.mac_owner("02:bb")) is None
    store.write(lambda tx: tx.delete_attachment("m1", ("nic", "n", 1)))
    store.write(lambda tx: tx.delete_attachment("m1", ("nic", "n", 1)))
    assert {each.key for each in current(store).attachments} == {("volume", "v", 1), ("volume", "v", 2)}
    assert store.write(lambda tx: tx.mac_owner("02:aa")) is None


def test_a_stop_event_goes_only_if_it_is_the_one_that_was_seen(store: Store) -> None:
    store.write(lambda tx: tx.insert(machine()))
    old, new = StopEvent("guest", "shutdown", 5), StopEvent("", "failed", 6)

    def consume(at: int) -> None:
        store.write(
            lambda tx: tx.record_pass(
                "m1", status=pb.MachineStatus(), run=Run(), reasons=(), observed_generation=0, consumed_stop_at=at
            )
        )

    store.write(lambda tx: tx.note_stop("m1", old))
    assert current(store).stop_event == old
    store.write(lambda tx: tx.note_stop("m1", new))
    consume(5)
    assert current(store).stop_event == new
    consume(0)
    assert current(store).stop_event == new
    consume(6)
    assert current(store).stop_event is None
    store.write(lambda tx: tx.note_stop("m1", old))
    store.write(lambda tx: tx.note_stop("m1", None))
    assert current(store).stop_event is None
    store.write(lambda tx: tx.note_stop("unknown", old))


def test_a_pass_that_found_nothing_new_writes_nothing(store: Store, tmp_path: Path) -> None:
    store.write(lambda tx: tx.insert(full()))
    log = tmp_path / "state" / "store" / "state.sqlite-wal"

    def record(tx: Transaction) -> None:
        known = full()
        tx.record_pass(
            "m1", status=known.status, run=known.run, reasons=known.reasons, observed_generation=3, consumed_stop_at=1
        )

    store.write(record)
    before = (log.stat().st_size, log.read_bytes())
    for _ in range(3):
        store.write(record)
    assert (log.stat().st_size, log.read_bytes()) == before


def test_what_is_not_there_is_not_found(store: Store) -> None:
    store.write(lambda tx: tx.insert(machine()))
    key = ("volume", "v", 1)
    for work in (
        lambda tx: tx.set_deleted("no", 1),
        lambda tx: tx.set_run("no", Run()),
        lambda tx: tx.set_wanted("m1", key, True, 1),
        lambda tx: tx.set_ports("m1", {key: 1}),
    ):
        with pytest.raises(NotFound):
            store.write(work)


def test_a_uid_is_found_only_with_all_three_labels(store: Store) -> None:
    store.write(lambda tx: tx.insert(machine("a", labels={LABEL_UID: "u"})))
    store.write(lambda tx: tx.insert(machine("b", labels={LABEL_UID: "u"})))
    assert store.write(lambda tx: tx.find_uid("u")) is None
    store.write(lambda tx: tx.insert(labelled("c", "u")))
    assert store.write(lambda tx: tx.find_uid("u")) == labelled("c", "u")
    with pytest.raises(StoreError, match="UNIQUE"):
        store.write(lambda tx: tx.insert(labelled("d", "u")))
    assert store.machine("d") is None


def test_the_most_of_the_listing_is_summed_up_as_the_work_goes(store: Store) -> None:
    store.write(lambda tx: tx.insert(full("m0")))

    def work(tx: Transaction) -> int:
        tx.insert(machine("m1", annotations={"a": "x" * 300}))
        tx.insert(machine("m2", annotations={"a": "x" * 20_000}))
        tx.forget("m0")
        return tx.listing_most()

    most = store.write(work)
    assert most == store.write(lambda tx: tx.listing_most())
    frames = [Frame.read(pb.Machine.FromString(data), data, 0) for data in store.frames()]
    assert most == sum(frame.most for frame in frames) > reply_size(store) > 20_000


def test_a_new_start_counts_the_same(tmp_path: Path, store: Store, clock: Clock) -> None:
    store.write(lambda tx: tx.insert(full()))
    most = store.write(lambda tx: tx.listing_most())
    store.close()
    with closing(Store.open(StatePaths(tmp_path / "state"), clock)) as again:
        assert again.write(lambda tx: tx.listing_most()) == most


def test_forget_leaves_the_timeline_only(store: Store) -> None:
    store.write(lambda tx: tx.insert(full()))
    store.write(lambda tx: tx.add_event("m1", Event("k", "r", "m")))
    store.write(lambda tx: tx.forget("m1"))
    store.write(lambda tx: tx.add_event("m1", Event("k", "last", "m")))
    assert store.machine("m1") is None
    assert store.frames() == []
    assert [event.reason for event in store.events("m1")] == ["r", "last"]
    store.write(lambda tx: tx.insert(machine()))  # nothing of its devices is left
    assert current(store).attachments == ()


def test_events(store: Store, clock: Clock) -> None:
    store.write(lambda tx: tx.insert(machine()))
    given = Event("k", "r", "m", time=5, took=6)

    def work(tx: Transaction) -> None:
        tx.add_event("m1", given)
        tx.record_pass(
            "m1",
            status=pb.MachineStatus(),
            run=Run(),
            reasons=(),
            observed_generation=0,
            events=[Event("k", "now", "m")],
        )
        tx.add_event("never here", given)

    store.write(work)
    assert store.events("m1") == [
        replace(given, machine="m1"),
        Event("k", "now", "m", time=clock.now, machine="m1"),
    ]
    assert store.events("m1", limit=1)[0].reason == "now"
    assert store.events("never here") == []


def test_the_first_and_the_newest_events_are_kept(store: Store) -> None:
    store.write(lambda tx: tx.insert(machine()))
    total = timeline.FIRST + timeline.NEWEST + 30

    def work(tx: Transaction) -> None:
        for index in range(total):
            tx.add_event("m1", Event("k", str(index), "m"))

    store.write(work)
    kept = [int(event.reason) for event in store.events("m1")]
    assert kept == [*range(timeline.FIRST), *range(total - timeline.NEWEST, total)]


def test_equal_events_in_a_row_are_counted(store: Store) -> None:
    store.write(lambda tx: tx.insert(machine("m1")))
    for at in (10, 20, 30):
        store.write(lambda tx, at=at: tx.add_event("m1", Event("k", "r", "m", time=at, took=at)))  # type: ignore[misc]
    store.write(lambda tx: tx.add_event("m1", Event("k", "r", "other", time=40)))
    store.write(lambda tx: tx.add_event("m1", Event("k", "r", "m", time=50)))
    found = [(event.message, event.time, event.count, event.latest) for event in store.events("m1")]
    assert found == [("m", 10, 3, 30), ("other", 40, 1, 40), ("m", 50, 1, 50)]
    assert store.events("m1")[0].took == 30


@pytest.mark.parametrize("noisy", [1, 2, 5])
def test_what_comes_again_and_again_wipes_nothing_else_out(store: Store, noisy: int) -> None:
    """By a few sorts of events that alternate, as when a guest ejects a device and gets it back, for ever."""

    def work(tx: Transaction) -> None:
        tx.insert(machine("m1"))
        for index in range(timeline.FIRST):
            tx.add_event("m1", Event("k", f"begin {index}", "m"))
        tx.add_event("m1", Event("k", "seldom", "m"))
        for index in range(3 * timeline.NEWEST):
            tx.add_event("m1", Event("k", f"noise {index % noisy}", f"m{index}"))
        tx.add_event("m1", Event("k", "last", "m"))

    store.write(work)
    kept = store.events("m1")
    assert len(kept) == timeline.FIRST + timeline.NEWEST
    assert [event.reason for event in kept[: timeline.FIRST + 1]] == [
        *(f"begin {index}" for index in range(timeline.FIRST)),
        "seldom",
    ]
    assert kept[-1].reason == "last"
    noise = [int(event.message[1:]) for event in kept if event.reason.startswith("noise")]
    assert noise == list(range(3 * timeline.NEWEST - len(noise), 3 * timeline.NEWEST)), "of it the newest are kept"


def test_events_of_machines_that_are_gone_end(store: Store, clock: Clock) -> None:
    def gone(machine_id: str) -> None:
        def work(tx: Transaction) -> None:
            tx.insert(machine(machine_id))
            tx.add_event(machine_id, Event("k", "r", "m"))
            tx.forget(machine_id)

        store.write(work)

    store.write(lambda tx: tx.insert(machine("alive")))
    store.write(lambda tx: tx.add_event("alive", Event("k", "r", "m")))
    gone("old")
    clock.now += timeline.GONE_FOR // 2
    gone("new")
    assert store.events("old")
    clock.now += timeline.GONE_FOR // 2 + 1
    gone("newer")
    assert not store.events("old")
    assert store.events("new")
    for index in range(timeline.GONE):
        clock.now += 1
        gone(f"m{index}")
    assert not store.events("new")
    assert not store.events("newer")
    assert store.events("m0")
    assert store.events("alive")


def test_meta(store: Store) -> None:
    assert store.meta("k") is None
    store.write(lambda tx: tx.set_meta("k", "1"))
    store.write(lambda tx: tx.set_meta("k", "2"))
    assert store.meta("k") == store.write(lambda tx: tx.meta("k")) == "2"


# Claims


CLASS = [Claim(CPU, 1000), Claim(resources.DISK, 10)]
HELD = Claim("vf/eth0", 1, node=1, holder=row().alias)
KEPT = Claim(resources.DISK, 7, holder="empty-v")


def made(tx: Transaction) -> None:
    tx.insert(machine(attachments=(row(),)))
    tx.claim("m1", [*CLASS, HELD, KEPT])


def test_claims_are_summed_by_place(store: Store, tmp_path: Path) -> None:
    store.write(made)
    whole = Usage(
        {(CPU, -1): 1000, (resources.DISK, -1): 17, ("vf/eth0", -1): 1, ("vf/eth0", 1): 1},
        {"small": 1},
    )
    assert store.usage() == whole
    assert store.write(lambda tx: [tx.holds("m1", holder) for holder in ("", HELD.holder, "other")]) == [
        True,
        True,
        False,
    ]
    with Reader.open(StatePaths(tmp_path / "state")) as reader:
        assert reader.usage() == whole
        assert reader.claims("m1") == [*CLASS, KEPT, HELD]
        assert reader.claims("other") == []


def test_a_claim_that_is_there_is_not_made_again(store: Store) -> None:
    store.write(made)
    before = store.usage()
    store.write(lambda tx: tx.claim("m1", [Claim(resources.DISK, 99, holder="empty-v"), *CLASS]))
    assert store.usage() == before


def test_a_devices_claim_ends_with_it_and_what_is_kept_stays(store: Store) -> None:
    store.write(made)
    for _ in range(2):
        store.write(lambda tx: tx.delete_attachment("m1", ("volume", "v", 1)))
        assert store.usage().claimed == {(CPU, -1): 1000, (resources.DISK, -1): 17}


def test_claims_end_exactly_when_the_machine_is_gone(store: Store) -> None:
    store.write(made)
    store.write(lambda tx: tx.set_deleted("m1", 5))
    assert store.usage().of(CPU) == 1000
    for _ in range(2):
        store.write(lambda tx: tx.forget("m1"))
        assert store.usage() == Usage()
    assert not store.write(lambda tx: tx.holds("m1", ""))


def test_a_work_that_fails_claims_nothing_and_sees_those_before_it(store: Store) -> None:
    def refused(tx: Transaction) -> None:
        made(tx)
        assert tx.usage.of(CPU) == 1000
        raise NotFound("no")

    with pytest.raises(NotFound):
        store.write(refused)
    assert store.usage() == Usage()
    seen: list[int] = []

    def one(tx: Transaction, number: int) -> None:
        tx.insert(machine(f"m{number}"))
        tx.claim(f"m{number}", CLASS)
        seen.append(tx.usage.of(CPU))

    for work in [store.submit(lambda tx, number=number: one(tx, number)) for number in range(20)]:  # type: ignore[misc]
        work.result()
    assert seen == [1000 * count for count in range(1, 21)]


def test_claims_are_found_again(store: Store, tmp_path: Path, clock: Clock) -> None:
    store.write(made)
    before = store.usage()
    store.close()
    again = Store.open(StatePaths(tmp_path / "state"), clock)
    assert again.usage() == before
    again.close()


def test_a_run_of_an_older_version_is_read(store: Store, tmp_path: Path) -> None:
    store.write(lambda tx: tx.insert(machine()))
    written = json.loads(codec.record(Run("u", "b", 1, stopped=StopCause.FAILED)))
    for later in ("resumes", "ending", "save_refused", "behind", "restored"):
        del written[later]
    with closing(sqlite3.connect(StatePaths(tmp_path / "state").database)) as connection, connection:
        connection.execute("UPDATE machine SET run = ?", (json.dumps(written),))
    assert current(store).run == Run("u", "b", 1, stopped=StopCause.FAILED)
