"""NICs on a libvirt network, `network://NAME` or a bare NAME (contract G.13).

The network is the operator's: it is never made, started or changed here. Addresses do not belong here either.
"""

from __future__ import annotations

import shlex

from sri_libvirt import names, printable
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import NicBackend
from sri_libvirt.errors import InvalidSpec, NotReady
from sri_libvirt.nics.base import NetworkActive

SCHEME = "network://"
ISOLATED = "isolated"
"""The bare word that is no network's name."""


class NetworkNics:
    """The NIC driver for libvirt networks."""

    name = "network"

    def supports(self, nic: pb.NetworkInterface) -> bool:
        reference = nic.network_id
        return reference.startswith(SCHEME) or ("://" not in reference and reference not in ("", ISOLATED))

    def validate(self, nic: pb.NetworkInterface) -> None:
        name = network_name(nic)
        if not name or "/" in name or not name.isprintable():
            raise InvalidSpec("network_id", "names no libvirt network: use network://NAME, NAME without a slash")

    def handle(self, machine_id: str, nic: pb.NetworkInterface) -> str:
        return f"{SCHEME}{network_name(nic)}/{names.digest(machine_id, nic.name, length=16)}"

    def prepare(self, machine_id: str, nic: pb.NetworkInterface, network_active: NetworkActive) -> NicBackend:
        name = network_name(nic)
        active = network_active(name)
        if active is None:
            raise NotReady(
                f"there is no libvirt network {printable.quote(name)}",
                "See `virsh net-list --all`; define it and start it.",
            )
        if not active:
            raise NotReady(
                f"the libvirt network {printable.quote(name)} is not running",
                f"Start it: virsh net-start {shlex.quote(name)}",
            )
        return NicBackend(handle=self.handle(machine_id, nic), kind="network", network=name)

    def release(self, machine_id: str, nic: pb.NetworkInterface) -> None:
        """Nothing was made."""


def network_name(nic: pb.NetworkInterface) -> str:
    """The libvirt network that is meant."""
    return nic.network_id.removeprefix(SCHEME)
