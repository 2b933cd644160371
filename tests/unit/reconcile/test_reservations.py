"""Addresses that a network has lost by somebody else's doing: seen, told of, and prepared again by their lanes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import pytest

from sri_libvirt.devices import NicBackend
from sri_libvirt.errors import HypervisorError, Unreachable
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.hypervisor.fake_networks import FakeNetwork
from sri_libvirt.reconcile.reservations import Reservations
from sri_libvirt.store.store import Store
from tests.unit.reconcile.world import ID, machine, nic_row

MAC = "02:00:00:00:00:01"
MADE = NicBackend("h", "network", network="lan", address="10.0.0.7", driver="network")


@dataclass
class Told:
    lost: list[set[str]] = field(default_factory=list)
    woken: list[str] = field(default_factory=list)

    def tell(self, macs: Collection[str]) -> None:
        self.lost.append(set(macs))


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def there() -> FakeHypervisor:
    found = FakeHypervisor()
    found.networks["lan"] = FakeNetwork()
    return found


@pytest.fixture
def look(store: Store, there: FakeHypervisor, told: Told) -> Reservations:
    return Reservations(store, there.connect, told.tell, told.woken.append)


def put(store: Store, backing: NicBackend | None, *, wanted: bool = True) -> None:
    row = nic_row("eth", mac=MAC, wanted=wanted)
    store.write(lambda tx: tx.insert(machine(row)))
    if backing is not None:
        store.write(lambda tx: tx.set_backing(ID, row.key, backing))


@pytest.mark.parametrize(
    ("reserved", "lost"),
    [
        ([[MAC, "10.0.0.7"]], False),
        ([], True),
        ([[MAC, "10.0.0.8"]], True),
        ([["02:00:00:00:00:02", "10.0.0.7"]], True),
    ],
)
def test_what_is_not_reserved_any_more_is_prepared_again(
    store: Store, there: FakeHypervisor, look: Reservations, told: Told, reserved: list[list[str]], lost: bool
) -> None:
    put(store, MADE)
    there.networks["lan"].reserved = reserved
    look.look()
    assert (told.lost, told.woken) == (([{MAC}], [ID]) if lost else ([set()], []))


@pytest.mark.parametrize(
    ("backing", "wanted"),
    [(None, True), (replace(MADE, address=""), True), (MADE, False)],
)
def test_who_has_none_or_is_leaving_asks_nobody(
    store: Store, there: FakeHypervisor, look: Reservations, told: Told, backing: NicBackend | None, wanted: bool
) -> None:
    put(store, backing, wanted=wanted)
    there.fail_next("network", AssertionError("nobody is asked"))  # type: ignore[arg-type]
    look.look()
    assert (told.lost, told.woken) == ([set()], [])


@pytest.mark.parametrize("network", [None, FakeNetwork(active=False)])
def test_a_network_that_does_not_run_says_so_by_itself(
    store: Store, there: FakeHypervisor, look: Reservations, told: Told, network: FakeNetwork | None
) -> None:
    put(store, MADE)
    there.networks = {"lan": network} if network else {}
    look.look()
    assert (told.lost, told.woken) == ([set()], [])


def test_a_network_that_cannot_be_read_has_lost_nothing(
    store: Store, there: FakeHypervisor, look: Reservations, told: Told
) -> None:
    put(store, MADE)
    there.fail_next("network", HypervisorError("no"))
    look.look()
    assert told.woken == []
    there.fail_next("network", Unreachable("no"))
    with pytest.raises(Unreachable):
        look.look()
    assert told.lost == [set()]


@pytest.mark.parametrize("lost", [False, True])
def test_an_ipv6_address_counts_as_well(
    store: Store, there: FakeHypervisor, look: Reservations, told: Told, lost: bool
) -> None:
    put(store, replace(MADE, address6="2001:db8::7", duid="00:03:00:01"))
    there.networks["lan"].reserved = [[MAC, "10.0.0.7"], *([] if lost else [["00:03:00:01", "2001:db8::7"]])]
    look.look()
    assert told.woken == ([ID] if lost else [])
