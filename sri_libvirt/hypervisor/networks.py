"""libvirt's networks in our words. They are their operators': we only read them.

But for two things: addresses that the DHCP server of a network keeps for MACs, and filters of our own. How libvirt is
asked does not belong here (`dhcp.py`, `filters.py`), nor how it tells of them (`network_xml.py`), nor who gets which
address.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Protocol

SLOW_TO_CHANGE = frozenset({"", "nat", "route"})
"""Forward modes with firewall rules of libvirt's own. It takes them down and puts them up again at every change of a
reservation: 0.3 to 0.8 s in which they do not work, where the other modes take 1 to 3 ms."""


Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Reservation:
    """An address that is kept for a client, in lower case: for a MAC, or, one of IPv6, for a DUID. The operator's may
    have a name as well, or alone.
    """

    client: str
    address: Address
    name: str = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """An address that the DHCP server has given to a MAC, in lower case. `client` is the id that the guest gave, of an
    address of IPv6 its DUID.
    """

    mac: str
    address: Address
    client: str = ""

    @property
    def holder(self) -> str:
        """Whom it is kept from others for: what a reservation would name."""
        return self.mac if isinstance(self.address, IPv4Address) else self.client


@dataclass(frozen=True, slots=True)
class Subnet:
    """A subnet of a network, by the network's own address in it. `index` is its place among them.

    `serves`: DHCP gives addresses of it. `ranges` are those that it gives to whoever asks.
    """

    interface: IPv4Interface | IPv6Interface
    index: int
    serves: bool = False
    ranges: tuple[tuple[IPv4Address, IPv4Address], ...] = ()


@dataclass(frozen=True, slots=True)
class Network:
    """A network as it is now. `forward` is "" of an isolated one; `bridge` may be the host's own, "" where none is.

    `reservations` are those that hold while it runs. `kept` are those it has when it is started next, None of one that
    is forgotten when it is stopped. `switched`: its guests are on a bridge of Linux, where libvirt can filter them, and
    on neither Open vSwitch nor a device of the host.
    """

    name: str
    active: bool
    forward: str = ""
    bridge: str = ""
    switched: bool = True
    subnets: tuple[Subnet, ...] = ()
    reservations: frozenset[Reservation] = frozenset()
    kept: frozenset[Reservation] | None = None

    @property
    def all_reservations(self) -> frozenset[Reservation]:
        return self.reservations | (self.kept or frozenset())

    def has(self, client: str, address: Address) -> bool:
        """Whether an address is reserved for a client, and stays so when the network is started anew."""
        held = (self.reservations, self.reservations if self.kept is None else self.kept)
        return all(any((each.client, each.address) == (client, address) for each in side) for side in held)


class Networks(Protocol):
    """What may be asked of libvirt's networks. Every method may raise HypervisorError and Unreachable."""

    def network(self, name: str) -> Network | None:
        """The network of this name; None if libvirt says that there is none."""

    def leases(self, name: str) -> frozenset[Lease]:
        """The addresses that it has given away and that are not given back; none of what does not run."""

    def reserve(self, name: str, client: str, address: Address) -> None:
        """Have the DHCP server of a network that runs keep an address of one of its subnets for a client: a MAC, or, of
        an IPv6 address, a DUID. Idempotent.

        Nobody looks whether that is wise: libvirt takes what its DHCP server then ignores.
        """

    def unreserve(self, name: str, client: str, address: Address) -> None:
        """Have it kept no more. Of a network that is gone, and of what is not reserved: nothing."""

    def end_leases(self, name: str, mac: str) -> None:
        """Let the DHCP server know that nobody of that MAC is there any more; where it cannot be told, its leases run
        out by themselves, as those of IPv6 do. It may have ended them a moment after this.
        """

    def have_filter(self, name: str) -> None:
        """Let there be a filter of ours (`filter_rules.NAMES`); one that exists stays as it is.

        Raises NotReady where libvirt has none at all.
        """


class PlannedNetworks:
    """Each network is there and runs, and nothing is reserved: for machines that are only planned."""

    def network(self, name: str) -> Network | None:
        return Network(name, active=True)

    def leases(self, name: str) -> frozenset[Lease]:  # noqa: ARG002 of the contract
        return frozenset()

    def reserve(self, name: str, client: str, address: Address) -> None: ...

    def unreserve(self, name: str, client: str, address: Address) -> None: ...

    def end_leases(self, name: str, mac: str) -> None: ...

    def have_filter(self, name: str) -> None: ...


def subnet_of(network: Network, address: Address) -> Subnet | None:
    """The subnet that an address belongs to."""
    return next((each for each in network.subnets if address in each.interface.network), None)
