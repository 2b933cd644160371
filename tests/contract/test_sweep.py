"""What sweep finds and what it never touches, on the fake hypervisor with real directories."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sri_libvirt import names
from sri_libvirt.errors import HypervisorError, NotFound, Unreachable
from sri_libvirt.hypervisor.base import Secret, SecretUsage
from sri_libvirt.hypervisor.fake import FakeConnection, FakeHypervisor
from sri_libvirt.paths import StatePaths
from sri_libvirt.reconcile.orphans import Census, Orphan, Orphans, sweep
from sri_libvirt.reconcile.secrets import Loans
from sri_libvirt.store import Store, backup
from tests.unit.store.records import machine


@dataclass
class World:
    """A store and a libvirt, and what somebody may have left in them."""

    store: Store
    paths: StatePaths
    hypervisor: FakeHypervisor
    loans: Loans = field(default_factory=Loans)

    @property
    def orphans(self) -> Orphans:
        return Orphans(self.store, self.paths, self.hypervisor.connect, self.loans)

    def domain(self, *, instance: str = "", of: str = "", uses: str = "", running: bool = False, name: str = "") -> str:
        """A domain with marks: of this store and of its own UUID unless told otherwise; "none" for no marks."""
        made = name or str(uuid.uuid4())
        whose = instance or self.store.instance
        mark = f'<m:machine xmlns:m="{names.METADATA_NAMESPACE}" instance="{whose}" id="{of or made}" run="r"/>'
        metadata = "" if instance == "none" else f"<metadata>{mark}</metadata>"
        connection = self.hypervisor.connect()
        connection.define(
            f"<domain type='qemu'><name>{made}</name><uuid>{made}</uuid>{metadata}"
            f"<devices><disk><source file='{uses}'/></disk></devices></domain>"
        )
        if running:
            connection.start(made)
        return made

    def directory(self, machine_id: str = "", *, instance: str = "") -> str:
        """A machine's directory with a disk in it; "none" for no mark."""
        made = machine_id or str(uuid.uuid4())
        paths = self.paths.machine(made)
        paths.root.mkdir()
        (paths.root / "disk.qcow2").write_text("data")
        if instance != "none":
            paths.mark.symlink_to(instance or self.store.instance)
        return made

    def known(self) -> str:
        """A machine of the store, with all that it has."""
        made = self.directory(self.domain(running=True))
        self.store.write(lambda tx: tx.insert(machine(made)))
        return made

    def there(self) -> tuple[set[str], set[str]]:
        return set(self.hypervisor.connect().domain_ids()), {path.name for path in self.paths.machines.iterdir()}

    def secret(self, *, instance: str = "") -> str:
        """A secret of a disk, as a crash leaves it."""
        made = Secret(str(uuid.uuid4()), SecretUsage.VOLUME, instance or self.store.instance)
        self.hypervisor.connect().set_secret(made, b"planted")
        return made.uuid

    def deleted(self) -> str:
        """The id of a machine that this store remembers to have deleted."""
        made = str(uuid.uuid4())
        self.store.write(lambda tx: tx.insert(machine(made)))
        self.store.write(lambda tx: tx.forget(made))
        return made


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    paths = StatePaths(tmp_path / "state")
    store = Store.open(paths, time.time_ns)
    yield World(store, paths, FakeHypervisor())
    store.close()


def test_what_is_ours_and_nobodys_is_found(world: World) -> None:
    world.known()
    running, off, files = world.directory(world.domain(running=True)), world.domain(), world.directory()
    assert world.orphans.find() == sorted(
        [
            Orphan(running, "running", directory=True, by_name=False),
            Orphan(off, "off", directory=False, by_name=False),
            Orphan(files, "none", directory=True, by_name=False),
        ],
        key=lambda orphan: orphan.id,
    )


def test_everything_goes_but_guests_that_run(world: World) -> None:
    known = world.known()
    running, off, files = world.directory(world.domain(running=True)), world.domain(), world.directory()
    swept = {each.orphan.id: each.problem for each in world.orphans.remove((), running=False)}
    assert swept == {running: "its guest runs: --running ends it", off: "", files: ""}
    assert world.there() == ({known, running}, {known, running})
    assert all(not each.problem for each in world.orphans.remove((), running=True))
    assert world.there() == ({known}, {known})
    assert world.hypervisor.connect().snapshot(known).active  # type: ignore[union-attr]


def test_other_marks_or_none_are_never_touched(world: World) -> None:
    mine = str(uuid.uuid4())
    world.domain(instance=str(uuid.uuid4()))
    world.domain(instance="none")
    world.domain(of=world.known())  # a clone of one of our guests
    world.domain(of=mine)  # … and of one that is no more
    world.directory(instance=str(uuid.uuid4()))
    world.directory(instance="none")
    (world.paths.machines / "lost+found").mkdir()
    (world.paths.machines / "a file").touch()
    before = world.there()
    assert world.orphans.find() == []
    assert world.orphans.remove((), running=True) == []
    assert world.there() == before


def test_secrets_that_were_left_go_and_those_of_others_or_in_use_stay(world: World) -> None:
    left, lent, theirs = world.secret(), world.secret(), world.secret(instance=str(uuid.uuid4()))
    with world.loans.lent(lent):
        assert world.orphans.find() == [Orphan(left, "none", directory=False, by_name=False, secret=True)]
        with pytest.raises(NotFound, match="nothing was removed"):
            world.orphans.remove((lent,), running=True)
        assert [each.problem for each in world.orphans.remove((), running=False)] == [""]
        assert set(world.hypervisor.connect().secret_ids()) == {lent, theirs}
    assert [each.orphan.id for each in world.orphans.remove((lent,), running=False)] == [lent]
    assert set(world.hypervisor.connect().secret_ids()) == {theirs}


class LentMeanwhile(Loans):
    """A machine begins to open its disk after the look."""

    @contextmanager
    def dropping(self, uuid: str) -> Iterator[bool]:
        with self.lent(uuid), super().dropping(uuid) as free:
            yield free


def test_a_secret_that_is_lent_while_it_is_swept_stays(world: World) -> None:
    left, world.loans = world.secret(), LentMeanwhile()
    (swept,) = world.orphans.remove((left,), running=False)
    assert "being opened" in swept.problem
    assert left in world.hypervisor.connect().secret_ids()


def test_rules_of_filters_that_a_crash_left_go_and_those_of_guests_stay(world: World) -> None:
    runs, off = world.known(), world.domain(instance="none")
    world.hypervisor.bindings = {"vnet1": runs, "vnet2": off, "vnet3": str(uuid.uuid4())}
    found = [Orphan(each, "none", directory=False, by_name=False, filter=True) for each in ("vnet2", "vnet3")]
    assert world.orphans.find() == found
    assert [each.problem for each in world.orphans.remove(("vnet3",), running=False)] == [""]
    assert world.hypervisor.bindings.keys() == {"vnet1", "vnet2"}
    assert [each.problem for each in world.orphans.remove((), running=True)] == [""]
    assert world.hypervisor.bindings.keys() == {"vnet1"}


def test_a_device_that_a_guest_has_by_now_keeps_its_rules(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.hypervisor.bindings = {"vnet1": str(uuid.uuid4())}
    looks = iter([{"vnet1": str(uuid.uuid4())}, {}])
    monkeypatch.setattr(FakeConnection, "filter_bindings", lambda _: next(looks))
    (swept,) = world.orphans.remove(("vnet1",), running=False)
    assert "a guest has the device by now" in swept.problem
    assert "vnet1" in world.hypervisor.bindings


def test_after_a_restore_secrets_need_no_name(world: World) -> None:
    """They are of use to nobody, whatever machines there were."""
    world.store.write(lambda tx: tx.set_meta(backup.COPIED, "1"))
    left = world.secret()
    assert [(each.orphan.id, each.problem) for each in world.orphans.remove((), running=False)] == [(left, "")]


def test_files_that_others_use_stay(world: World) -> None:
    used, taken = world.directory(), world.directory()
    user = world.domain(instance="none", uses=str(world.paths.machine(used).root / "disk.qcow2"))
    world.domain(instance="none", name=taken)
    swept = {each.orphan.id: each.problem for each in world.orphans.remove((used, taken), running=True)}
    assert swept[used] == f"the domain {user}, which is not ours, names it"
    assert swept[taken] == "a domain of this id carries other marks or none"
    assert {used, taken} <= world.there()[1]


def test_only_what_is_named_goes(world: World) -> None:
    one, two = world.domain(), world.domain()
    assert [each.orphan.id for each in world.orphans.remove((one,), running=False)] == [one]
    assert world.there()[0] == {two}
    with pytest.raises(NotFound, match="nothing was removed"):
        world.orphans.remove((two, world.known()), running=True)
    assert two in world.there()[0]


def test_a_name_of_nothing_is_told_when_orphans_are_listed(world: World) -> None:
    one, two = world.domain(), world.domain()

    def listed(*ids: str) -> list[str]:
        return [each["id"] for each in sweep(world.orphans, {"ids": ids, "remove": False, "running": False})]

    assert set(listed()) == {one, two}
    assert listed(two) == [two]
    with pytest.raises(NotFound, match="not an orphan of this store: nope"):
        listed(one, "nope")


def test_after_a_restore_only_by_name(world: World, tmp_path: Path) -> None:
    """Also of a backup that somebody put back with cp: the file itself knows that it is one."""
    copy = tmp_path / "copy.sqlite"
    deleted = world.deleted()
    backup.backup(world.paths.database, copy, time.time_ns())
    since = world.known()
    world.store.close()
    for path in world.paths.store.glob("state.sqlite*"):
        path.unlink()
    copy.rename(world.paths.database)
    world.store = Store.open(world.paths, time.time_ns)
    world.directory(deleted)
    assert {(each.id, each.by_name) for each in world.orphans.find()} == {(since, True), (deleted, False)}
    swept = {each.orphan.id: each.problem for each in world.orphans.remove((), running=True)}
    assert swept[deleted] == ""
    assert "name it to remove it" in swept[since]
    assert world.there() == ({since}, {since})
    assert [each.problem for each in world.orphans.remove((since,), running=True)] == [""]
    assert world.there() == (set(), set())
    later = world.domain()
    world.store.write(lambda tx: tx.insert(machine(later)))
    world.store.write(lambda tx: tx.forget(later))
    assert [each.by_name for each in world.orphans.find()] == [False]


def test_a_machine_made_or_deleted_between_the_looks_is_no_orphan(world: World) -> None:
    made, going = world.domain(), world.known()
    machine_ids = world.store.machine_ids

    def meanwhile() -> list[str]:
        world.store.write(lambda tx: tx.insert(machine(made)))
        world.hypervisor.connect().destroy(going)
        world.hypervisor.connect().undefine(going)
        (world.paths.machine(going).root / "disk.qcow2").unlink()
        world.paths.machine(going).mark.unlink()
        world.paths.machine(going).root.rmdir()
        world.store.write(lambda tx: tx.forget(going))
        return machine_ids()

    world.store.machine_ids = meanwhile  # type: ignore[method-assign]
    assert world.orphans.find() == []


def test_one_that_fails_holds_up_no_other(world: World) -> None:
    one, two = sorted((world.domain(), world.domain()))
    world.hypervisor.fail_next("undefine", HypervisorError("it is busy"))
    assert [each.problem for each in world.orphans.remove((), running=False)] == ["it is busy", ""]
    assert world.there()[0] == {one}
    assert two not in world.there()[0]


def test_a_domain_that_cannot_be_read_hides_no_orphan_and_lets_none_go(world: World) -> None:
    """It may be anybody's, and use any file."""
    files = world.directory()
    hung = world.domain(name="00000000-0000-4000-8000-000000000001")
    world.hypervisor.fail_next("snapshot", HypervisorError("cannot acquire state change lock", 68))
    (found,) = world.orphans.find()
    assert (found.id, hung in found.held) == (files, True)
    world.hypervisor.fail_next("snapshot", HypervisorError("cannot acquire state change lock", 68))
    assert ["cannot be read" in each.problem for each in world.orphans.remove((), running=True)] == [True]
    assert files in world.there()[1]


def test_unreachable_is_not_nothing(world: World) -> None:
    files = world.directory()
    world.hypervisor.set_reachable(False)
    with pytest.raises(Unreachable):
        world.orphans.find()
    with pytest.raises(Unreachable):
        world.orphans.remove((files,), running=True)
    assert world.paths.machine(files).mark.is_symlink()


def test_half_a_removal_is_still_ours(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    files = world.directory()
    monkeypatch.setattr(Path, "unlink", _refused)
    (swept,) = world.orphans.remove((), running=False)
    assert "refused" in swept.problem
    monkeypatch.undo()
    assert [each.problem for each in world.orphans.remove((), running=False)] == [""]
    assert not world.paths.machine(files).root.exists()


def _refused(*_: object, **__: object) -> None:
    raise OSError("refused")


def test_the_census_counts_and_goes_on_after_a_failure(world: World) -> None:
    world.domain()
    counted: list[int] = []
    told = threading.Event()
    world.hypervisor.fail_next("domain_ids", Unreachable("away"))

    def count(orphans: int) -> None:
        counted.append(orphans)
        told.set()

    census = Census(world.orphans, count, 0.01)
    census.start()
    assert told.wait(20)
    census.stop()
    census.join(20)
    assert set(counted) == {1}
