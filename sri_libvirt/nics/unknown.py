"""NICs whose network id nobody takes: they wait. An error would stop all that the poollet asks of their machine
(contract G.8), and the operator's network map can be mended.
"""

from __future__ import annotations

from sri_libvirt import printable
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import NicBackend
from sri_libvirt.errors import NotReady
from sri_libvirt.hypervisor.networks import Networks


class UnknownNics:
    """The NIC driver that never has one ready."""

    name = "unknown"

    def supports(self, nic: pb.NetworkInterface) -> bool:  # noqa: ARG002 of the contract
        return False

    def validate(self, nic: pb.NetworkInterface) -> None:
        """Nothing is known of it."""

    def handle(self, machine_id: str, nic: pb.NetworkInterface) -> str:  # noqa: ARG002 of the contract
        """None, as long as nobody can say what it would be."""
        return ""

    def prepare(
        self,
        machine_id: str,  # noqa: ARG002 of the contract
        nic: pb.NetworkInterface,
        mac: str,  # noqa: ARG002
        networks: Networks,  # noqa: ARG002
    ) -> NicBackend:
        raise NotReady(
            f"nobody takes its network id {printable.quote(nic.network_id)}",
            "Give --network-map an entry for it and restart the provider. Without one there are isolated, and "
            "network://NAME or NAME, a libvirt network.",
        )

    def release(
        self,
        machine_id: str,
        nic: pb.NetworkInterface,
        mac: str,
        networks: Networks,
        made: NicBackend | None = None,
        then: pb.NetworkInterface | None = None,
    ) -> None:
        """Nothing was made."""
