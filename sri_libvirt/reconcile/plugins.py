"""The drivers of every device, chosen by their registries: what the loop performs with and the RPCs check with.

How a driver works does not belong here, nor which drivers there are (that is each room's `registry.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DiskSource, SecretPurpose
from sri_libvirt.errors import InvalidSpec
from sri_libvirt.hypervisor.base import Taps
from sri_libvirt.images.base import ImageDriver
from sri_libvirt.images.registry import ImageRegistry
from sri_libvirt.looks import Looks
from sri_libvirt.nics.base import NicDriver
from sri_libvirt.nics.registry import NicRegistry
from sri_libvirt.paths import MachinePaths
from sri_libvirt.records import Attachment
from sri_libvirt.resources import Claim
from sri_libvirt.volumes.base import Found, VolumeDriver
from sri_libvirt.volumes.registry import HostAccess, VolumeRegistry


class PluginTables:
    """All drivers of this process. Raises ConfigError when a third party's cannot be loaded.

    Without `taps` no network device is made, and without `access.asking` no volume's backend is asked: for machines
    that are only planned.
    """

    def __init__(
        self,
        image_dirs: Sequence[Path],
        looks: Looks | None = None,
        taps: Taps | None = None,
        access: HostAccess | None = None,
    ) -> None:
        self._images = ImageRegistry.load(image_dirs, looks)
        self._volumes = VolumeRegistry.load(access=access)
        self._nics = NicRegistry.load(taps=taps)

    def check_volume(self, volume: pb.Volume) -> None:
        """Raise InvalidSpec, its path relative to the volume, for what is wrong in itself."""
        self._volumes.select(volume).validate(volume)

    def check_nic(self, nic: pb.NetworkInterface) -> None:
        """The same for a network interface; one without a network_id waits for it and is right (contract G.13)."""
        if nic.network_id:
            self._nics.select(nic).validate(nic)

    def check_image(self, image: str) -> None:
        """The same for an image reference."""
        self._images.select(image)

    def image(self, reference: str) -> ImageDriver:
        return self._images.select(reference)

    def volume(self, row: Attachment) -> VolumeDriver:
        return self._volumes.select(row.volume())

    def nic(self, row: Attachment) -> NicDriver:
        return self._nics.select(row.nic())

    def claims_of(self, row: Attachment) -> tuple[Claim, ...]:
        """What a device takes of the host besides what its machine's class does, each claim with its holder."""
        asked: Sequence[Claim] = ()
        if row.kind == "volume":
            asked = _claims(self.volume(row), row.volume())
        elif row.kind == "nic" and row.nic().network_id:
            asked = _claims(self.nic(row), row.nic())
        return tuple(replace(claim, holder=claim.holder or row.alias) for claim in asked)

    def keeps_data(self, row: Attachment, paths: MachinePaths) -> bool:
        """Whether a device that leaves has data that its machine keeps, and with it the claims its driver names."""
        kept: Callable[[pb.Volume, MachinePaths], bool] | None = None
        if row.kind == "volume":
            kept = getattr(self.volume(row), "kept", None)
        return kept(row.volume(), paths) if kept else True

    def busy_until(self, row: Attachment) -> int | None:
        """Until when it is of no use to prepare a device again; None where its driver knows of no slow work for it."""
        asked: Callable[[str, pb.Volume], int | None] | None = self._method(row, "busy_until")
        return asked(row.machine, row.volume()) if asked else None

    def can_look(self, row: Attachment) -> bool:
        """Whether there is a backend that can be asked for a volume."""
        return self._method(row, "look") is not None

    def look(self, row: Attachment, since: int = 0) -> Found | None:
        """How a volume is that a guest has open; None where nobody can ask its backend. Raises NotReady.

        What was asked before `since` does not count.
        """
        look: Callable[[str, pb.Volume, int], Found] | None = self._method(row, "look")
        return look(row.machine, row.volume(), since) if look else None

    def size_of(self, row: Attachment) -> int:
        """The bytes that the latest such look has found, 0 if none has."""
        size_of: Callable[[str, pb.Volume], int] | None = self._method(row, "size_of")
        return size_of(row.machine, row.volume()) if size_of else 0

    def _method(self, row: Attachment, name: str) -> Any:
        """What a volume's driver may have; None where it does not, or is gone."""
        if row.kind != "volume":
            return None
        try:
            return getattr(self.volume(row), name, None)
        except InvalidSpec:
            return None

    def planned(self, row: Attachment) -> DiskSource | None:
        """The source of a volume as far as its message says; None where its driver tells only what is prepared."""
        source: Callable[[str, pb.Volume], DiskSource] | None = getattr(self.volume(row), "source", None)
        return source(row.machine, row.volume()) if source else None

    def cold_only(self, row: Attachment) -> str:
        """Why a running guest cannot be given a device, whose next cold start brings it; "" when it can be."""
        asked: Callable[[pb.Volume], str] | None = self._method(row, "cold_only")
        return asked(row.volume()) if asked else ""

    def secrets_of(self, row: Attachment) -> Mapping[SecretPurpose, bytes]:
        """What a volume is opened with, to be used at once and kept nowhere. Drivers need not have the method."""
        secrets: Callable[[pb.Volume], Mapping[SecretPurpose, bytes]] | None = None
        if row.kind == "volume":
            secrets = getattr(self.volume(row), "secrets", None)
        return secrets(row.volume()) if secrets else {}

    def handle_of(self, row: Attachment) -> str:
        """The status handle of a volume or NIC that is not prepared yet; "" for one without a network."""
        if row.kind == "volume":
            volume = row.volume()
            return self._volumes.select(volume).handle(row.machine, volume)
        nic = row.nic()
        return self._nics.select(nic).handle(row.machine, nic) if nic.network_id else ""


def _claims(driver: object, device: pb.Volume | pb.NetworkInterface) -> Sequence[Claim]:
    """Drivers need not have the method: most take nothing that is counted."""
    claims: Callable[[object], Sequence[Claim]] | None = getattr(driver, "claims", None)
    return claims(device) if claims else ()
