"""NICs on a bridge of Open vSwitch, which the operator's network map alone can name.

libvirt makes the port, with the interface id by which a controller (OVN, for one) knows it; what it may send is that
controller's affair, for neither libvirt nor we can filter there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sri_libvirt import names, printable
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import NicBackend
from sri_libvirt.errors import NotReady
from sri_libvirt.host import link
from sri_libvirt.nics import map_values, mapped
from sri_libvirt.nics.base import Parameter
from sri_libvirt.nics.mapped import LinkNics


@dataclass(frozen=True, slots=True)
class OvsNics(LinkNics):
    """The NIC driver for one bridge of Open vSwitch."""

    bridge: str = ""
    vlan: int = 0
    trunk: tuple[int, ...] = ()
    run: Path = link.OPEN_VSWITCH

    name = "ovs"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "bridge": Parameter(map_values.link_name, required=True),
        "vlan": Parameter(map_values.vlan),
        "trunk": Parameter(map_values.vlan, many=True),
        "bandwidth": mapped.BANDWIDTH,
        "allow": mapped.allow("mac", "queues"),
    }
    exclusive: ClassVar[Sequence[str]] = ("vlan", "trunk")

    def handle(self, machine_id: str, nic: pb.NetworkInterface) -> str:
        """It ends with the interface id, so that whoever drives the switch finds the port by the API's provider id."""
        return f"{self.name}://{self.bridge}/{names.interface_id(machine_id, nic.name)}"

    def joined(self, machine_id: str, nic: pb.NetworkInterface) -> NicBackend:
        if self.sysfs is not None and not link.is_there(self.sysfs, self.bridge):
            raise NotReady(
                f"there is no bridge {printable.quote(self.bridge)} of Open vSwitch on this host, or it does not run",
                "See `ovs-vsctl show`; make it, start Open vSwitch, or mend its entry in --network-map.",
            )
        if self.sysfs is not None and link.runs_open_vswitch(self.run) is False:
            # A plug would fail after seconds, and libvirt leave its port in the database.
            raise NotReady("Open vSwitch does not run on this host", "Start it: systemctl start openvswitch-switch")
        if self.sysfs is not None and link.is_bridge(self.sysfs, self.bridge):
            raise NotReady(
                f"{printable.quote(self.bridge)} is a bridge of Linux, not of Open vSwitch",
                "Let its entry in --network-map say driver: bridge.",
            )
        return NicBackend(
            handle=self.handle(machine_id, nic),
            kind="ovs",
            bridge=self.bridge,
            vlan=self.vlan,
            trunk=self.trunk,
            interface_id=names.interface_id(machine_id, nic.name),
            mtu=link.unusual_mtu(self.sysfs, self.bridge),
            bandwidth=self.bandwidth,
        )
