"""Who else uses the host: what is read of a domain that is not ours, what is remembered, and when it is looked at."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from sri_libvirt.capacity import claims
from sri_libvirt.errors import HypervisorError, Unreachable
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.reconcile.survey import Neighbours, Survey, size
from sri_libvirt.records import GIB
from sri_libvirt.resources import Claim
from sri_libvirt.store import Store
from tests.unit.reconcile.world import ID, machine

STRANGER = "0a0a0a0a-0000-4000-8000-000000000001"
OFF = "0a0a0a0a-0000-4000-8000-000000000002"
PATIENCE = 60.0
CHARGED = [replace(claim, holder=STRANGER) for claim in claims.of_neighbour(2, GIB)]


def domain(machine_id: str, inner: str = "<memory unit='KiB'>1048576</memory><vcpu>2</vcpu>") -> str:
    return f"<domain type='qemu'><uuid>{machine_id}</uuid>{inner}</domain>"


@pytest.mark.parametrize(
    ("inner", "found"),
    [
        ("<memory unit='KiB'>1048576</memory><vcpu placement='static'>2</vcpu>", (2, GIB)),
        ("<memory>1048576</memory>", (1, GIB)),
        ("<memory unit='GiB'>1</memory><vcpu current='3'>8</vcpu>", (3, GIB)),
        ("<memory unit='b'>7</memory><vcpu> 1 </vcpu>", (1, 7)),
    ],
)
def test_the_size_of_a_domain(inner: str, found: tuple[int, int]) -> None:
    assert size(domain(STRANGER, inner)) == found


@pytest.mark.parametrize(
    "inner", ["", "<memory unit='stone'>1</memory>", "<memory>much</memory>", "<memory>1</memory><vcpu>all</vcpu>"]
)
def test_a_domain_that_does_not_tell_its_size(inner: str) -> None:
    with pytest.raises(HypervisorError, match="does not tell its size"):
        size(domain(STRANGER, inner))


class Bench:
    def __init__(self, store: Store) -> None:
        self.hypervisor = FakeHypervisor()
        self.found: list[list[Claim]] = []
        self.neighbours = Neighbours(store, self.hypervisor.connect, lambda claims: self.found.append(list(claims)))

    def start(self, machine_id: str, xml: str = "") -> None:
        connection = self.hypervisor.connect()
        connection.define(xml or domain(machine_id))
        connection.start(machine_id)


@pytest.fixture
def bench(store: Store) -> Bench:
    return Bench(store)


def test_what_runs_and_is_not_ours_is_charged_and_remembered(bench: Bench, store: Store) -> None:
    store.write(lambda tx: tx.insert(machine()))
    bench.start(ID)
    bench.start(STRANGER)
    bench.hypervisor.connect().define(domain(OFF))
    bench.neighbours.look()
    charged = CHARGED
    assert bench.found == [charged]
    assert bench.neighbours.remembered() == charged
    bench.hypervisor.connect().destroy(STRANGER)
    bench.neighbours.look()
    assert bench.found[1:] == [[]]
    assert bench.neighbours.remembered() == []


def test_one_that_cannot_be_read_hides_no_other(bench: Bench) -> None:
    bench.start(OFF, domain(OFF, "<vcpu>1</vcpu>"))
    bench.start(STRANGER)
    bench.neighbours.look()
    assert bench.found == [CHARGED]


def test_one_that_cannot_be_read_any_more_is_charged_as_it_was_seen(bench: Bench) -> None:
    bench.start(STRANGER)
    bench.neighbours.look()
    connection = bench.hypervisor.connect()
    connection.destroy(STRANGER)
    bench.start(STRANGER, domain(STRANGER, "<vcpu>1</vcpu>"))
    bench.neighbours.look()
    assert bench.found == [CHARGED] * 2


def test_while_libvirt_is_away_what_was_found_stays(bench: Bench) -> None:
    bench.start(STRANGER)
    bench.neighbours.look()
    bench.hypervisor.set_reachable(False)
    with pytest.raises(Unreachable):
        bench.neighbours.look()
    assert len(bench.found) == 1
    assert bench.neighbours.remembered()


def test_a_poke_is_a_look_soon_and_what_fails_is_tried_again() -> None:
    looked = threading.Semaphore(0)
    fails = [True]

    def first() -> None:
        if fails.pop() if fails else False:
            raise Unreachable("away")

    survey = Survey([first, lambda: looked.release()], period=3600)
    survey.start()
    for _ in range(2):
        survey.poke()
        assert looked.acquire(timeout=PATIENCE)
    survey.stop()
    survey.join(PATIENCE)
    assert not survey.is_alive()
