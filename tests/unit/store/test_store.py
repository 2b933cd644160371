"""The store's promises: group commit, savepoints, what is published when, restart, and what breaks."""

from __future__ import annotations

import json
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DiskHost, DiskSource, ImagePin, to_json
from sri_libvirt.errors import NotFound, StoreError
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import SECOND, Attachment, CachedImage, Event, Key, Run
from sri_libvirt.store import Store, Transaction, database, schema, writer
from tests.unit.store.records import PROFILE, full, labelled, machine, row


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths(tmp_path / "odd ?#% name")


@pytest.fixture
def store(paths: StatePaths) -> Iterator[Store]:
    ticks = count(1000)
    opened = Store.open(paths, lambda: next(ticks))
    yield opened
    opened.close()


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    """The writing connections of stores opened from now on."""
    made: list[sqlite3.Connection] = []
    real = database.open_writable

    def open_writable(path: Path) -> sqlite3.Connection:
        made.append(real(path))
        return made[-1]

    monkeypatch.setattr(database, "open_writable", open_writable)
    return made


def together(store: Store, *works: Callable[[Transaction], Any]) -> list[Future[Any]]:
    """Have works wait until all are queued, so that they share one commit."""
    entered, queued = threading.Event(), threading.Event()

    def hold(_: Transaction) -> None:
        entered.set()
        assert queued.wait(10)

    held = store.submit(hold)
    assert entered.wait(10)
    futures = [store.submit(work) for work in works]
    queued.set()
    held.result(10)
    return futures


def fail(problem: Exception) -> Callable[[Transaction], None]:
    def work(tx: Transaction) -> None:
        tx.insert(machine("failed"))
        tx.set_meta("failed", "yes")
        raise problem

    return work


def listed(store: Store) -> list[pb.Machine]:
    return [pb.Machine.FromString(frame) for frame in store.frames()]


def test_every_field_of_a_machine_comes_back(store: Store) -> None:
    store.write(lambda tx: tx.insert(full()))
    assert store.machine("m1") == full()
    assert store.write(lambda tx: tx.machine("m1")) == full()
    assert store.write(lambda tx: tx.machines()) == [full()]
    assert store.machine("m2") is None


def test_the_frame_is_the_machine_as_the_sri_shows_it(store: Store) -> None:
    store.write(lambda tx: tx.insert(full()))
    (frame,) = listed(store)
    assert frame.spec == full().spec
    assert frame.status == full().status
    assert dict(frame.metadata.labels) == full().labels
    assert dict(frame.metadata.annotations) == full().annotations
    assert (frame.metadata.id, frame.metadata.generation) == ("m1", 4)
    assert (frame.metadata.created_at, frame.metadata.deleted_at) == (10, 99)


def test_many_works_are_one_commit(paths: StatePaths, connections: list[sqlite3.Connection]) -> None:
    store = Store.open(paths, lambda: 1)
    statements: list[str] = []
    connections[0].set_trace_callback(statements.append)
    for future in together(store, *(lambda tx, i=i: tx.insert(machine(f"m{i}")) for i in range(50))):
        future.result(10)
    assert statements.count("COMMIT") == 2  # the one that held the others back, and the others
    assert len(store.machine_ids()) == 50
    store.close()


def test_a_failing_work_is_undone_alone(store: Store) -> None:
    one, two, three = together(
        store, lambda tx: tx.insert(machine("a")), fail(KeyError("x")), lambda tx: tx.insert(machine("b"))
    )
    assert one.exception(10) is None
    assert isinstance(two.exception(10), KeyError)
    assert three.exception(10) is None
    assert sorted(store.machine_ids()) == ["a", "b"]
    assert store.meta("failed") is None
    assert store.machine("failed") is None


def test_a_work_sees_those_before_it_in_the_same_commit(store: Store) -> None:
    _, seen = together(store, lambda tx: tx.insert(labelled("m1", "u")), lambda tx: tx.find_uid("u"))
    assert seen.result(10) == labelled("m1", "u")


@pytest.mark.rule("R-A3-6")
def test_a_machine_is_listed_before_its_future_resolves(store: Store) -> None:
    seen: list[list[str]] = []
    future = store.submit(lambda tx: tx.insert(machine("a")))
    future.add_done_callback(lambda _: seen.append(store.machine_ids()))
    future.result(10)
    store.close()
    assert seen == [["a"]]


def test_a_failed_commit_fails_every_future_and_lists_nothing(store: Store) -> None:
    def break_commit(tx: Transaction) -> None:
        tx._connection.execute("PRAGMA defer_foreign_keys = ON")
        tx.put_attachment(row("nobody"))

    one, two = together(store, lambda tx: tx.insert(machine("a")), break_commit)
    for future in (one, two):
        assert "FOREIGN KEY" in str(future.exception(10))
        assert isinstance(future.exception(), StoreError)
    assert store.machine_ids() == []
    assert store.machine("a") is None
    store.write(lambda tx: tx.insert(machine("b")))  # and the store goes on
    assert store.machine_ids() == ["b"]


def test_a_transaction_that_sqlite_gave_up_fails_every_future(store: Store) -> None:
    def lose(tx: Transaction) -> None:
        tx._connection.execute("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")

    one, two = together(store, lambda tx: tx.insert(machine("a")), lose)
    for future in (one, two):
        assert isinstance(future.exception(10), StoreError)
    assert store.machine_ids() == []
    assert store.write(lambda tx: tx.machines()) == []


def test_a_full_disk_says_what_to_do_and_heals(paths: StatePaths, connections: list[sqlite3.Connection]) -> None:
    store = Store.open(paths, lambda: 1)
    pages = connections[0].execute("PRAGMA page_count").fetchone()[0]
    connections[0].execute(f"PRAGMA max_page_count = {pages}")
    large = machine("large", annotations={"a": "x" * 100_000})
    with pytest.raises(StoreError, match="free some space"):
        store.write(lambda tx: tx.insert(large))
    assert store.machine_ids() == []
    connections[0].execute("PRAGMA max_page_count = 100000")
    store.write(lambda tx: tx.insert(large))
    assert store.machine("large") == large
    store.close()


def test_close_does_what_was_submitted_and_then_refuses(paths: StatePaths) -> None:
    store = Store.open(paths, lambda: 1)
    futures = [store.submit(lambda tx, i=i: tx.insert(machine(f"m{i}"))) for i in range(600)]  # type: ignore[misc]
    store.close()
    assert all(future.done() and future.exception() is None for future in futures)
    with pytest.raises(StoreError, match="stopping"):
        store.write(lambda tx: tx.machines())
    with pytest.raises(StoreError, match="stopping"):
        store.machine("m1")
    store.close()
    with Store.open_read_only(paths) as reader:
        assert len(reader.machines()) == 600


def test_a_cancelled_work_is_not_done(store: Store) -> None:
    entered, cancelled = threading.Event(), threading.Event()

    def hold(_: Transaction) -> None:
        entered.set()
        assert cancelled.wait(10)

    held = store.submit(hold)
    assert entered.wait(10)
    unwanted = store.submit(lambda tx: tx.insert(machine("a")))
    assert unwanted.cancel()
    cancelled.set()
    held.result(10)
    store.write(lambda _: None)
    assert store.machine_ids() == []


def test_a_reopened_store_is_the_same(paths: StatePaths) -> None:
    first = Store.open(paths, lambda: 1)
    first.write(lambda tx: tx.insert(full()))
    first.write(lambda tx: tx.add_event("m1", Event("k", "r", "m", took=5)))
    frames, events = first.frames(), first.events("m1")
    first.close()
    second = Store.open(paths, lambda: 2)
    assert (second.frames(), second.events("m1")) == (frames, events)
    assert second.machine("m1") == full()
    assert second.instance == first.instance
    second.close()


def test_two_stores_have_two_instances(tmp_path: Path) -> None:
    made = [Store.open(StatePaths(tmp_path / name), lambda: 1) for name in "ab"]
    assert made[0].instance != made[1].instance
    for store in made:
        store.close()


def test_files_are_private(store: Store, paths: StatePaths) -> None:
    store.write(lambda tx: tx.insert(machine()))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in paths.store.iterdir()}
    files = ("state.sqlite", "state.sqlite-shm", "state.sqlite-wal")
    assert modes == {"backups": 0o700, "reserve": 0o600, **dict.fromkeys(files, 0o600)}
    assert stat.S_IMODE(paths.store.stat().st_mode) == 0o700


def test_commits_are_synced(paths: StatePaths, connections: list[sqlite3.Connection]) -> None:
    store = Store.open(paths, lambda: 1)
    assert connections[0].execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert connections[0].execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
    store.close()


# Order and selection


def test_order_is_live_first_newest_first_whatever_the_clock_said(store: Store) -> None:
    for machine_id, created, deleted in (("a", 4, 0), ("b", 3, 9), ("d", 2, 0), ("c", 2, 0), ("e", 1, 9)):
        made = machine(machine_id, created_at=created, deleted_at=deleted)
        store.write(lambda tx, made=made: tx.insert(made))  # type: ignore[misc]
    assert store.machine_ids() == ["c", "d", "a", "e", "b"]
    store.write(lambda tx: tx.set_deleted("c", 10))
    store.write(lambda tx: tx.forget("e"))
    assert store.machine_ids() == ["d", "a", "c", "b"]


@pytest.mark.rule("R-A3-3")
def test_a_selector_needs_its_keys_also_for_empty_values(store: Store) -> None:
    store.write(lambda tx: tx.insert(machine("a", labels={"k": "", "x": "1"})))
    store.write(lambda tx: tx.insert(machine("b")))

    def ids(machine_id: str = "", **selector: str) -> list[str]:
        return [pb.Machine.FromString(frame).metadata.id for frame in store.frames(machine_id, selector)]

    assert ids(k="") == ["a"]
    assert ids(k="", x="2") == []
    assert ids("a", x="1") == ["a"]
    assert ids("b", x="1") == []
    assert ids("none") == []


# What breaks


@pytest.mark.parametrize(
    ("disk", "source"),
    [
        (DiskSource("h", "/d", "raw", 512), "/d"),
        (
            DiskSource("h", "", "raw", 512, kind="network", protocol="iscsi", name="iqn.1:t/1", hosts=(DiskHost("p"),)),
            "iscsi:iqn.1:t/1@p:3260",
        ),
    ],
)
def test_a_volume_of_an_earlier_schema_is_known_by_what_it_is(
    paths: StatePaths, monkeypatch: pytest.MonkeyPatch, disk: DiskSource, source: str
) -> None:
    paths.prepare()
    new = schema.MIGRATIONS
    monkeypatch.setattr(schema, "MIGRATIONS", new[:4])
    monkeypatch.setattr(schema, "VERSION", 4)
    with closing(Store.open(paths, lambda: 1)) as store:
        store.write(lambda tx: tx.insert(machine("m1")))
    with closing(sqlite3.connect(paths.database)) as connection:
        data = {**json.loads(to_json(disk)), "source": source}
        del data["identity"]
        old = row("m1")
        columns = [name for name in Attachment.__slots__ if name not in ("image", "backing")]
        values = [getattr(old, name) for name in columns]
        connection.execute(
            f"INSERT INTO attachment ({', '.join(columns)}, backing) VALUES ({', '.join('?' * len(columns))}, ?)",
            (*values, json.dumps(data)),
        )
        connection.commit()
    monkeypatch.setattr(schema, "MIGRATIONS", new)
    monkeypatch.setattr(schema, "VERSION", len(new))
    with closing(Store.open(paths, lambda: 1)) as store:
        other = replace(disk, handle="another")
        assert store.write(lambda tx: tx.holder(other, besides="m2")) == "m1"
        assert store.write(lambda tx: tx.holder(replace(other, path="/e", name="iqn.1:t/2"), besides="m2")) == ""


def test_a_newer_schema_is_refused(paths: StatePaths) -> None:
    Store.open(paths, lambda: 1).close()
    with sqlite3.connect(paths.database) as connection:
        connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    connection.close()
    for opening in (lambda: Store.open(paths, lambda: 1), lambda: Store.open_read_only(paths)):
        with pytest.raises(StoreError, match=r"newer version.*install that version"):
            opening()


def test_a_migration_is_whole_or_not_at_all(paths: StatePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Store.open(paths, lambda: 1)
    first.write(lambda tx: tx.insert(machine()))
    first.close()
    good = "ALTER TABLE machine ADD COLUMN extra TEXT"
    old = schema.MIGRATIONS
    monkeypatch.setattr(schema, "MIGRATIONS", (*old, (good, "CREATE TABLE machine (x)")))
    with pytest.raises(StoreError, match="already exists"):
        Store.open(paths, lambda: 1)
    monkeypatch.setattr(schema, "MIGRATIONS", (*old, (good,)))
    monkeypatch.setattr(schema, "VERSION", len(old) + 1)
    with pytest.raises(StoreError, match="start the daemon once to migrate it"):
        Store.open_read_only(paths)
    second = Store.open(paths, lambda: 1)
    assert second.machine_ids() == ["m1"]
    second.close()
    Store.open_read_only(paths).close()


@pytest.mark.parametrize(
    "content", [b"no database, but long enough to look at" * 100, b"SQLite format 3\0" + b"\xff" * 9000]
)
def test_a_file_that_is_no_database(paths: StatePaths, content: bytes) -> None:
    paths.prepare()
    paths.database.write_bytes(content)
    with pytest.raises(StoreError, match="put back a backup"):
        Store.open(paths, lambda: 1)
    assert paths.database.read_bytes() == content


def test_a_damaged_file_is_noticed_at_open(paths: StatePaths) -> None:
    store = Store.open(paths, lambda: 1)
    for index in range(50):
        store.write(lambda tx, index=index: tx.insert(machine(f"m{index}", annotations={"a": "x" * 2000})))  # type: ignore[misc]
    store.close()
    content = bytearray(paths.database.read_bytes())
    content[4096 * 3 : 4096 * 20] = b"\xa5" * 4096 * 17
    paths.database.write_bytes(content)
    with pytest.raises(StoreError, match="put back a backup"):
        Store.open(paths, lambda: 1)


@pytest.mark.rule("R-A3-7")
def test_a_damaged_record_stays_listed_and_says_which(paths: StatePaths) -> None:
    first = Store.open(paths, lambda: 1)
    first.write(lambda tx: tx.insert(machine("good")))
    first.write(lambda tx: tx.insert(machine("bad")))
    frames = first.frames()
    first.close()
    with sqlite3.connect(paths.database) as connection:
        connection.execute("UPDATE machine SET run = '{}' WHERE id = 'bad'")
    connection.close()
    store = Store.open(paths, lambda: 1)
    assert store.frames() == frames
    assert store.machine("good") is not None
    with pytest.raises(StoreError, match="machine bad is damaged"):
        store.machine("bad")
    store.close()


def test_there_is_nothing_to_read(paths: StatePaths) -> None:
    with pytest.raises(StoreError, match="has the daemon run"):
        Store.open_read_only(paths)
    paths.prepare()
    paths.database.touch()
    with pytest.raises(StoreError, match="start the daemon once"):
        Store.open_read_only(paths)


def test_a_reader_sees_commits_and_cannot_write(store: Store, paths: StatePaths) -> None:
    with Store.open_read_only(paths) as reader:
        assert reader.instance == store.instance
        assert reader.machines() == []
        store.write(lambda tx: tx.insert(full()))
        assert reader.machine("m1") == full()
        connection = database.open_reading(paths.database)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM machine")
        connection.close()


def test_reads_go_on_while_a_work_is_done(store: Store) -> None:
    store.write(lambda tx: tx.insert(machine()))

    def work(tx: Transaction) -> None:
        tx.set_run("m1", Run(uuid="new"))
        found = store.machine("m1")
        assert found is not None
        assert found.run == Run()
        assert store.machine_ids() == ["m1"]

    store.write(work)
    found = store.machine("m1")
    assert found is not None
    assert found.run == Run(uuid="new")


def test_reads_from_many_threads(store: Store) -> None:
    store.write(lambda tx: tx.insert(full()))
    wrong: list[object] = []

    def read() -> None:
        for _ in range(50):
            if store.machine("m1") not in (full(), None):
                wrong.append(store.machine("m1"))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        store.write(lambda tx: tx.set_profile("m1", PROFILE))
    for thread in threads:
        thread.join(30)
    assert wrong == []


def test_a_database_of_schema_1_is_migrated_and_loses_nothing(paths: StatePaths) -> None:
    """schema-1.sql is a dump of a database that the program of schema 1 wrote."""
    paths.prepare()
    with sqlite3.connect(paths.database) as connection:
        connection.executescript((Path(__file__).parent / "schema-1.sql").read_text())
    connection.close()
    with closing(Store.open(paths, lambda: 1)) as migrated:
        assert migrated.machine("m1") == full()
        key: Key = ("volume", "v", 1)
        migrated.write(lambda tx: tx.set_unplug("m1", key, 7))
        found = migrated.machine("m1")
        assert found is not None
        assert [row.unplug_at for row in found.attachments if row.key == key] == [7]
        assert migrated.write(lambda tx: tx.unclaimed()) == ["m1"]
        assert migrated.usage().machines == {"c": 1}


def test_what_an_image_means_comes_back_and_is_needed_as_long_as_its_machine_is(store: Store) -> None:
    pin = ImagePin("r.example/i@sha256:0", "kernel", True, "quiet", ("sha256:1", "sha256:2"), "{}")
    image = replace(row("m1", "image", ""), spec=b"r.example/i:1")
    store.write(lambda tx: tx.insert(machine("m1", attachments=(image,))))
    kept = [CachedImage(name, name, "raw", 1, 2, "r.example/i") for name in ("sha256:1", "sha256:3")]
    for each in kept:
        store.write(lambda tx, each=each: tx.keep_image(each))  # type: ignore[misc]
    store.write(lambda tx: tx.set_image("m1", image.key, pin))
    store.write(lambda tx: tx.keep_reference(pin.reference, pin))
    found = store.machine("m1")
    assert found is not None
    assert found.image == pin
    assert store.reference(pin.reference) == pin
    assert {each.name: machines for each, machines in store.images()} == {"sha256:1": 1, "sha256:3": 0}
    assert [each.name for each in store.write(lambda tx: tx.drop_images(lambda free: free))] == ["sha256:3"]
    store.write(lambda tx: tx.forget("m1"))
    assert store.write(lambda tx: tx.drop_images(lambda free: free)) != []
    assert (store.images(), store.reference(pin.reference)) == ([], None)


def test_what_a_timeline_gets_is_logged_once(store: Store) -> None:
    store.write(lambda tx: tx.insert(machine("a")))

    def add(tx: Transaction, words: str = "it was destroyed") -> None:
        tx.add_event("a", Event(kind="stopped", reason="destroyed", message=words, took=2 * SECOND))

    def fail(tx: Transaction) -> None:
        add(tx, "never stored")
        raise NotFound("no such thing")

    with capture_logs() as logs:
        store.write(add)
        store.write(add)  # the same once more, which is counted
        with pytest.raises(NotFound):
            store.write(fail)
        store.write(lambda tx: tx.add_event("never here", Event(kind="stopped", reason="x", message="x")))
        store.write(lambda tx: add(tx, "and again"))
        store.write(lambda _tx: None)  # what came before has been logged when this begins
    told = {"machine": "a", "kind": "stopped", "reason": "destroyed", "seconds": 2.0, "log_level": "info"}
    assert logs == [{"event": "it was destroyed", **told}, {"event": "and again", **told}]


def test_a_log_that_nobody_reads_keeps_nothing_from_being_stored(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def info(self, *_: object, **__: object) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(writer, "log", Gone())
    store.write(lambda tx: tx.insert(machine("a")))
    for words in ("one", "two"):
        store.write(lambda tx, words=words: tx.add_event("a", Event(kind="k", reason="r", message=words)))  # type: ignore[misc]
    assert [each.message for each in store.events("a")][-2:] == ["one", "two"]


def test_who_follows_changes_is_told_of_each_commit_and_cannot_stop_the_writer(store: Store) -> None:
    told: list[frozenset[str]] = []

    def fails(_: frozenset[str]) -> None:
        raise KeyError("x")

    store.follow(fails)
    stop = store.follow(told.append)
    store.write(lambda tx: tx.insert(full()))
    store.write(lambda tx: tx.add_event("m1", Event("k", "r", "m")))
    store.write(lambda tx: tx.set_meta("nothing", "of a machine"))
    store.write(lambda tx: tx.forget("m1"))
    assert told == [frozenset({"m1"})] * 3
    stop()
    store.write(lambda tx: tx.insert(full()))
    assert len(told) == 3
