"""libvirt's networks in our words, and how their XML is read. They are their operators': we only read them.

But for one thing: addresses that the DHCP server of a network keeps for MACs. How libvirt is asked does not belong
here (`dhcp.py`), nor who gets which address.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_address, ip_interface
from typing import Protocol

from lxml import etree

from sri_libvirt.errors import HypervisorError

SLOW_TO_CHANGE = frozenset({"", "nat", "route"})
"""Forward modes with firewall rules of libvirt's own. It takes them down and puts them up again at every change of a
reservation: 0.3 to 0.8 s in which they do not work, where the other modes take 1 to 3 ms."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """An IPv4 address that is kept for a MAC, in lower case; the operator's may have a name as well, or alone."""

    mac: str
    address: IPv4Address
    name: str = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """An address that the DHCP server has given to a MAC, in lower case. `client` is the id that the guest gave."""

    mac: str
    address: IPv4Address
    client: str = ""


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
    is forgotten when it is stopped.
    """

    name: str
    active: bool
    forward: str = ""
    bridge: str = ""
    subnets: tuple[Subnet, ...] = ()
    reservations: frozenset[Reservation] = frozenset()
    kept: frozenset[Reservation] | None = None

    @property
    def all_reservations(self) -> frozenset[Reservation]:
        return self.reservations | (self.kept or frozenset())

    def has(self, mac: str, address: IPv4Address) -> bool:
        """Whether an address is reserved for a MAC, and stays so when the network is started anew."""
        held = (self.reservations, self.reservations if self.kept is None else self.kept)
        return all(any((each.mac, each.address) == (mac, address) for each in side) for side in held)


class Networks(Protocol):
    """What may be asked of libvirt's networks. Every method may raise HypervisorError and Unreachable."""

    def network(self, name: str) -> Network | None:
        """The network of this name; None if libvirt says that there is none."""

    def leases(self, name: str) -> frozenset[Lease]:
        """The IPv4 addresses that it has given away and that are not given back; none of what does not run."""

    def reserve(self, name: str, mac: str, address: IPv4Address) -> None:
        """Have the DHCP server of a network that runs keep an address of one of its subnets for a MAC. Idempotent.

        Nobody looks whether that is wise: libvirt takes what its DHCP server then ignores.
        """

    def unreserve(self, name: str, mac: str, address: IPv4Address) -> None:
        """Have it kept no more. Of a network that is gone, and of what is not reserved: nothing."""

    def end_leases(self, name: str, mac: str) -> None:
        """Let the DHCP server know that nobody of that MAC is there any more; where it cannot be told, its leases run
        out by themselves. It may have ended them a moment after this.
        """


class PlannedNetworks:
    """Each network is there and runs, and nothing is reserved: for machines that are only planned."""

    def network(self, name: str) -> Network:
        return Network(name, active=True)

    def leases(self, name: str) -> frozenset[Lease]:  # noqa: ARG002 of the contract
        return frozenset()

    def reserve(self, name: str, mac: str, address: IPv4Address) -> None: ...

    def unreserve(self, name: str, mac: str, address: IPv4Address) -> None: ...

    def end_leases(self, name: str, mac: str) -> None: ...


def read(active_xml: str, kept_xml: str) -> Network:
    """A network by the XML of it as it runs, "" if it does not, and as it is started next, "" if it never is.

    Raises HypervisorError when it is not XML, or speaks of what are no addresses.
    """
    if active_xml:
        kept = _reservations(_parse(kept_xml)) if kept_xml else None
        root = _parse(active_xml)
        return _network(root, active=True, reservations=_reservations(root), kept=kept)
    root = _parse(kept_xml)
    return _network(root, active=False, reservations=frozenset(), kept=_reservations(root))


def subnet_of(network: Network, address: IPv4Address) -> Subnet | None:
    """The subnet that an address belongs to."""
    return next((each for each in network.subnets if address in each.interface.network), None)


def host_xml(mac: str, address: IPv4Address) -> str:
    """A reservation as libvirt takes it."""
    return etree.tostring(etree.Element("host", mac=mac, ip=str(address)), encoding="unicode")


def _parse(text: str) -> etree._Element:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True)
    try:
        return etree.fromstring(text.encode("utf-8", "surrogatepass"), parser)
    except etree.XMLSyntaxError as error:
        raise HypervisorError(f"network XML from libvirt: not well-formed: {error.msg}") from error


def _network(
    root: etree._Element,
    *,
    active: bool,
    reservations: frozenset[Reservation],
    kept: frozenset[Reservation] | None,
) -> Network:
    forward, bridge = root.find("forward"), root.find("bridge")
    try:
        subnets = tuple(_subnet(node, index) for index, node in enumerate(root.iterfind("ip")))
    except ValueError as error:
        raise HypervisorError(f"network XML from libvirt: {error}") from error
    return Network(
        name=root.findtext("name") or "",
        active=active,
        forward="" if forward is None else forward.get("mode", "nat"),
        bridge="" if bridge is None else bridge.get("name", ""),
        subnets=subnets,
        reservations=reservations,
        kept=kept,
    )


def _subnet(node: etree._Element, index: int) -> Subnet:
    address = node.get("address", "")
    width = node.get("prefix") or node.get("netmask")
    interface = ip_interface(f"{address}/{width}" if width else address)
    ranges = [
        (ip_address(each.get("start", "")), ip_address(each.get("end", ""))) for each in node.iterfind("dhcp/range")
    ]
    return Subnet(
        interface=interface,
        index=index,
        serves=node.find("dhcp") is not None,
        ranges=tuple((a, b) for a, b in ranges if isinstance(a, IPv4Address) and isinstance(b, IPv4Address)),
    )


def _reservations(root: etree._Element) -> frozenset[Reservation]:
    found = set()
    for host in root.iterfind("ip/dhcp/host"):
        try:
            address = ip_address(host.get("ip", ""))
        except ValueError:
            continue  # a host that is only given a name
        if isinstance(address, IPv4Address):
            found.add(Reservation(host.get("mac", "").lower(), address, host.get("name", "")))
    return frozenset(found)
