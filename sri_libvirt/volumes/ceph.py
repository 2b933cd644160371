"""Ceph block devices: a pool's image, opened by QEMU through librbd (contract D).

`userKey` is base64 text, as `ceph auth get-key` prints it; libvirt and QEMU are given the bytes in it, which QEMU's RBD
driver writes in base64 again for librados. `encryptionKey` is a passphrase and goes to librbd as it is; librbd opens
LUKS of version 1 and 2, as the image's header says.

A configuration file for librados gives it short times to connect in; it is told to QEMU where it exists. Who else has
an image open does not belong here (`probe.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DiskSource, SecretPurpose
from sri_libvirt.volumes import connection
from sri_libvirt.volumes.base import Asking
from sri_libvirt.volumes.connected import ConnectedVolumes

HOT_LIBRBD = 11_003_000
"""The oldest libvirt by which an image that librbd decrypts was plugged into a running guest.

9.0 makes the secret after the disk that needs it ("No secret with id 'libvirt-1-format-encryption-secret0'"), and its
source does so up to 9.9 at least; nobody has tried those between.
"""

_IMAGE = re.compile("[^/@]+/[^/@]+")


class CephVolumes(ConnectedVolumes):
    """The volume driver for `ceph`. `conf` is the file for librados, None for none."""

    name = "ceph"
    engine = "librbd"

    def __init__(
        self, asking: Asking | None = None, conf: Path | None = None, libvirt_version: Callable[[], int] = lambda: 0
    ) -> None:
        super().__init__(asking)
        self._conf = conf
        self._libvirt_version = libvirt_version

    def source(self, machine_id: str, volume: pb.Volume) -> DiskSource:
        image = connection.attribute(volume, "image")
        if not _IMAGE.fullmatch(image):
            raise connection.wrong("image", image, "is no image: write POOL/IMAGE")
        return replace(
            self._blank(machine_id, volume),
            kind="network",
            protocol="rbd",
            name=image,
            hosts=connection.hosts(volume, "monitors"),
            user=connection.name(volume, "userID"),
        )

    def secrets(self, volume: pb.Volume) -> dict[SecretPurpose, bytes]:
        return {"auth": connection.base64_text(volume, "userKey"), **super().secrets(volume)}

    def cold_only(self, volume: pb.Volume) -> str:
        """Why a running guest cannot be given the volume, so that its next cold start brings it; "" when it can be."""
        if not volume.connection.encryption_data or self._libvirt_version() >= HOT_LIBRBD:
            return ""
        return "this host's libvirt cannot plug an encrypted Ceph image into a running guest"

    def _settle(self, source: DiskSource) -> DiskSource:
        if self._conf is None:
            return source
        if self._conf.is_file():
            return replace(source, config=str(self._conf))
        note = (
            f"without {self._conf} a guest stands still for minutes if the monitors go away just when it is given the "
            "volume; deploy/install.sh makes that file"
        )
        return replace(source, note=note)
