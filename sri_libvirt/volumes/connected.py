"""What the drivers of connected volumes have in common: storage that others keep, named by a VolumeConnection.

A driver says where such a volume is (`source`, of its message alone) and with which secrets it is opened; here that is
checked in the RPC, and before QEMU is given it: what of this host may be named by it (`_settle`, where there is such a
thing), then whether its backend answers (`Asking`). Nothing is made, so nothing is undone; what was found out about it
is forgotten at its release. Where backends are asked does not belong here (`probing.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import replace
from typing import Literal

from sri_libvirt import names
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DiskSource, Encryption, SecretPurpose, SecretReference
from sri_libvirt.errors import NotReady
from sri_libvirt.paths import MachinePaths
from sri_libvirt.volumes import connection
from sri_libvirt.volumes.base import Asking, Found


class ConnectedVolumes(ABC):
    """A driver by the word in `connection.driver`. Without `asking` it prepares nothing: for machines that are only
    planned."""

    name: str
    engine: Literal["qemu", "librbd"] = "qemu"
    """Who undoes a volume's encryption."""

    def __init__(self, asking: Asking | None = None) -> None:
        self._asking = asking

    def supports(self, volume: pb.Volume) -> bool:
        return volume.HasField("connection") and volume.connection.driver == self.name

    def validate(self, volume: pb.Volume) -> None:
        connection.check_handle(volume)
        self.source("", volume)

    def handle(self, machine_id: str, volume: pb.Volume) -> str:  # noqa: ARG002 of the contract
        return f"{self.name}/{volume.connection.handle}"

    @abstractmethod
    def source(self, machine_id: str, volume: pb.Volume) -> DiskSource:
        """Where the volume is, as far as its message says: of no size yet, its encryption wanted and not seen.

        Raises InvalidSpec, relative to the volume.
        """

    def secrets(self, volume: pb.Volume) -> dict[SecretPurpose, bytes]:
        """What the volume is opened with, ready for libvirt. To be asked for at the moment of use, and kept nowhere.

        Raises InvalidSpec.
        """
        passphrase = connection.passphrase(volume, self.engine)
        return {} if passphrase is None else {"encryption": passphrase}

    def prepare(self, machine_id: str, volume: pb.Volume, paths: MachinePaths) -> DiskSource:  # noqa: ARG002
        """The volume, once its backend has answered for it a moment ago. Raises NotReady."""
        return self._found(machine_id, volume, plugged=False)

    def prepare_plugged(self, machine_id: str, volume: pb.Volume) -> DiskSource:
        """The same of one that the machine's guest has open, so that it is in use. Raises NotReady, never a timed one:
        `busy_until` tells of volumes that are to be plugged."""
        try:
            return self._found(machine_id, volume, plugged=True)
        except NotReady as error:
            raise NotReady(str(error), error.advice) from error

    def look(self, machine_id: str, volume: pb.Volume, since: int = 0) -> Found:
        """How the volume is that a guest has open, as its backend has answered a moment ago, asked since then.

        Raises NotReady.
        """
        return self._ask(machine_id, volume, plugged=True, since=since)[1]

    def size_of(self, machine_id: str, volume: pb.Volume) -> int:
        """The bytes that the last such look found; 0 if there was none."""
        return self._asking.size_of(_key(machine_id, volume)) if self._asking is not None else 0

    def release(self, machine_id: str, volume: pb.Volume, paths: MachinePaths, *, final: bool) -> None:  # noqa: ARG002
        """Nothing was made; the storage is others'."""
        if self._asking is not None:
            self._asking.forget(_key(machine_id, volume))

    def busy_until(self, machine_id: str, volume: pb.Volume) -> int | None:
        """Until when it is of no use to prepare the volume again; None where nothing is known of it."""
        return self._asking.busy_until(_key(machine_id, volume)) if self._asking is not None else None

    def _found(self, machine_id: str, volume: pb.Volume, *, plugged: bool) -> DiskSource:
        source, found = self._ask(machine_id, volume, plugged=plugged)
        return replace(source, size=found.size, encryption=found.encryption)

    def _ask(self, machine_id: str, volume: pb.Volume, *, plugged: bool, since: int = 0) -> tuple[DiskSource, Found]:
        if self._asking is None:
            raise NotReady("this process asks no backend for volumes: it only plans")
        source = self._settle(self.source(machine_id, volume))
        key, secrets = _key(machine_id, volume), self.secrets(volume)
        return source, self._asking.ready(machine_id, key, source, secrets, plugged=plugged, since=since)

    def _settle(self, source: DiskSource) -> DiskSource:
        """The source as this host has it. Raises NotReady for what the operator does not let a volume name."""
        return source

    def _blank(self, machine_id: str, volume: pb.Volume) -> DiskSource:
        """A source with all but its place."""
        purposes = sorted(self.secrets(volume))
        return DiskSource(
            handle=self.handle(machine_id, volume),
            path="",
            format="raw",
            size=0,
            encryption=Encryption(self.engine, "luks") if "encryption" in purposes else None,
            secrets=tuple(SecretReference(each, names.secret_uuid(machine_id, volume.name, each)) for each in purposes),
        )


def _key(machine_id: str, volume: pb.Volume) -> Hashable:
    """Names a volume of a machine to who is asked for it."""
    return "volume", machine_id, volume.name
