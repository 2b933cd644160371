"""NICs without peers, `isolated`: the guest has a NIC with link, and nothing is at the other end (contract G.13).

Addresses are for the guest to set: nobody is there who could give or refuse them.

The other end is a tap of the host that is never up (`hypervisor/taps.py`). Networks of any kind do not belong here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from sri_libvirt import names
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import NicBackend
from sri_libvirt.hypervisor.base import NoTaps, Taps
from sri_libvirt.hypervisor.networks import Networks
from sri_libvirt.nics import mapped
from sri_libvirt.nics.base import Parameter
from sri_libvirt.nics.mapped import MappedNics


@dataclass(frozen=True, slots=True)
class IsolatedNics(MappedNics):
    """The NIC driver for `isolated`."""

    taps: Taps = field(default_factory=NoTaps)

    name = "isolated"
    parameters: ClassVar[Mapping[str, Parameter]] = {"allow": mapped.allow("mac")}

    def supports(self, nic: pb.NetworkInterface) -> bool:
        return nic.network_id == "isolated"

    def handle(self, machine_id: str, nic: pb.NetworkInterface) -> str:
        return f"isolated://{names.digest(machine_id, nic.name, length=16)}"

    def prepare(
        self,
        machine_id: str,
        nic: pb.NetworkInterface,
        mac: str,  # noqa: ARG002 of the contract
        networks: Networks,  # noqa: ARG002
    ) -> NicBackend:
        device = tap_name(machine_id, nic)
        self.taps.make(device)
        return NicBackend(handle=self.handle(machine_id, nic), kind="isolated", device=device, queues=1)

    def release(
        self,
        machine_id: str,
        nic: pb.NetworkInterface,
        mac: str,  # noqa: ARG002 of the contract
        networks: Networks,  # noqa: ARG002
        made: NicBackend | None = None,  # noqa: ARG002
        then: pb.NetworkInterface | None = None,  # noqa: ARG002
    ) -> None:
        self.taps.remove(tap_name(machine_id, nic))


def tap_name(machine_id: str, nic: pb.NetworkInterface) -> str:
    """The tap's name on the host: the 15 characters that the kernel allows."""
    return f"sri{names.digest('tap', machine_id, nic.name, length=12)}"
