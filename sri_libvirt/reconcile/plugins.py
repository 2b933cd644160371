"""The drivers of every device, chosen by their registries: what the loop performs with and the RPCs check with.

How a driver works does not belong here, nor which drivers there are (that is each room's `registry.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DiskSource, ImagePin, NicBackend, SecretPurpose
from sri_libvirt.errors import InvalidSpec
from sri_libvirt.images import boot
from sri_libvirt.images.local import path_of
from sri_libvirt.images.overlay import Overlays
from sri_libvirt.images.registry import ImageAccess, ImageRegistry
from sri_libvirt.nics import addresses
from sri_libvirt.nics.attributes import Attributes
from sri_libvirt.nics.base import NicDriver
from sri_libvirt.nics.registry import LinkAccess, NicRegistry
from sri_libvirt.paths import MachinePaths
from sri_libvirt.records import Attachment, Machine
from sri_libvirt.resources import Claim
from sri_libvirt.volumes.base import Found, VolumeDriver
from sri_libvirt.volumes.registry import HostAccess, VolumeRegistry


class PluginTables:
    """All drivers of this process. Raises ConfigError when a third party's cannot be loaded.

    Without `links.taps` no network device is made, and without `access.asking` no volume's backend is asked: for
    machines that are only planned.
    """

    def __init__(
        self,
        images: ImageAccess,
        access: HostAccess | None = None,
        links: LinkAccess | None = None,
    ) -> None:
        self._images = ImageRegistry.load(images)
        self._overlays = Overlays(images.looks)
        self._volumes = VolumeRegistry.load(access=access)
        self._nics = NicRegistry.load(access=links)

    def check_volume(self, volume: pb.Volume) -> None:
        """Raise InvalidSpec, its path relative to the volume, for what is wrong in itself."""
        self._volumes.select(volume).validate(volume)

    def check_nic(self, nic: pb.NetworkInterface) -> None:
        """The same for a network interface; one without a network_id waits for it and is right (contract G.13)."""
        addresses.of(nic)
        if nic.network_id:
            self._nics.select(nic).validate(nic)

    def check_image(self, image: str) -> None:
        """The same for an image reference."""
        self._images.select(image)

    def unresolved(self, row: Attachment) -> bool:
        """Whether it is still to be learned what an image's reference means: a path says so itself."""
        return row.kind == "image" and row.image is None and bool(row.reference) and path_of(row.reference) is None

    def resolve_image(self, machine: Machine) -> ImagePin:
        """What a machine's image reference means now. Raises NotReady."""
        reference = machine.spec.image.image
        pin = self._images.select(reference).resolve(reference, machine.id)
        assert pin is not None
        return pin

    def image_disk(self, machine: Machine, row: Attachment, paths: MachinePaths) -> DiskSource:
        """A machine's boot disk, made unless it is there, and what it boots besides. Raises NotReady."""
        reference, size = machine.spec.image.image, machine.machine_class.policy.root_disk_bytes
        made = row.backing if isinstance(row.backing, DiskSource) else None
        before = self._overlays.before(paths.image_disk, made)
        base = self._images.select(reference).base(reference, row.image, machine.id, before)
        boot.copy(base, paths)
        return self._overlays.prepare(base, reference, paths.image_disk, size, made)

    def remove_image_disk(self, paths: MachinePaths) -> None:
        """Both are gone then."""
        self._overlays.remove(paths.image_disk)
        boot.remove(paths)

    def volume(self, row: Attachment) -> VolumeDriver:
        return self._volumes.select(row.volume())

    def nic(self, row: Attachment) -> NicDriver:
        """The driver that a NIC's network id leads to now."""
        return self._nics.select(row.nic())

    def nic_made(self, row: Attachment) -> NicDriver:
        """The driver that has prepared a NIC, if one has: the network map may have changed since."""
        return self._nics.of(row.nic(), row.backing if isinstance(row.backing, NicBackend) else None)

    def nic_attributes(self, row: Attachment) -> Attributes:
        """What the tenant of a NIC may say of it, and does."""
        return self._nics.attributes(row.nic())

    def mac_asked(self, nic: pb.NetworkInterface) -> str:
        """The MAC that a tenant gives a NIC, if the network map lets them; "" else."""
        return self._nics.attributes(nic).mac if nic.network_id else ""

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
        if row.kind == "image":
            return self._image_busy_until(row)
        if row.kind == "nic":
            return self._nic_busy_until(row)
        asked: Callable[[str, pb.Volume], int | None] | None = self._method(row, "busy_until")
        return asked(row.machine, row.volume()) if asked else None

    def _image_busy_until(self, row: Attachment) -> int | None:
        if not row.reference:
            return None  # an older version made it, which fetched nothing
        asked: Callable[[str, ImagePin | None, str], int | None] | None
        asked = getattr(self._images.select(row.reference), "busy_until", None)
        return asked(row.reference, row.image, row.problem) if asked else None

    def _nic_busy_until(self, row: Attachment) -> int | None:
        asked: Callable[[str], int | None] | None
        try:
            asked = getattr(self.nic_made(row), "busy_until", None)
        except InvalidSpec:
            return None  # it is gone
        return asked(row.mac) if asked else None

    def is_lost(self, row: Attachment) -> bool:
        """Whether something that a NIC was prepared with is gone by somebody else's doing, or was when it was tried
        last to put it back.
        """
        if row.kind != "nic" or row.backing is None:
            return False
        asked: Callable[[str], bool] | None = None
        with suppress(InvalidSpec):
            asked = getattr(self.nic_made(row), "is_lost", None)
        return asked is not None and (bool(row.problem) or asked(row.mac))

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
