"""What a device that leaves its machine gives back: all that it claimed, except for data that is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sri_libvirt import names
from sri_libvirt.capacity.budget import Hardware, Reserves, Resources, budget
from sri_libvirt.capacity.devices import DeviceClaims
from sri_libvirt.capacity.pool import Pool
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.images.registry import ImageAccess
from sri_libvirt.paths import StatePaths
from sri_libvirt.reconcile import actions as act
from sri_libvirt.reconcile.perform import Performer
from sri_libvirt.reconcile.plugins import PluginTables
from sri_libvirt.records import GIB, Attachment
from sri_libvirt.resources import DISK
from sri_libvirt.store import Reader, Store
from tests.unit.reconcile.parts import Clock, Compiler, Drivers, performer
from tests.unit.reconcile.world import ID, machine, volume_row

HOST = Hardware(Resources(cpus=8, memory_bytes=64 * GIB), disk_bytes=2 * GIB)
GONE = volume_row(wanted=False)


class Bench:
    """A host with room for two of these disks, on which one machine has some."""

    def __init__(self, store: Store, root: Path, clock: Clock) -> None:
        self._store = store
        self._paths = StatePaths(root)
        self._root = self._paths.machine(ID)
        plugins = PluginTables(ImageAccess())
        self._devices = DeviceClaims(Pool({}, budget(HOST, Reserves())), plugins.claims_of)
        plain = performer(store, root, clock, Drivers(), Compiler(store.instance))
        self._performer: Performer = replace(plain, plugins=plugins, give_back=self._devices.give_back)

    def put(self, *rows: Attachment) -> None:
        self._store.write(lambda tx: tx.insert(machine(*rows)))
        for row in rows:
            assert self.take(row) == ""

    def take(self, row: Attachment) -> str:
        return self._store.write(lambda tx: self._devices.take(tx, row))

    def make(self, row: Attachment) -> None:
        self._root.root.mkdir(parents=True)
        self._root.empty_disk(row.name, GIB).touch()

    def release(self, row: Attachment) -> None:
        seen = self._store.machine(ID)
        assert seen is not None
        self._performer.perform(act.ReleaseDevice(row.key, final=False), seen, FakeHypervisor().connect())

    @property
    def holders(self) -> list[str]:
        with Reader.open(self._paths) as reader:
            claims = reader.claims(ID)
        assert self._store.usage().of(DISK) == sum(claim.amount for claim in claims)
        return [claim.holder for claim in claims]


@pytest.fixture
def bench(store: Store, root: Path, clock: Clock) -> Bench:
    return Bench(store, root, clock)


def test_an_empty_disk_that_was_never_made_leaves_no_claim(bench: Bench) -> None:
    bench.put(GONE)
    bench.release(GONE)
    assert bench.holders == []


def test_an_empty_disk_that_was_made_keeps_its_claim_with_its_data(bench: Bench) -> None:
    bench.put(GONE)
    bench.make(GONE)
    bench.release(GONE)
    assert bench.holders == [names.empty_disk_file("data", GIB)]


def test_a_claim_that_the_next_device_of_that_name_shares_goes_on(bench: Bench) -> None:
    again = volume_row(incarnation=2, target="vdb", serial="oda-1")
    other = volume_row("other", incarnation=1, target="vdc", serial="oda-2")
    bench.put(GONE, again, other)
    bench.release(GONE)
    assert bench.holders == sorted(names.empty_disk_file(name, GIB) for name in ("data", "other"))
