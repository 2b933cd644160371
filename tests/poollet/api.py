"""The objects of the API server that a poollet reads and writes: machines, volumes, network interfaces.

A test is the user: it changes them, calls `ApiMachine.changed`, and reads the status that came back. What the poollet
makes of them does not belong here.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb


@dataclass
class ApiVolume:
    """A volume as a machine names it, with what its own controllers say about it."""

    name: str
    device: str
    size: int = 0
    connection: pb.VolumeConnection | None = None
    ready: bool = True
    """Whether volume and secrets are there; an empty disk always is."""

    def desired(self) -> pb.Volume:
        volume = pb.Volume(name=self.name, device=self.device)
        if self.connection is None:
            volume.empty_disk.size_bytes = self.size
            volume.empty_disk.SetInParent()
        else:
            volume.connection.CopyFrom(self.connection)
        return volume


@dataclass
class ApiNic:
    """A network interface; `provider_id` is what the poollet writes back."""

    name: str
    network_id: str = ""
    ips: tuple[str, ...] = ()
    attributes: dict[str, str] = field(default_factory=dict)
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    provider_id: str = ""

    def desired(self) -> pb.NetworkInterface:
        return pb.NetworkInterface(name=self.name, network_id=self.network_id, ips=self.ips, attributes=self.attributes)


@dataclass
class ApiStatus:
    """What the user sees of a machine; as of a generation of the API's machine."""

    machine_id: str = ""
    observed_generation: int = 0
    state: str = ""
    volumes: dict[str, tuple[str, str]] = field(default_factory=dict)
    nics: dict[str, str] = field(default_factory=dict)


@dataclass
class ApiMachine:
    """A machine that a user asked for."""

    name: str
    machine_class: str = "c1-m1"
    image: str = ""
    ignition: bytes = b""
    power: pb.Power = pb.POWER_ON
    volumes: list[ApiVolume] = field(default_factory=list)
    nics: list[ApiNic] = field(default_factory=list)
    namespace: str = "default"
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    generation: int = 1
    deleted: bool = False
    status: ApiStatus = field(default_factory=ApiStatus)

    def changed(self) -> None:
        """The spec was changed."""
        self.generation += 1

    def volume(self, name: str) -> ApiVolume:
        return next(volume for volume in self.volumes if volume.name == name)
