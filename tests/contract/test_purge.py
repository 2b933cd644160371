"""What a purge takes with it and what it never touches, on the fake hypervisor with real directories."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from sri_libvirt.devices import NicBackend
from sri_libvirt.errors import FailedPrecondition, HypervisorError, Unreachable
from sri_libvirt.hypervisor.fake_networks import FakeNetwork
from sri_libvirt.paths import StatePaths
from sri_libvirt.reconcile.purge import Purge, refuse_without_store
from tests.contract.test_sweep import World, world
from tests.unit.reconcile.world import nic_row
from tests.unit.store.records import machine

__all__ = ["world"]  # a fixture


def purge(world: World) -> Purge:
    return Purge(world.store, world.paths, world.hypervisor.connect)


def entry(name: str, domain: str, **what: bool) -> dict[str, object]:
    return {"id": name, "domain": domain, "directory": False, "secret": False, "outcome": "", **what}


def removed(world: World) -> dict[str, str]:
    """What became of each."""
    done = purge(world).remove(lambda gone: world.store.write(lambda tx: tx.forget(gone)))
    return {each["id"]: each["outcome"] for each in done}


def test_all_of_this_store_goes_and_nothing_of_others(world: World) -> None:
    known, orphan, unmade = world.known(), world.directory(world.domain(running=True)), str(uuid.uuid4())
    world.store.write(lambda tx: tx.insert(machine(unmade)))
    foreign = [world.domain(instance="none", running=True), world.domain(instance=str(uuid.uuid4()), running=True)]
    left, theirs = world.secret(), world.secret(instance=str(uuid.uuid4()))
    assert purge(world).find() == [
        entry(left, "none", secret=True),
        *(entry(each, "running", directory=True) for each in sorted([known, orphan])),
        entry(unmade, "none"),
    ]
    assert world.there()[0] >= {known, orphan}
    assert removed(world) == dict.fromkeys([left, known, orphan, unmade], "removed")
    assert world.there() == (set(foreign), set())
    assert list(world.hypervisor.connect().secret_ids()) == [theirs]
    assert left not in world.store.gone()
    assert world.store.machine_ids() == []
    assert purge(world).find() == []


def test_a_restored_backup_is_no_reason_to_stay(world: World) -> None:
    world.store.write(lambda tx: tx.set_meta("copied_at", "1"))
    orphan = world.directory(world.domain(running=True))
    assert removed(world) == {orphan: "removed"}


def test_unreachable_is_not_gone(world: World) -> None:
    known = world.known()
    world.hypervisor.set_reachable(False)
    for attempt in (purge(world).find, lambda: removed(world)):
        with pytest.raises(Unreachable):
            attempt()
    world.hypervisor.set_reachable(True)
    assert world.there() == ({known}, {known})
    assert world.store.machine_ids() == [known]


def of_another_store(world: World) -> str:
    """A domain whose name and UUID are those of a machine's directory."""
    return world.directory(world.domain(instance=str(uuid.uuid4()), running=True))


def of_nobody(world: World) -> str:
    return world.directory(instance="none")


def a_user_of_its_images(world: World) -> str:
    return world.domain(instance="none", uses=str(world.paths.images / "base.qcow2"), running=True)


def a_user_through_a_link(world: World) -> str:
    link = world.paths.root.with_name("link")
    link.symlink_to(world.paths.root)
    world.paths = type(world.paths)(link)
    return world.domain(instance="none", uses=str(link.resolve() / "images/base.qcow2"))


@pytest.mark.parametrize("stranger", [of_another_store, of_nobody, a_user_of_its_images, a_user_through_a_link])
def test_where_something_is_not_ours_nothing_goes(world: World, stranger: object) -> None:
    known = world.known()
    assert callable(stranger)
    name = stranger(world)
    before = world.there()
    for attempt in (purge(world).find, lambda: removed(world)):
        with pytest.raises(FailedPrecondition, match=f"nothing was removed: .*{name}"):
            attempt()
    assert world.there() == before
    assert world.store.machine_ids() == [known]


def addressed(world: World) -> str:
    """A machine for whose NICs, one of which is leaving, the network `lan` keeps addresses."""
    made = world.directory(world.domain(running=True))
    first = NicBackend("h", "network", "lan", address="10.0.0.7", address6="2001:db8::7", duid="00:04:01")
    second = replace(first, address="10.0.0.8", address6="", duid="")
    rows = (
        nic_row("a", machine=made, mac="02:00:00:00:00:01", backing=first),
        nic_row("b", machine=made, mac="02:00:00:00:00:02", backing=second, wanted=False),
    )
    world.store.write(lambda tx: tx.insert(replace(machine(made), attachments=rows)))
    network = world.hypervisor.networks.setdefault("lan", FakeNetwork(reserved=[["02:00:00:00:00:99", "10.0.0.9"]]))
    for client, address in (("02:00:00:00:00:01", "10.0.0.7"), ("00:04:01", "2001:db8::7")):
        network.reserve(client, address)
    network.reserve("02:00:00:00:00:02", "10.0.0.8")
    return made


def test_no_network_keeps_an_address_for_a_machine_that_is_gone(world: World) -> None:
    made = addressed(world)
    assert removed(world) == {made: "removed"}
    assert world.hypervisor.networks["lan"].reserved == [["02:00:00:00:00:99", "10.0.0.9"]]


def test_an_address_that_stays_reserved_is_told_of_and_keeps_nothing_else(world: World) -> None:
    made = addressed(world)
    world.hypervisor.fail_next("unreserve", HypervisorError("the network is busy"))
    words = "2001:db8::7 stays reserved for 00:04:01 (virsh net-edit lan takes it away): the network is busy"
    assert removed(world) == {made: f"removed; {words}"}
    assert [each for _, each in world.hypervisor.networks["lan"].reserved] == ["10.0.0.9", "2001:db8::7"]
    assert world.store.machine_ids() == []


def not_mounted(world: World) -> StatePaths:
    """The state directory, whose file system is gone from under its guests."""
    moved = world.paths.root.rename(world.paths.root.with_name("elsewhere"))
    world.paths.root.mkdir()
    assert moved.is_dir()
    return world.paths


def test_an_empty_directory_is_refused_while_a_guest_has_its_disks_there(world: World) -> None:
    disk = world.paths.machines / "m" / "image.qcow2"
    guest = world.domain(uses=str(disk), running=True)
    paths = not_mounted(world)
    with pytest.raises(FailedPrecondition, match=rf"have files there \({guest}\): .* not mounted"):
        refuse_without_store(paths, world.hypervisor.connect)
    world.hypervisor.set_reachable(False)
    with pytest.raises(Unreachable):
        refuse_without_store(paths, world.hypervisor.connect)
    world.hypervisor.set_reachable(True)
    world.hypervisor.connect().destroy(guest)
    world.hypervisor.connect().undefine(guest)
    world.domain(uses="/srv/another.qcow2", running=True)
    refuse_without_store(paths, world.hypervisor.connect)


def test_directories_without_a_database_are_refused(world: World) -> None:
    world.directory()
    world.paths.database.unlink()
    with pytest.raises(FailedPrecondition, match="no state database"):
        refuse_without_store(world.paths, world.hypervisor.connect)


def test_what_stays_is_not_forgotten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = sorted([world.known(), world.known()])
    connect = world.hypervisor.connect

    def stubborn() -> object:
        connection = connect()
        destroy = connection.destroy

        def refuse(domain_id: str) -> None:
            if domain_id == first:
                raise HypervisorError("its QEMU does not end")
            destroy(domain_id)

        monkeypatch.setattr(connection, "destroy", refuse)
        return connection

    monkeypatch.setattr(world.hypervisor, "connect", stubborn)
    assert removed(world) == {first: "stays: its QEMU does not end", second: "removed"}
    assert world.store.machine_ids() == [first]
