"""The drivers of the example distribution. Installed as a module of its own: it imports nothing of the tests.

A volume is a qcow2 file in a directory that stands for a backend: `attributes["directory"]`, `attributes["size"]`, and
the handle as its name. It needs the credential `key`, and is never removed: a backend's data is not ours. A locked one
is a LUKS disk at `attributes["path"]` that somebody else has made, of `attributes["size"]` bytes as a guest sees it.
"""

from __future__ import annotations

from pathlib import Path

from sri_libvirt import names, qcow2
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DiskSource, Encryption, NicBackend, SecretPurpose, SecretReference
from sri_libvirt.errors import InvalidSpec, NotReady
from sri_libvirt.hypervisor.networks import Networks
from sri_libvirt.paths import MachinePaths


class FileVolumes:
    """The volume driver for `connection.driver: example-file`."""

    name = "example-file"

    def supports(self, volume: pb.Volume) -> bool:
        return volume.HasField("connection") and volume.connection.driver == self.name

    def validate(self, volume: pb.Volume) -> None:
        if not volume.connection.handle.isalnum():
            raise InvalidSpec("connection.handle", "must be letters and digits")
        if not volume.connection.attributes.get("size", "").isdecimal():
            raise InvalidSpec("connection.attributes", "must have a size in bytes")

    def handle(self, machine_id: str, volume: pb.Volume) -> str:
        return f"{self.name}/{volume.connection.handle}"

    def prepare(self, machine_id: str, volume: pb.Volume, paths: MachinePaths) -> DiskSource:
        connection = volume.connection
        backend = Path(connection.attributes.get("directory", ""))
        if not backend.is_dir():
            raise NotReady(f"the backend of volume {volume.name!r} is not there", "Bring it up.")
        if not connection.secret_data.get("key"):
            raise NotReady(f"volume {volume.name!r} has no key", "Add it to the volume's secret.")
        path, size = backend / f"{connection.handle}.qcow2", int(connection.attributes["size"])
        if not path.exists():
            qcow2.make(path, size)
        return DiskSource(handle=self.handle(machine_id, volume), path=str(path), format="qcow2", size=size)

    def release(self, machine_id: str, volume: pb.Volume, paths: MachinePaths, *, final: bool) -> None:
        """The data is the backend's."""


class LockedVolumes:
    """The volume driver for `connection.driver: example-locked`."""

    name = "example-locked"

    def supports(self, volume: pb.Volume) -> bool:
        return volume.HasField("connection") and volume.connection.driver == self.name

    def validate(self, volume: pb.Volume) -> None:
        if not volume.connection.encryption_data.get("key"):
            raise InvalidSpec("connection.encryption_data", "must have a key")

    def handle(self, machine_id: str, volume: pb.Volume) -> str:
        return f"{self.name}/{volume.connection.handle}"

    def prepare(self, machine_id: str, volume: pb.Volume, paths: MachinePaths) -> DiskSource:
        attributes = volume.connection.attributes
        return DiskSource(
            handle=self.handle(machine_id, volume),
            path=attributes["path"],
            format="raw",
            size=int(attributes["size"]),
            encryption=Encryption("qemu", "luks"),
            secrets=(SecretReference("encryption", names.secret_uuid(machine_id, volume.name, "encryption")),),
        )

    def secrets(self, volume: pb.Volume) -> dict[SecretPurpose, bytes]:
        return {"encryption": volume.connection.encryption_data["key"]}

    def release(self, machine_id: str, volume: pb.Volume, paths: MachinePaths, *, final: bool) -> None:
        """The disk is somebody else's."""


class Links:
    """The NIC driver for `example://NAME`: a link without peers, by a tap of the NIC's name that the operator made."""

    name = "example-link"

    def supports(self, nic: pb.NetworkInterface) -> bool:
        return nic.network_id.startswith("example://")

    def validate(self, nic: pb.NetworkInterface) -> None:
        if nic.network_id == "example://":
            raise InvalidSpec("network_id", "names no network")

    def handle(self, machine_id: str, nic: pb.NetworkInterface) -> str:
        return f"{nic.network_id}/{machine_id}/{nic.name}"

    def prepare(self, machine_id: str, nic: pb.NetworkInterface, mac: str, networks: Networks) -> NicBackend:
        return NicBackend(handle=self.handle(machine_id, nic), kind="isolated", device=f"ex{nic.name}"[:15])

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
