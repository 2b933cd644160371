"""NICs by QEMU's own user networking, for a developer's host: a router in the guest's QEMU process.

Their guests reach what listens on the host's loopback, and whatever the host reaches: so it takes the operator's word,
`--allow-user-net`, besides an entry of the network map.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import NicBackend
from sri_libvirt.errors import NotReady
from sri_libvirt.nics import addresses, mapped
from sri_libvirt.nics.base import Parameter
from sri_libvirt.nics.mapped import LinkNics

NOT_ALLOWED = "user networking lets guests reach this host's loopback: --allow-user-net allows it"


@dataclass(frozen=True, slots=True)
class UserNics(LinkNics):
    """The NIC driver for user networking."""

    allowed: bool = False

    name = "user"
    parameters: ClassVar[Mapping[str, Parameter]] = {"allow": mapped.allow("mac")}

    @property
    def barred(self) -> str:
        return "" if self.allowed else NOT_ALLOWED

    def handle(self, machine_id: str, nic: pb.NetworkInterface) -> str:
        return mapped.handle(self.name, "qemu", machine_id, nic)

    def joined(self, machine_id: str, nic: pb.NetworkInterface) -> NicBackend:
        if addresses.of(nic):
            raise NotReady(
                "user networking gives its guests addresses of its own, and this interface has others",
                "Attach it without ips, or let --network-map lead it elsewhere.",
            )
        return NicBackend(handle=self.handle(machine_id, nic), kind="user", queues=1)
