"""A machine's network interface, from its driver to what the guest has of it, and back.

Performers like those of `perform.py`, which are the door to them. What an interface is joined to does not belong here
(that is the drivers'), nor how it is plugged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import NicBackend
from sri_libvirt.domain.cpu import vcpus
from sri_libvirt.errors import AddressHeld, InvalidSpec, NotReady
from sri_libvirt.hypervisor.base import Connection
from sri_libvirt.nics import addresses
from sri_libvirt.nics.attributes import MOST_QUEUES, Attributes
from sri_libvirt.nics.base import NicDriver
from sri_libvirt.printable import quote
from sri_libvirt.records import Attachment, Machine
from sri_libvirt.store.store import Store
from sri_libvirt.store.transaction import Transaction

MOVED_ADVICE = "Set the machine's power OFF and ON: it follows the map at its next cold start."


class Links(Protocol):
    """The drivers of network interfaces; they raise InvalidSpec when there is none (any more)."""

    def nic(self, row: Attachment) -> NicDriver:
        """The driver that its network id leads to now."""

    def nic_made(self, row: Attachment) -> NicDriver:
        """The driver that has prepared it, if one has."""

    def nic_attributes(self, row: Attachment) -> Attributes:
        """What its tenant may say of it, and does."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a guest sees of an interface besides its MAC. It is chosen once: with another one it were another card."""

    mtu: int
    queues: int


@dataclass(frozen=True, slots=True)
class MachineLink:
    """Keeps no state of its own."""

    store: Store
    links: Links
    vhost_net: Callable[[], bool]

    def prepare(self, machine: Machine, row: Attachment, connection: Connection) -> NicBackend:
        """What it is joined to. Raises NotReady, naming the machine that has its address."""
        driver, nic, old = self.links.nic(row), row.nic(), row.backing
        if old is None and (refusal := self._not_its_own(row)):
            # Before its driver hears of it: what is kept for that MAC or DUID is the other's.
            raise refusal
        try:
            made = replace(driver.prepare(machine.id, nic, row.mac, connection), driver=driver.name)
        except AddressHeld as error:
            raise self._with_holder(error) from error
        before = old if isinstance(old, NicBackend) else None
        if before is not None and _place(before, made.driver) != _place(made, made.driver):
            # What was made there is given up before it is forgotten, and never while the guest has it.
            domain = connection.snapshot(machine.id)
            if domain is not None and row.alias in domain.live_xml:
                raise NotReady("the network map leads it elsewhere by now", MOVED_ADVICE)
            self.links.nic_made(row).release(machine.id, nic, row.mac, connection, before)
            before = None
        shape = Shape(before.mtu, before.queues) if before else self._shape(machine, made, row)
        found = tuple(map(str, _addresses(nic)))
        return replace(made, addresses=found, mtu=shape.mtu, queues=shape.queues)

    def release(self, machine: Machine, row: Attachment, connection: Connection, *, final: bool) -> None:
        """Give up what was made and reserved for it, but for what the interface after it has reserved as well."""
        if not (nic := row.nic()).network_id:
            return
        followers = [] if final else [each.nic() for each in machine.attachments if _follows(each, row)]
        if row.backing is None and (self.store.mac_user(row, ready=False) or self._not_its_own(row)):
            followers = [nic]  # its MAC or its DUID is another's, and so is what is reserved for that
        made = row.backing if isinstance(row.backing, NicBackend) else None
        driver, then = self.links.nic_made(row), next(iter(followers), None)
        driver.release(machine.id, nic, row.mac, connection, made, then)

    def refusal(self, tx: Transaction, row: Attachment, made: NicBackend) -> NotReady | None:
        """Why what was prepared cannot be kept: another interface has its MAC, or its address on the same link."""
        before = row.backing if isinstance(row.backing, NicBackend) else None
        if before is None and (owner := tx.mac_user(row.mac, besides=row)) is not None:
            return _mac_held(row, owner)
        if before is not None and _segment(before) == _segment(made):
            return None  # it was first
        taken = tx.address_user(made, besides=row)
        if taken is None:
            return None
        address, *owner_ = taken
        return AddressHeld(address, f"both are on {quote(made.source)}", "", _words(*owner_))

    def _not_its_own(self, row: Attachment) -> AddressHeld | None:
        """Whether another interface is known by what this one says that it is."""
        if owner := self.store.mac_user(row, ready=True):
            return _mac_held(row, owner)
        duid = self._said(row).duid
        if duid and (owner := self.store.duid_user(duid, row)):
            return AddressHeld(duid, "two interfaces cannot have one DUID", "", _words(*owner))
        return None

    def _shape(self, machine: Machine, made: NicBackend, row: Attachment) -> Shape:
        """As many queues as are asked for, or, where the host's kernel carries them, as are of use."""
        # Its hardware may have been chosen in this pass, after the machine was read.
        most = machine.profile.vcpus if machine.profile else vcpus(machine.machine_class.cpu_millis)
        asked = self._said(row).queues or (MOST_QUEUES if self.vhost_net() else 1)
        return Shape(made.mtu, min(asked, most, made.queues or MOST_QUEUES))

    def _said(self, row: Attachment) -> Attributes:
        """What its tenant says; nothing that cannot be, which was attached before the map let it count."""
        try:
            return self.links.nic_attributes(row)
        except InvalidSpec:
            return Attributes()

    def _with_holder(self, error: AddressHeld) -> AddressHeld:
        """The same, naming the machine if the one that has the address is this store's."""
        owner = self.store.mac_owner(error.mac) if error.mac else None
        return AddressHeld(error.address, error.how, error.mac, f"machine {owner[0]}") if owner else error


def _mac_held(row: Attachment, owner: tuple[str, str]) -> AddressHeld:
    return AddressHeld(row.mac, "two interfaces cannot have one MAC", row.mac, _words(*owner))


def _words(machine_id: str, name: str) -> str:
    return f"the network interface {quote(name)} of machine {machine_id}"


def _place(backend: NicBackend, driver: str) -> tuple[str, str]:
    """Where something may have been made for it; earlier versions did not say by which driver."""
    return backend.driver or driver, backend.network


def _segment(backend: NicBackend) -> tuple[str, str, int, tuple[str, ...]]:
    """The link that it is on, and what it has there."""
    return backend.kind, backend.source, backend.vlan, backend.addresses


def _addresses(nic: pb.NetworkInterface) -> tuple[addresses.Address, ...]:
    """All that its spec gives it; none of what an earlier version let in."""
    try:
        return addresses.of(nic)
    except InvalidSpec:
        return ()


def _follows(row: Attachment, other: Attachment) -> bool:
    """Whether a row is the wanted one of the other's name, and takes its place when that is released."""
    return row.wanted and (row.kind, row.name) == (other.kind, other.name) and row.key != other.key
