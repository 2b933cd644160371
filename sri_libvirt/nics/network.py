"""NICs on a libvirt network, `network://NAME` or a bare NAME (contract G.13), or what the network map says.

The network is the operator's: it is never made, started or changed here, but for one thing. The first IPv4 address of
`ips` is reserved at its DHCP server before the guest has the NIC, so that the guest's DHCP client gets exactly it; the
first IPv6 address is where the guest's DUID is known.
libvirt takes every reservation, and its DHCP server gives another address in silence where it cannot be: so all that
could be wrong is looked at first.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import ClassVar

from sri_libvirt import names, printable
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import NicBackend
from sri_libvirt.errors import AddressHeld, InvalidSpec, NotReady
from sri_libvirt.host import link
from sri_libvirt.hypervisor.networks import Address, Network, Networks, Subnet, subnet_of
from sri_libvirt.nics import addresses, attributes, map_values, mapped, spoofing
from sri_libvirt.nics.base import Parameter
from sri_libvirt.nics.mapped import MappedNics
from sri_libvirt.nics.reserving import Reserving

SCHEME = "network://"
ISOLATED = "isolated"
"""The bare word that is no network's name."""

_LEAST_HOSTS = 2  # bits; of smaller subnets every address is a host's


@dataclass(frozen=True, slots=True)
class NetworkNics(MappedNics):
    """The NIC driver for libvirt networks."""

    reserving: Reserving = field(default_factory=Reserving)
    network: str = ""
    antispoof: bool = True

    name = "network"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "network": Parameter(map_values.network_name, required=True),
        "antispoof": spoofing.PARAMETER,
        "bandwidth": mapped.BANDWIDTH,
        "allow": mapped.allow("mac", "queues", "duid"),
    }

    def supports(self, nic: pb.NetworkInterface) -> bool:
        reference = nic.network_id
        return reference.startswith(SCHEME) or ("://" not in reference and reference not in ("", ISOLATED))

    def validate(self, nic: pb.NetworkInterface) -> None:
        try:
            map_values.network_name(self._name(nic))
        except ValueError:
            words = "names no libvirt network: use network://NAME, NAME without a slash"
            raise InvalidSpec("network_id", words) from None
        attributes.of(nic, self.allow)

    def handle(self, machine_id: str, nic: pb.NetworkInterface) -> str:
        return f"{SCHEME}{self._name(nic)}/{names.digest(machine_id, nic.name, length=16)}"

    def prepare(self, machine_id: str, nic: pb.NetworkInterface, mac: str, networks: Networks) -> NicBackend:
        name = self._name(nic)
        network = networks.network(name)
        if network is None:
            raise NotReady(
                f"there is no libvirt network {printable.quote(name)}",
                "See `virsh net-list --all`; define it and start it.",
            )
        if not network.active:
            raise NotReady(
                f"the libvirt network {printable.quote(name)} is not running",
                f"Start it: virsh net-start {shlex.quote(name)}",
            )
        if self.antispoof and not network.switched:
            raise NotReady(
                f"libvirt cannot keep guests of the network {printable.quote(name)} from using other addresses than "
                "their own: it joins them by Open vSwitch or a device of the host",
                "Let an entry for it in --network-map say antispoof: false.",
            )
        try:
            wanted = self._to_reserve(network, nic, mac)
        except InvalidSpec as error:  # an earlier version has let it in
            raise NotReady(str(error), addresses.OTHER_ADVICE) from error
        for client, address in wanted.items():
            _check(network, client, address, networks)
        self.reserving.hold(machine_id, network, mac, wanted, networks)
        duid = next((client for client in wanted if client != mac), "")
        made = NicBackend(
            handle=self.handle(machine_id, nic),
            kind="network",
            network=name,
            address=str(wanted.get(mac, "")),
            address6=str(wanted.get(duid, "")),
            duid=duid,
            mtu=link.unusual_mtu(self.sysfs, network.bridge),
            bandwidth=self.bandwidth,
        )
        return spoofing.guarded(made, nic, networks) if self.antispoof else made

    def release(
        self,
        machine_id: str,
        nic: pb.NetworkInterface,
        mac: str,
        networks: Networks,
        made: NicBackend | None = None,
        then: pb.NetworkInterface | None = None,
    ) -> None:
        name = made.network if made else self._name(nic)
        held = self._asked(nic, mac, made)
        if then is not None and (self._name(then), self._asked(then, mac, made)) == (name, held):
            return
        if held and (network := networks.network(name)) is not None:
            self.reserving.give_up(machine_id, network, mac, held, networks)
        networks.end_leases(name, mac)

    def is_lost(self, mac: str) -> bool:
        return self.reserving.is_lost(mac)

    def busy_until(self, mac: str) -> int | None:
        return self.reserving.busy_until(mac)

    def _to_reserve(self, network: Network, nic: pb.NetworkInterface, mac: str) -> dict[str, Address]:
        """What DHCP is to give, by client; nothing of a family that this network has no subnet of. Raises InvalidSpec.

        An address of IPv6 needs a server that gives it: without one, and without a DUID, it is for the guest to set.
        """
        found: dict[str, Address] = {}
        address, address6 = addresses.by_dhcp(nic), addresses.by_dhcp6(nic)
        duid = self._duid(nic)
        if address is not None and any(isinstance(each.interface, IPv4Interface) for each in network.subnets):
            found[mac] = address
        if address6 is not None and duid and _served(network, address6):
            found[duid] = address6
        return found

    def _asked(self, nic: pb.NetworkInterface, mac: str, made: NicBackend | None) -> dict[str, Address]:
        """What may have been reserved; nothing of what an earlier version let in, for which nothing was."""
        try:
            address, address6 = addresses.by_dhcp(nic), addresses.by_dhcp6(nic)
        except InvalidSpec:
            return {}
        duid = made.duid if made else self._duid(nic)
        asked: dict[str, Address | None] = {mac: address, duid: address6 if duid else None}
        return {client: each for client, each in asked.items() if each is not None}

    def _duid(self, nic: pb.NetworkInterface) -> str:
        """By what its DHCPv6 client is known; "" of one that cannot be: it was attached before the map let it count."""
        try:
            return attributes.of(nic, self.allow).duid
        except InvalidSpec:
            return ""

    def _name(self, nic: pb.NetworkInterface) -> str:
        """The libvirt network that is meant."""
        return self.network or nic.network_id.removeprefix(SCHEME)


def _served(network: Network, address: Address) -> list[Subnet]:
    """The subnets of an address's family of which DHCP gives addresses."""
    return [each for each in network.subnets if each.serves and each.interface.version == address.version]


def _check(network: Network, client: str, address: Address, networks: Networks) -> None:
    """Raise NotReady for an address that the guest would not get."""
    called = f"the libvirt network {printable.quote(network.name)}"
    subnet, served = subnet_of(network, address), _served(network, address)
    if subnet is None or (served and subnet not in served):
        there = served or [each for each in network.subnets if each.interface.version == address.version]
        subnets = ", ".join(str(each.interface.network) for each in there)
        raise NotReady(f"{called} gives no address outside {subnets}, and {address} is", addresses.OTHER_ADVICE)
    within = subnet.interface.network
    if address == subnet.interface.ip:
        raise NotReady(f"{address} is the address of {called} itself", addresses.OTHER_ADVICE)
    wide = within.max_prefixlen - within.prefixlen >= _LEAST_HOSTS
    last = within.broadcast_address if isinstance(within, IPv4Network) else None
    if wide and address in (within.network_address, last):
        raise NotReady(f"{address} stands for all of {within}, no interface can have it", addresses.OTHER_ADVICE)
    known_by = "MAC" if isinstance(address, IPv4Address) else "DUID"
    for each in sorted(network.all_reservations, key=lambda one: (one.client, one.name)):
        if each.address == address and each.client != client:
            holder = f"the {known_by} {each.client}" if each.client else f"the host {printable.quote(each.name)}"
            raise AddressHeld(str(address), f"{called} keeps it for {holder}", each.client)
    for lease in networks.leases(network.name):
        if lease.address == address and lease.holder != client:
            raise AddressHeld(str(address), f"{called} has leased it to the {known_by} {lease.holder}", lease.holder)
