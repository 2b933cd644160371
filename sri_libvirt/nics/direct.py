"""NICs on a device of the host that they share by macvtap, which the operator's network map alone can name.

The host itself and its guests do not reach each other by it: that is macvtap's way. libvirt cannot filter there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from sri_libvirt import printable
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DirectMode, NicBackend
from sri_libvirt.errors import NotReady
from sri_libvirt.host import link
from sri_libvirt.nics import map_values, mapped
from sri_libvirt.nics.base import Parameter
from sri_libvirt.nics.mapped import LinkNics


@dataclass(frozen=True, slots=True)
class DirectNics(LinkNics):
    """The NIC driver for one device."""

    device: str = ""
    mode: DirectMode = "bridge"

    name = "direct"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "device": Parameter(map_values.link_name, required=True),
        "mode": Parameter(map_values.mode),
        "bandwidth": mapped.BANDWIDTH,
        "allow": mapped.allow("mac", "queues"),
    }

    def handle(self, machine_id: str, nic: pb.NetworkInterface) -> str:
        return mapped.handle(self.name, self.device, machine_id, nic)

    def joined(self, machine_id: str, nic: pb.NetworkInterface) -> NicBackend:
        if self.sysfs is not None and not link.is_there(self.sysfs, self.device):
            raise NotReady(
                f"there is no network device {printable.quote(self.device)} on this host",
                "See `ip link`; let it come back, or mend its entry in --network-map.",
            )
        return NicBackend(
            handle=self.handle(machine_id, nic),
            kind="direct",
            device=self.device,
            mode=self.mode,
            bandwidth=self.bandwidth,
        )
