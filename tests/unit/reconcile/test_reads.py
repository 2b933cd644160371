"""What a pass costs the store: it reads its machine a few times, and each device once, however many there are."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sri_libvirt.errors import NotReady
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.metrics import Metrics
from sri_libvirt.reconcile.lane import Lane, Loop
from sri_libvirt.reconcile.observe import Observer
from sri_libvirt.reconcile.perform import Performer
from sri_libvirt.reconcile.queue import WakeQueue
from sri_libvirt.records import MOST_DEVICES, Attachment
from sri_libvirt.store import Store, codec, queries
from tests.unit.reconcile.parts import Clock, Compiler, Drivers, HostStub, performer
from tests.unit.reconcile.world import ID, POLICY, PROFILE, machine, nic_row

PORTS = replace(PROFILE, ports=MOST_DEVICES)


class Reads:
    """A lane over one machine, and what it asks of the store."""

    def __init__(self, store: Store, root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store, self.clock = store, clock
        self.asked: Counter[str] = Counter()
        self.drivers = Drivers()
        working: Performer = replace(
            performer(store, root, clock, self.drivers, Compiler(store.instance)),
            choose_profile=lambda _connection, _class, _boot: PORTS,
        )
        observer = Observer(store.instance, HostStub(), lambda connection: None)
        queue, policy = WakeQueue(clock), replace(POLICY, ports=MOST_DEVICES)
        self.lane = Lane(Loop(store, queue, FakeHypervisor(), working, observer, policy, Metrics(), clock), 1)
        for module, name in ((queries, "machine"), (queries, "attachment"), (codec, "attachment"), (Store, "submit")):
            self.count(monkeypatch, module, name)

    def count(self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
        real, word = getattr(module, name), f"{module.__name__.rpartition('.')[2]}.{name}"

        def counted(*arguments: Any, **options: Any) -> Any:
            self.asked[word] += options.get("devices", True)
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, counted)

    def put(self, *rows: Attachment) -> None:
        self.store.write(lambda tx: tx.insert(machine(*rows, profile=PORTS)))
        self.asked.clear()

    def look(self) -> Counter[str]:
        self.asked.clear()
        self.lane.reconcile(ID)
        return self.asked


@pytest.fixture
def reads(store: Store, root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(store, root, clock, monkeypatch)


def nics(count: int) -> list[Attachment]:
    return [nic_row(f"n{index}", mac=f"02:00:00:00:01:{index:02x}") for index in range(count)]


@pytest.mark.parametrize("count", [1, 24, MOST_DEVICES])
def test_a_cold_start_reads_the_machine_as_often_whatever_it_has(reads: Reads, count: int) -> None:
    reads.put(*nics(count))
    asked = reads.look()
    assert asked["queries.machine"] == 6, "two passes, and the four actions on the machine as a whole"
    assert asked["queries.attachment"] == count
    assert asked["codec.attachment"] == 7 * count


@pytest.mark.parametrize("count", [1, MOST_DEVICES])
def test_devices_that_fail_are_each_read_twice(reads: Reads, count: int) -> None:
    reads.drivers.broken = {f"n{index}": NotReady("away") for index in range(count)}
    reads.put(*nics(count))
    asked = reads.look()
    assert asked["queries.machine"] == 4
    assert asked["queries.attachment"] == 2 * count
    asked = reads.look()
    assert (asked["queries.machine"], asked["queries.attachment"]) == (1, 0), "it waits"


@pytest.mark.parametrize("count", [1, MOST_DEVICES])
def test_an_end_reads_each_device_twice(reads: Reads, count: int) -> None:
    reads.put(*nics(count))
    reads.look()
    reads.store.write(lambda tx: tx.set_deleted(ID, reads.clock()))
    asked = Counter(reads.look())
    while reads.store.machine(ID) is not None:
        reads.clock.now += POLICY.shutdown_grace
        asked += reads.look()
    assert asked["queries.attachment"] == 2 * count, "once by the lane, once in the work that drops it"
    assert asked["queries.machine"] <= 12
