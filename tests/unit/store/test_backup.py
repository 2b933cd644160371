"""Backups: sound or not at all, put back whole, made by themselves, and the bounds of what a store can grow to."""

from __future__ import annotations

import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sri_libvirt.errors import StoreError
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import SECOND, Event
from sri_libvirt.store import Store, Transaction, backup, database, schema
from sri_libvirt.store.automatic import AutomaticBackups
from tests.unit.store.records import full, machine

NOW = 1_700_000_000 * SECOND
MACHINE = "11111111-aaaa-4000-8000-000000000001"


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths(tmp_path / "state")


@pytest.fixture
def store(paths: StatePaths) -> Iterator[Store]:
    opened = Store.open(paths, lambda: NOW)
    opened.write(lambda tx: tx.insert(full()))
    yield opened
    opened.close()


def damage(path: Path) -> None:
    """Zeroes in the middle of the file: pages that a look at the head does not see."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2 // 4096 * 4096)
        file.write(b"\xff" * 4096)


def left(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_backup_is_one_file_that_holds_everything_committed(store: Store, paths: StatePaths, tmp_path: Path) -> None:
    target = tmp_path / "copy.sqlite"
    facts = backup.backup(paths.database, target, NOW)
    store.write(lambda tx: tx.insert(machine("later")))
    assert (facts.instance, facts.machines, facts.copied_at, facts.problems) == (store.instance, 1, NOW, ())
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert backup.inspect(target) == facts
    assert left(tmp_path) == ["copy.sqlite", "state"]


def test_a_backup_overwrites_nothing(store: Store, paths: StatePaths, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    with pytest.raises(StoreError, match="exists"):
        backup.backup(paths.database, tmp_path / "precious", NOW)
    assert (tmp_path / "precious").read_text() == "precious"


def test_no_backup_of_a_damaged_store(store: Store, paths: StatePaths, tmp_path: Path) -> None:
    store.close()
    with closing(sqlite3.connect(paths.database)) as connection, connection:
        connection.execute("UPDATE machine SET status = x'ff'")
    with pytest.raises(StoreError, match="no copy is made of it: the record of machine m1 is damaged"):
        backup.backup(paths.database, tmp_path / "copy.sqlite", NOW)
    assert left(tmp_path) == ["state"]


def test_what_cannot_be_written_leaves_nothing(store: Store, paths: StatePaths, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file or directory"):
        backup.backup(paths.database, tmp_path / "absent" / "copy.sqlite", NOW)
    assert store.machine("m1") == full()


def test_a_restore_brings_the_backup_back_and_keeps_what_it_replaces(
    store: Store, paths: StatePaths, tmp_path: Path
) -> None:
    backup.backup(paths.database, tmp_path / "copy.sqlite", NOW)
    store.write(lambda tx: tx.insert(machine("later")))
    instance = store.instance
    store.close()
    facts, kept = backup.restore(paths, tmp_path / "copy.sqlite", NOW + SECOND)
    assert facts.machines == 1
    assert kept is not None
    assert backup.inspect(kept).machines == 2
    with closing(Store.open(paths, lambda: NOW)) as again:
        assert again.machine("m1") == full()
        assert (again.machine_ids(), again.instance) == (["m1"], instance)
        assert again.meta(backup.COPIED) is not None
    assert stat.S_IMODE(paths.database.stat().st_mode) == 0o600


def test_a_log_left_by_a_kill_is_not_replayed_into_the_backup(store: Store, paths: StatePaths, tmp_path: Path) -> None:
    backup.backup(paths.database, tmp_path / "copy.sqlite", NOW)
    store.write(lambda tx: tx.insert(machine("later")))
    crashed = StatePaths(tmp_path / "crashed")
    crashed.prepare()
    for path in paths.store.glob("state.sqlite*"):
        (crashed.store / path.name).write_bytes(path.read_bytes())
    _, kept = backup.restore(crashed, tmp_path / "copy.sqlite", NOW)
    assert backup.inspect(crashed.database).machines == 1
    assert kept is not None
    assert backup.inspect(kept).machines == 2


def test_a_log_that_somebody_reads_is_not_taken_from_him(
    store: Store, paths: StatePaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "FOLD_SECONDS", 0.01)
    backup.backup(paths.database, tmp_path / "copy.sqlite", NOW)
    store.write(lambda tx: tx.insert(machine("later")))
    with closing(database.open_reading(paths.database)) as reading:
        reading.execute("SELECT id FROM machine").fetchall()
        store.close()
        with pytest.raises(StoreError, match=r"another program has it open \(`fuser -v`"):
            backup.restore(paths, tmp_path / "copy.sqlite", NOW)
        assert len(reading.execute("SELECT id FROM machine").fetchall()) == 2
    assert left(paths.backups) == []
    assert backup.inspect(paths.database).machines == 2
    backup.restore(paths, tmp_path / "copy.sqlite", NOW)
    assert backup.inspect(paths.database).machines == 1


def test_the_log_of_a_lost_file_is_not_replayed_into_the_backup(
    store: Store, paths: StatePaths, tmp_path: Path
) -> None:
    backup.backup(paths.database, tmp_path / "copy.sqlite", NOW)
    store.write(lambda tx: tx.insert(machine("later")))
    crashed = StatePaths(tmp_path / "crashed")
    crashed.prepare()
    log = paths.database.with_name("state.sqlite-wal").read_bytes()
    (crashed.store / "state.sqlite-wal").write_bytes(log)
    assert backup.restore(crashed, tmp_path / "copy.sqlite", NOW)[1] is None
    assert backup.inspect(crashed.database).machines == 1
    assert [(each.name, each.read_bytes()) for each in crashed.backups.iterdir()] == [
        (f"replaced-{backup.stamp(NOW)}.sqlite-wal", log)
    ]


def test_a_damaged_file_is_replaced_and_kept(store: Store, paths: StatePaths, tmp_path: Path) -> None:
    backup.backup(paths.database, tmp_path / "copy.sqlite", NOW)
    store.close()
    paths.database.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="sri-libvirt store restore FILE"):
        Store.open(paths, lambda: NOW)
    _, kept = backup.restore(paths, tmp_path / "copy.sqlite", NOW)
    assert kept is not None
    assert kept.read_bytes().startswith(b"no database")
    with closing(Store.open(paths, lambda: NOW)) as again:
        assert again.machine("m1") == full()


def test_a_damaged_backup_is_refused_and_nothing_changes(store: Store, paths: StatePaths, tmp_path: Path) -> None:
    for number in range(100, 300):
        store.submit(lambda tx, number=number: tx.insert(machine(f"m{number}")))  # type: ignore[misc]
    backup.backup(paths.database, tmp_path / "copy.sqlite", NOW)
    store.close()
    damage(tmp_path / "copy.sqlite")
    assert backup.inspect(tmp_path / "copy.sqlite").problems
    before = paths.database.read_bytes()
    with pytest.raises(StoreError, match="is not put back"):
        backup.restore(paths, tmp_path / "copy.sqlite", NOW)
    assert paths.database.read_bytes() == before
    assert left(paths.store) == ["backups", "reserve", "state.sqlite"]
    assert left(paths.backups) == []


def test_a_newer_backup_is_refused(store: Store, paths: StatePaths, tmp_path: Path) -> None:
    backup.backup(paths.database, tmp_path / "copy.sqlite", NOW)
    with closing(sqlite3.connect(tmp_path / "copy.sqlite")) as connection:
        connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    store.close()
    with pytest.raises(StoreError, match="newer version"):
        backup.restore(paths, tmp_path / "copy.sqlite", NOW)


def test_the_database_itself_is_no_backup(store: Store, paths: StatePaths) -> None:
    with pytest.raises(StoreError, match="the state database itself"):
        backup.restore(paths, paths.database, NOW)


def test_a_file_of_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert backup.inspect(tmp_path / "empty").problems == ("it is empty",)
    with pytest.raises(StoreError, match="there is no state database"):
        backup.inspect(tmp_path / "absent")


# By itself


def test_the_newest_few_are_kept_and_others_are_nobodys_to_drop(store: Store, paths: StatePaths) -> None:
    now = NOW
    backups = AutomaticBackups(paths, 3600 * SECOND, 2, lambda: now)
    backup.backup(paths.database, paths.backups / "manual-1.sqlite", NOW)
    (paths.backups / "auto-of-mine.sqlite").touch()
    for _ in range(4):
        now += 3600 * SECOND
        assert backups.once()
    mine = ["auto-of-mine.sqlite", "manual-1.sqlite"]
    made = [f"auto-{hours:06d}-{backup.stamp(NOW + hours * 3600 * SECOND)}.sqlite" for hours in (3, 4)]
    assert left(paths.backups) == sorted(mine + made)


def test_one_that_fails_drops_none(store: Store, paths: StatePaths) -> None:
    now = NOW
    backups = AutomaticBackups(paths, SECOND, 1, lambda: now)
    assert backups.once()
    store.close()
    paths.database.write_bytes(b"no database" * 1000)
    now += SECOND
    assert not backups.once()
    assert left(paths.backups) == [f"auto-000001-{backup.stamp(NOW)}.sqlite"]


def test_the_thread_makes_one_when_it_is_due_and_ends(store: Store, paths: StatePaths) -> None:
    backups = AutomaticBackups(paths, SECOND // 100, 3, time.time_ns)
    backups.start()
    end = time.monotonic() + 20
    while not left(paths.backups):
        assert time.monotonic() < end
        time.sleep(0.01)
    backups.stop()
    assert not backups.is_alive()


# The store itself


def test_an_older_schema_is_backed_up_before_it_is_migrated(
    store: Store, paths: StatePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.close()
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("ALTER TABLE machine ADD COLUMN new TEXT",)))
    monkeypatch.setattr(schema, "VERSION", len(schema.MIGRATIONS))
    with closing(Store.open(paths, lambda: NOW)) as migrated:
        assert migrated.machine("m1") == full()
    (kept,) = paths.backups.iterdir()
    assert kept.name == f"schema-{schema.VERSION - 1}-{backup.stamp(NOW)}.sqlite"
    assert backup.inspect(kept).schema == schema.VERSION - 1


@pytest.mark.parametrize("lost", ["absent", "empty"])
def test_a_lost_database_is_not_begun_anew_over_machines(store: Store, paths: StatePaths, lost: str) -> None:
    (paths.machines / MACHINE).mkdir()
    store.close()
    paths.database.unlink()
    if lost == "empty":
        paths.database.touch()
    with pytest.raises(StoreError, match=r"is lost, though there are machines.*store restore FILE"):
        Store.open(paths, lambda: NOW)
    (paths.machines / MACHINE).rmdir()
    Store.open(paths, lambda: NOW).close()


def test_a_guest_that_crashes_for_ever_cannot_fill_the_store(store: Store, paths: StatePaths) -> None:
    crash = Event(kind="stopped", reason="crashed", message="x" * 100_000)

    def crashes(tx: Transaction) -> None:
        for _ in range(600):
            tx.add_event("m1", crash)

    for _ in range(3):
        store.write(crashes)
    sizes = []
    for _ in range(3):
        store.write(crashes)
        with closing(sqlite3.connect(paths.database)) as connection:
            sizes.append(connection.execute("SELECT * FROM pragma_page_count()").fetchone()[0])
    assert sizes[0] == sizes[-1]
    assert sizes[0] * 4096 < 4 << 20


def test_what_is_of_the_host_and_not_of_the_past_is_kept(store: Store, paths: StatePaths, tmp_path: Path) -> None:
    store.write(lambda tx: tx.set_meta("cordon", "of the past"))
    store.write(lambda tx: tx.set_meta("other", "of the past"))
    backup.backup(paths.database, tmp_path / "copy.sqlite", NOW)
    store.write(lambda tx: tx.set_meta("cordon", "of the present"))
    store.write(lambda tx: tx.set_meta("other", "of the present"))
    store.close()
    backup.restore(paths, tmp_path / "copy.sqlite", NOW, keep=("cordon", "absent"))
    with Store.open_read_only(paths) as reader:
        assert (reader.meta("cordon"), reader.meta("other")) == ("of the present", "of the past")
    paths.database.write_bytes(b"damaged")
    backup.restore(paths, tmp_path / "copy.sqlite", NOW + SECOND, keep=("cordon",))
    with Store.open_read_only(paths) as reader:
        assert reader.meta("cordon") == "of the past"
