"""libvirt's networks for tests: what `networks.py` says of them, in memory and in JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address, ip_interface

from sri_libvirt.errors import HypervisorError
from sri_libvirt.hypervisor.networks import Lease, Network, Reservation, Subnet


@dataclass
class FakeNetwork:
    """`own` are its addresses, of which DHCP serves the first, and those of IPv6; pairs are of a client, a MAC or with
    IPv6 a DUID, and an address. `kept`: when it is stopped."""

    active: bool = True
    kept: bool = True
    forward: str = "open"
    own: list[str] = field(default_factory=lambda: ["10.0.0.1/24"])
    reserved: list[list[str]] = field(default_factory=list)
    leased: list[list[str]] = field(default_factory=list)

    def seen(self, name: str) -> Network:
        subnets = (Subnet(ip_interface(own), at, serves=not at or ":" in own) for at, own in enumerate(self.own))
        found = frozenset(Reservation(client, ip_address(address)) for client, address in self.reserved)
        held, kept = (found if self.active else frozenset()), (found if self.kept else None)
        return Network(
            name, self.active, self.forward, f"br-{name}", subnets=tuple(subnets), reservations=held, kept=kept
        )

    def leases(self) -> frozenset[Lease]:
        return frozenset(_lease(client, address) for client, address in self.leased if self.active)

    def reserve(self, client: str, address: str) -> None:
        """As libvirt does: what is reserved already, for whomever, is refused."""
        if [client, address] in self.reserved:
            return
        if any(client == other or address == held for other, held in self.reserved):
            raise HypervisorError(f"libvirt could not reserve {address}: there is an existing dhcp host entry", 55)
        self.reserved.append([client, address])

    def unreserve(self, client: str, address: str) -> None:
        self.reserved = [each for each in self.reserved if each != [client, address]]


def _lease(client: str, text: str) -> Lease:
    address = ip_address(text)
    return Lease(client, address) if isinstance(address, IPv4Address) else Lease("", address, client)
