"""How libvirt is asked about its networks, and told of reservations.

What is read and written is in `networks.py` and `network_xml.py`. When which address is reserved does not belong here.
"""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

import libvirt
import structlog

from sri_libvirt.hypervisor import faults, network_xml, networks, release
from sri_libvirt.hypervisor.networks import Address, Lease, Network, Reservation

log = structlog.get_logger(__name__)

LIVE, KEPT = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE, libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG

_ANY = -1
"""The subnet that libvirt finds by itself."""

_NOT_THERE = (libvirt.VIR_ERR_NO_NETWORK, libvirt.VIR_ERR_OPERATION_INVALID)
"""What it answers of a network that is gone, and of one that does not run."""


def find(connection: libvirt.virConnect, name: str) -> Network | None:
    """The network as it is. Raises libvirtError, HypervisorError."""
    try:
        return _read(connection.networkLookupByName(name))
    except libvirt.libvirtError as error:
        if faults.is_code(error, libvirt.VIR_ERR_NO_NETWORK):
            return None
        raise


def leases(connection: libvirt.virConnect, name: str) -> frozenset[Lease]:
    """Whom its DHCP server has given which address. Raises libvirtError."""
    try:
        found = connection.networkLookupByName(name).DHCPLeases()
    except libvirt.libvirtError as error:
        if any(faults.is_code(error, code) for code in _NOT_THERE):
            return frozenset()
        raise
    return frozenset(
        Lease((each["mac"] or "").lower(), at, (each["clientid"] or "").lower())
        for each in found
        if (at := _address(each["ipaddr"])) is not None
    )


def reserve(connection: libvirt.virConnect, name: str, client: str, address: Address) -> None:
    """Have an address kept for a client, wherever that is not so. Raises libvirtError, HypervisorError."""
    _update(connection.networkLookupByName(name), client, address, wanted=True)


def unreserve(connection: libvirt.virConnect, name: str, client: str, address: Address) -> None:
    """Have it kept no more, wherever it is. Raises libvirtError, HypervisorError."""
    try:
        network = connection.networkLookupByName(name)
    except libvirt.libvirtError as error:
        if faults.is_code(error, libvirt.VIR_ERR_NO_NETWORK):
            return
        raise
    _update(network, client, address, wanted=False)


def end_leases(connection: libvirt.virConnect, name: str, mac: str) -> None:
    """Give back what the guest of a MAC has not given back itself. Raises libvirtError, HypervisorError."""
    held = [(each, each.address) for each in leases(connection, name) if each.mac == mac]
    network = find(connection, name) if held else None
    if network is None:
        return
    for lease, address in held:
        subnet = networks.subnet_of(network, address)
        server = subnet.interface.ip if subnet else None
        if not isinstance(server, IPv4Address) or not isinstance(address, IPv4Address):
            continue
        try:
            release.send(release.packet(mac, address, server, lease.client), server, network.bridge)
        except (OSError, ValueError) as error:  # another network namespace; an id that is none
            log.info("a lease stays until it runs out", network=name, address=str(address), error=str(error))


def _update(network: libvirt.virNetwork, client: str, address: Address, *, wanted: bool) -> None:
    found = _read(network)
    subnet = networks.subnet_of(found, address)
    command = libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST if wanted else libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE
    for side, there in _sides(found):
        if wanted != any((each.client, each.address) == (client, address) for each in there):
            host, index = network_xml.host_xml(client, address), subnet.index if subnet else _ANY
            network.update(command, libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST, index, host, side)


def _sides(found: Network) -> list[tuple[int, frozenset[Reservation]]]:
    """What can be changed: the network that runs, and the one that is started next."""
    sides = [(LIVE, found.reservations)] if found.active else []
    return sides if found.kept is None else [*sides, (KEPT, found.kept)]


def _read(network: libvirt.virNetwork) -> Network:
    """Between the questions it may be started or stopped: then it is asked again, by the next look of who asked."""
    active = network.XMLDesc(0) if network.isActive() else ""
    kept = network.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE) if network.isPersistent() else ""
    return network_xml.read(active, kept)


def _address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
