"""The addresses that a network interface is given by its spec, `ips`. Which of them a network takes does not belong
here.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from sri_libvirt import printable
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import InvalidSpec

Address = IPv4Address | IPv6Address

OTHER_ADVICE = "Give the network interface another address in its spec."


def of(nic: pb.NetworkInterface) -> tuple[Address, ...]:
    """All of them, in their order; an IPv4 address in IPv6's form is that. Raises InvalidSpec for what no interface can
    have, or has twice.
    """
    found: list[Address] = []
    for index, text in enumerate(nic.ips):
        address = _address(f"ips[{index}]", text)
        if address in found:
            raise InvalidSpec(f"ips[{index}]", f"{address} is there twice")
        found.append(address)
    return tuple(found)


def by_dhcp(nic: pb.NetworkInterface) -> IPv4Address | None:
    """The one that DHCP is to give: the first of IPv4. Raises as `of`."""
    return next((each for each in of(nic) if isinstance(each, IPv4Address)), None)


def by_dhcp6(nic: pb.NetworkInterface) -> IPv6Address | None:
    """The one that DHCPv6 is to give, to a client whose DUID is known: the first of IPv6. Raises as `of`."""
    return next((each for each in of(nic) if isinstance(each, IPv6Address)), None)


def _address(field: str, text: str) -> Address:
    try:
        address = ip_address(text)
    except ValueError:
        raise InvalidSpec(field, f"{printable.quote(text)} is no IP address") from None
    if getattr(address, "scope_id", None):
        raise InvalidSpec(field, f"{printable.quote(text)} names an interface; an address alone is wanted")
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    if address.is_unspecified or address.is_loopback or address.is_multicast or _is_reserved(address):
        raise InvalidSpec(field, f"{address} is an address that no interface can have")
    return address


def _is_reserved(address: Address) -> bool:
    """0.0.0.0/8 and 240.0.0.0/4, with the broadcast address in it: no host takes a packet from one of these."""
    return isinstance(address, IPv4Address) and (address.is_reserved or not address.packed[0])
