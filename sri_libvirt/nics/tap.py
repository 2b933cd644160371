"""NICs on a tap that somebody else has made, which the operator's network map alone can name: for one guest at a time.

Who makes it sets it up, and says what is behind it and what may be sent; it is left alone, also when its guest is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from sri_libvirt import printable
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import NicBackend
from sri_libvirt.errors import NotReady
from sri_libvirt.host import link
from sri_libvirt.nics import map_values, mapped
from sri_libvirt.nics.base import Parameter
from sri_libvirt.nics.mapped import LinkNics


@dataclass(frozen=True, slots=True)
class TapNics(LinkNics):
    """The NIC driver for one tap."""

    device: str = ""

    name = "tap"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "device": Parameter(map_values.link_name, required=True),
        "allow": mapped.allow("mac"),
    }

    def handle(self, machine_id: str, nic: pb.NetworkInterface) -> str:
        return mapped.handle(self.name, self.device, machine_id, nic)

    def joined(self, machine_id: str, nic: pb.NetworkInterface) -> NicBackend:
        if self.sysfs is not None and not link.is_tap(self.sysfs, self.device):
            raise NotReady(
                f"there is no tap {printable.quote(self.device)} on this host",
                f"Make it: ip tuntap add {self.device} mode tap. Or mend its entry in --network-map.",
            )
        return NicBackend(
            handle=self.handle(machine_id, nic),
            kind="tap",
            device=self.device,
            mtu=link.unusual_mtu(self.sysfs, self.device),
            queues=1,
        )
