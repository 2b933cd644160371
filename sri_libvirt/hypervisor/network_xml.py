"""What libvirt's XML says of a network, and a reservation as libvirt takes it.

What it means is in `networks.py`. How libvirt is asked does not belong here.
"""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_interface

from lxml import etree

from sri_libvirt.errors import HypervisorError
from sri_libvirt.hypervisor.networks import Address, Network, Reservation, Subnet


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


def host_xml(client: str, address: Address) -> str:
    """A reservation as libvirt takes it."""
    known_by = "mac" if isinstance(address, IPv4Address) else "id"
    return etree.tostring(etree.Element("host", {known_by: client, "ip": str(address)}), encoding="unicode")


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
        switched=bridge is not None and root.find(".//virtualport") is None,
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
        client = host.get("mac" if isinstance(address, IPv4Address) else "id", "")
        found.add(Reservation(client.lower(), address, host.get("name", "")))
    return frozenset(found)
