"""What NIC drivers share that the operator's network map alone can choose, and that make nothing by themselves.

What a NIC of theirs is joined to is each driver's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from sri_libvirt import names
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import Bandwidth, NicBackend
from sri_libvirt.hypervisor.networks import Networks
from sri_libvirt.nics import attributes, map_values
from sri_libvirt.nics.base import Parameter

BANDWIDTH = Parameter(
    map_values.bandwidth,
    parts={
        "average": Parameter(map_values.kibibytes, required=True),
        "peak": Parameter(map_values.kibibytes),
        "burst": Parameter(map_values.kibibytes),
    },
)


def allow(*known: str) -> Parameter:
    """`allow` of the network map: which of these attributes tenants may set."""
    return Parameter(map_values.attribute(*known), many=True)


@dataclass(frozen=True, slots=True)
class MappedNics:
    """The NIC driver for what one entry of the map says, or, without one, for none. Without `sysfs` nobody looks
    whether it is there."""

    sysfs: Path | None = None
    allow: tuple[str, ...] = ()
    bandwidth: Bandwidth | None = None

    def bound(self, values: Mapping[str, Any]) -> Self:
        return replace(self, **values)

    def supports(self, nic: pb.NetworkInterface) -> bool:  # noqa: ARG002 of the contract
        return False

    def validate(self, nic: pb.NetworkInterface) -> None:
        """Which id leads here is the map's affair."""
        attributes.of(nic, self.allow)

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


@dataclass(frozen=True, slots=True)
class LinkNics(MappedNics, ABC):
    """One whose links need nothing of libvirt's networks, and are the same whatever the MAC."""

    @abstractmethod
    def joined(self, machine_id: str, nic: pb.NetworkInterface) -> NicBackend:
        """What the interface is joined to. Raises NotReady."""

    def prepare(
        self,
        machine_id: str,
        nic: pb.NetworkInterface,
        mac: str,  # noqa: ARG002 of the contract
        networks: Networks,  # noqa: ARG002
    ) -> NicBackend:
        return self.joined(machine_id, nic)


def handle(kind: str, place: str, machine_id: str, nic: pb.NetworkInterface) -> str:
    """A handle of such a driver: what it is joined to, and an end that no other interface has."""
    return f"{kind}://{place}/{names.digest(machine_id, nic.name, length=16)}"
