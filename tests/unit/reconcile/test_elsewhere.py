"""A volume that a guest has open which a restored store does not know is prepared for nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from sri_libvirt import names
from sri_libvirt.devices import DiskHost, DiskSource, Protocol
from sri_libvirt.errors import NotReady
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.paths import StatePaths
from sri_libvirt.reconcile.elsewhere import Elsewhere
from sri_libvirt.records import Run, Stranger
from sri_libvirt.store import Store
from sri_libvirt.store.backup import COPIED
from tests.unit.reconcile.world import ID, T0, World, codes, machine, volume_row

OTHER = "99999999-0000-4000-8000-000000000009"
SOURCE = "/backend/shared.qcow2"


class Bench:
    def __init__(self, root: Path) -> None:
        self.paths = StatePaths(root / "state")
        self.store = Store.open(self.paths, lambda: T0)
        self.hypervisor = FakeHypervisor()
        self.elsewhere = Elsewhere(self.store, self.paths.machines)

    def restored(self) -> None:
        self.store.write(lambda tx: tx.set_meta(COPIED, "1"))

    def guest(self, machine_id: str = OTHER, source: str = f"<source file='{SOURCE}'/>", instance: str = "") -> None:
        marks = f"<sri:machine xmlns:sri='{names.METADATA_NAMESPACE}' instance='{instance or self.store.instance}'/>"
        self.hypervisor.connect().define(
            f"<domain><uuid>{machine_id}</uuid><metadata>{marks}</metadata><devices><disk>"
            f"{source}<alias name='ua-vol-0123456789abcdef-1'/></disk></devices></domain>"
        )
        self.hypervisor.connect().start(machine_id)

    def check(self, disk: DiskSource | str = SOURCE) -> None:
        disk = DiskSource("h", disk, "raw", 512) if isinstance(disk, str) else disk
        self.elsewhere.check(self.hypervisor.connect(), ID, disk)


def network(protocol: Protocol, name: str, *hosts: str) -> DiskSource:
    return DiskSource(
        "h", "", "raw", 512, kind="network", protocol=protocol, name=name, hosts=tuple(DiskHost(each) for each in hosts)
    )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.store.close()


def test_a_guest_that_was_made_since_the_backup_keeps_its_volume(bench: Bench) -> None:
    bench.guest()
    bench.check()  # in a store that never was a copy nobody is asked
    bench.restored()
    with pytest.raises(NotReady, match=f"the guest {OTHER} has it open") as waits:
        bench.check()
    assert (waits.value.code, OTHER in waits.value.advice) == ("open-elsewhere", True)
    bench.check("/backend/another.qcow2")
    bench.check(str(bench.paths.machine(ID).root / "empty.qcow2"))
    bench.hypervisor.connect().destroy(OTHER)
    bench.check()


def test_an_image_of_a_cluster_is_the_same_by_whichever_monitors(bench: Bench) -> None:
    hosts = "<host name='mon1' port='6789'/><host name='mon2' port='6789'/>"
    bench.guest(source=f"<source protocol='rbd' name='pool/image'>{hosts}</source>")
    bench.restored()
    with pytest.raises(NotReady, match=f"the guest {OTHER} has it open"):
        bench.check(network("rbd", "pool/image", "mon2", "mon3"))
    bench.check(network("rbd", "pool/other", "mon1", "mon2"))


@pytest.mark.parametrize(("path", "same"), [("/dev/./null", True), ("/dev/zero", False), ("/dev/absent", True)])
def test_a_device_is_the_same_by_all_its_names_and_may_be_by_one_that_is_gone(
    bench: Bench, path: str, *, same: bool
) -> None:
    bench.guest(source=f"<source dev='{path}'/>")
    bench.restored()
    with pytest.raises(NotReady, match=f"the guest {OTHER} has it open") if same else nullcontext():
        bench.check(DiskSource("h", "/dev/null", "raw", 512, kind="block"))
    bench.check(DiskSource("h", "/dev/null", "raw", 512))


def test_guests_that_are_known_or_not_ours_are_none_of_these(bench: Bench) -> None:
    bench.restored()
    bench.guest(instance="another")
    bench.check()
    bench.guest(machine_id=ID)
    bench.store.write(lambda tx: tx.insert(machine()))
    bench.check()


def test_a_device_without_a_row_holds_its_volume_until_it_is_unplugged(bench: Bench) -> None:
    bench.restored()
    run = Run(strangers=(Stranger("ua-vol-0123456789abcdef-1", source=SOURCE),))
    bench.store.write(lambda tx: tx.insert(replace(machine(), id=OTHER, run=run)))
    bench.store.write(lambda tx: tx.insert(replace(machine(), id=ID, run=Run(strangers=None))))
    with pytest.raises(NotReady, match=f"machine {OTHER} has it open"):
        bench.check()
    run = Run(strangers=(Stranger("ua-vol-0123456789abcdef-1", source="iscsi:iqn.x:t/1@a:3260"),))
    bench.store.write(lambda tx: tx.set_run(OTHER, run))
    bench.check()
    with pytest.raises(NotReady, match=f"machine {OTHER} has it open"):
        bench.check(network("iscsi", "iqn.x:t/1", "b"))
    bench.store.write(lambda tx: tx.set_run(OTHER, Run()))
    bench.check(network("iscsi", "iqn.x:t/1", "b"))


def test_reason_open_elsewhere_holds_up_the_start() -> None:
    problem = "the guest x has it open"
    row = volume_row(problem=problem, problem_at=T0, problem_code="open-elsewhere", port=1)
    world = World(machine(row))
    world.look()
    assert (codes(world), world.done) == (["open-elsewhere"], [])
