"""A machine's network interface: what its guest sees of it stays, and nobody else's MAC or address is had."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import NicBackend
from sri_libvirt.errors import AddressHeld, InvalidSpec
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.nics.attributes import Attributes
from sri_libvirt.reconcile.linking import MachineLink
from sri_libvirt.records import Attachment, MachineClass
from sri_libvirt.store.store import Store
from tests.unit.reconcile.world import ID, PROFILE, machine, nic_row

OTHER = "22222222-2222-4222-8222-222222222222"
BRIDGE = NicBackend("h", "bridge", bridge="br0", driver="driver")


class Links:
    """A driver that gives one backend, and one tenant's words."""

    name = "driver"

    def __init__(self, gives: NicBackend = BRIDGE, said: Attributes | None = None) -> None:
        self.gives = gives
        self.said = said or Attributes()
        self.calls: list[tuple[str, object]] = []

    def nic(self, _row: Attachment) -> Any:
        return self

    nic_made = nic

    def nic_attributes(self, _row: Attachment) -> Attributes:
        return self.said

    def prepare(self, *_: object) -> NicBackend:
        self.calls.append(("prepare", None))
        return self.gives

    def release(self, *more: object) -> None:
        self.calls.append(("release", more[-1]))


def prepared(store: Store, row: Attachment, links: Links, *, vcpus: int = 4, vhost: bool = True) -> NicBackend:
    link = MachineLink(store, links, lambda: vhost)
    asked = machine(row, profile=replace(PROFILE, vcpus=vcpus))
    return link.prepare(asked, row, FakeHypervisor().connect())


@pytest.mark.parametrize(
    ("vcpus", "vhost", "most", "said", "queues"),
    [
        (1, True, 0, 0, 1),
        (4, True, 0, 0, 4),
        (64, True, 0, 0, 8),
        (4, False, 0, 0, 1),
        (4, True, 1, 0, 1),
        (4, True, 0, 2, 2),
        (4, False, 0, 2, 2),
        (2, True, 0, 8, 2),
        (4, True, 1, 4, 1),
    ],
)
def test_as_many_queues_as_are_of_use(store: Store, vcpus: int, vhost: bool, most: int, said: int, queues: int) -> None:
    links = Links(replace(BRIDGE, queues=most), Attributes(queues=said))
    assert prepared(store, nic_row("eth"), links, vcpus=vcpus, vhost=vhost).queues == queues


def test_the_queues_of_a_machine_whose_hardware_is_chosen_in_the_same_pass(store: Store) -> None:
    row = nic_row("eth")
    asked = replace(machine(row), machine_class=MachineClass("two", 1500, 1 << 30))
    assert asked.profile is None
    link = MachineLink(store, Links(), lambda: True)
    assert link.prepare(asked, row, FakeHypervisor().connect()).queues == 2


def test_what_the_guest_sees_is_chosen_once(store: Store) -> None:
    first = prepared(store, nic_row("eth"), Links(replace(BRIDGE, mtu=9000)))
    assert (first.mtu, first.queues) == (9000, 4)
    row = nic_row("eth", backing=first)
    again = prepared(store, row, Links(replace(BRIDGE, mtu=1400, vlan=7)), vhost=False)
    assert (again.mtu, again.queues, again.vlan) == (9000, 4, 7)
    old = nic_row("eth", backing=replace(BRIDGE, queues=0))
    assert prepared(store, old, Links(replace(BRIDGE, mtu=9000))).queues == 0, "of an older version"


Refusal = Callable[..., AddressHeld | None]


@pytest.fixture
def refusal(store: Store) -> Refusal:
    """What is said of another machine's interface with this backend and MAC, while the first has its own."""

    def refused(backend: NicBackend, mac: str = "02:00:00:00:00:02", before: NicBackend | None = None) -> Any:
        theirs = replace(nic_row("eth"), machine=OTHER, mac=mac, backing=before)
        store.write(lambda tx: tx.insert(replace(machine(theirs), id=OTHER)))
        link = MachineLink(store, Links(), lambda: False)
        return store.write(lambda tx: link.refusal(tx, theirs, backend))

    first = nic_row("eth")
    store.write(lambda tx: tx.insert(machine(first)))
    store.write(lambda tx: tx.set_backing(ID, first.key, replace(BRIDGE, addresses=("10.0.0.7", "2001:db8::7"))))
    return refused


@pytest.mark.parametrize(
    ("backend", "address"),
    [
        (replace(BRIDGE, addresses=("10.0.0.7",)), "10.0.0.7"),
        (replace(BRIDGE, addresses=("10.0.0.8", "2001:db8::7")), "2001:db8::7"),
        (replace(BRIDGE, addresses=("10.0.0.8",)), None),
        (replace(BRIDGE, addresses=("10.0.0.7",), bridge="br1"), None),
        (replace(BRIDGE, addresses=("10.0.0.7",), vlan=42), None),
        (replace(BRIDGE, addresses=("10.0.0.7",), kind="ovs"), None),
        (BRIDGE, None),
    ],
)
def test_an_address_is_one_interfaces_on_a_link(refusal: Refusal, backend: NicBackend, address: str | None) -> None:
    found = refusal(backend)
    if address is None:
        assert found is None
    else:
        assert found is not None
        assert f'{address} is that of the network interface "eth" of machine {ID}' in str(found)
        assert found.code == "address-taken"


def test_who_had_the_address_first_keeps_it_on_that_link(refusal: Refusal) -> None:
    mine = replace(BRIDGE, addresses=("10.0.0.7",))
    assert refusal(mine, before=mine) is None


def test_on_another_link_it_is_asked_anew(refusal: Refusal) -> None:
    mine = replace(BRIDGE, addresses=("10.0.0.7",))
    assert refusal(mine, before=replace(mine, bridge="br1")) is not None


def test_what_cannot_be_and_did_not_count_before_the_map_let_it_does_not_now(store: Store) -> None:
    class Nonsense(Links):
        def nic_attributes(self, _row: Attachment) -> Attributes:
            raise InvalidSpec("attributes[queues]", "nonsense")

    links = Nonsense()
    assert prepared(store, nic_row("eth"), links).queues == 4
    row = nic_row("eth")
    MachineLink(store, links, lambda: False).release(machine(row), row, FakeHypervisor().connect(), final=True)
    assert links.calls[-1] == ("release", None)


def test_a_mac_is_one_interfaces(refusal: Refusal) -> None:
    found = refusal(BRIDGE, mac="02:00:00:00:00:01")
    assert found is not None
    assert f'02:00:00:00:00:01 is that of the network interface "eth" of machine {ID}' in str(found)


def test_its_own_is_no_others(store: Store) -> None:
    row = nic_row("eth")
    mine = replace(BRIDGE, addresses=("10.0.0.7",))
    store.write(lambda tx: tx.insert(machine(row)))
    store.write(lambda tx: tx.set_backing(ID, row.key, mine))
    again = replace(row, incarnation=2)
    link = MachineLink(store, Links(), lambda: False)
    assert store.write(lambda tx: link.refusal(tx, again, mine)) is None


def test_all_its_addresses_are_told(store: Store) -> None:
    spec = pb.NetworkInterface(name="eth", network_id="x", ips=["10.0.0.7", "2001:DB8::7"])
    row = nic_row("eth", spec=spec.SerializeToString())
    assert prepared(store, row, Links()).addresses == ("10.0.0.7", "2001:db8::7")


@pytest.mark.parametrize("prepared", [True, False])
def test_who_asks_for_anothers_mac_neither_gets_nor_gives_up_what_is_kept_for_it(store: Store, prepared: bool) -> None:
    first = nic_row("eth")
    theirs = replace(nic_row("eth"), machine=OTHER)
    store.write(lambda tx: tx.insert(machine(first)))
    store.write(lambda tx: tx.insert(replace(machine(theirs), id=OTHER)))
    if prepared:
        store.write(lambda tx: tx.set_backing(ID, first.key, BRIDGE))
    links = Links()
    link, connection = MachineLink(store, links, lambda: False), FakeHypervisor().connect()
    asked = replace(machine(theirs, profile=PROFILE), id=OTHER)
    if prepared:
        with pytest.raises(AddressHeld, match="two interfaces cannot have one MAC"):
            link.prepare(asked, theirs, connection)
    link.release(asked, theirs, connection, final=True)
    assert links.calls == [("release", theirs.nic())], "as if the same came after it: what is reserved stays"
    mine = replace(first, backing=BRIDGE)
    link.release(machine(mine), mine, connection, final=True)
    assert links.calls[1:] == [("release", None)]


def test_a_duid_is_one_interfaces(store: Store) -> None:
    first = nic_row("eth")
    theirs = replace(nic_row("eth"), machine=OTHER, mac="02:00:00:00:00:02")
    for each in (machine(first), replace(machine(theirs), id=OTHER)):
        store.write(lambda tx, each=each: tx.insert(each))  # type: ignore[misc]
    store.write(lambda tx: tx.set_backing(ID, first.key, replace(BRIDGE, address6="2001:db8::7", duid="00:03:00:01")))
    links = Links(said=Attributes(duid="00:03:00:01"))
    link, connection = MachineLink(store, links, lambda: False), FakeHypervisor().connect()
    asked = replace(machine(theirs, profile=PROFILE), id=OTHER)
    with pytest.raises(AddressHeld, match=f"machine {ID}: two interfaces cannot have one DUID"):
        link.prepare(asked, theirs, connection)
    link.release(asked, theirs, connection, final=True)
    assert links.calls == [("release", theirs.nic())], "what is kept for it is the other's"
