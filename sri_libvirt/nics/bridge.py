"""NICs on a Linux bridge of the host, which the operator's network map alone can name.

The bridge is the operator's, and so is the host's place on it: it is never made, and its ports other than our guests'
are not touched. Addresses are given by whoever is on it. Traffic of guests does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from sri_libvirt import printable
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import NicBackend
from sri_libvirt.errors import NotReady
from sri_libvirt.host import link
from sri_libvirt.hypervisor.networks import Networks
from sri_libvirt.nics import map_values, mapped, spoofing
from sri_libvirt.nics.base import Parameter
from sri_libvirt.nics.mapped import MappedNics

VLANS_SINCE = 11_000_000
"""The first libvirt that puts the tap of a guest into a VLAN of a Linux bridge; older ones refuse it."""


@dataclass(frozen=True, slots=True)
class BridgeNics(MappedNics):
    """The NIC driver for one bridge."""

    libvirt_version: Callable[[], int] = lambda: 0
    bridge: str = ""
    vlan: int = 0
    isolated_ports: bool = False
    antispoof: bool = True

    name = "bridge"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "bridge": Parameter(map_values.link_name, required=True),
        "vlan": Parameter(map_values.vlan),
        "isolated_ports": Parameter(map_values.switch),
        "antispoof": spoofing.PARAMETER,
        "bandwidth": mapped.BANDWIDTH,
        "allow": mapped.allow("mac", "queues"),
    }

    def handle(self, machine_id: str, nic: pb.NetworkInterface) -> str:
        return mapped.handle(self.name, self.bridge, machine_id, nic)

    def prepare(
        self,
        machine_id: str,
        nic: pb.NetworkInterface,
        mac: str,  # noqa: ARG002 of the contract
        networks: Networks,
    ) -> NicBackend:
        if self.sysfs is not None and not link.is_bridge(self.sysfs, self.bridge):
            raise NotReady(
                f"there is no bridge {printable.quote(self.bridge)} on this host",
                "See `ip -d link show type bridge`; make it, or mend its entry in --network-map.",
            )
        version = self.libvirt_version()
        if self.vlan and version and version < VLANS_SINCE:
            raise NotReady(
                f"the libvirt of this host ({_words(version)}) cannot put a guest into VLAN {self.vlan} of a Linux "
                "bridge, 11.0 can",
                "Let the map name a bridge that is in this VLAN alone, or a bridge of Open vSwitch.",
            )
        made = NicBackend(
            handle=self.handle(machine_id, nic),
            kind="bridge",
            bridge=self.bridge,
            vlan=self.vlan,
            isolated_port=self.isolated_ports,
            mtu=link.unusual_mtu(self.sysfs, self.bridge),
            bandwidth=self.bandwidth,
        )
        return spoofing.guarded(made, nic, networks) if self.antispoof else made


def _words(version: int) -> str:
    return f"{version // 1_000_000}.{version // 1000 % 1000}"
