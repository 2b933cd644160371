"""Disks: from prepared attachments to virtio disks behind their root ports.

What is on a disk and where it came from does not belong here.
"""

from __future__ import annotations

from collections.abc import Sequence

from sri_libvirt.devices import DiskSource, Encryption, SecretPurpose
from sri_libvirt.domain.spec import Disk, DiskAuth, DiskEncryption, NetworkDisk
from sri_libvirt.records import Attachment


def by_device(row: Attachment) -> tuple[int, str]:
    """Sorts volumes in device-name order: vda … vdz, vdaa …"""
    return (len(row.target), row.target)


def boot_row(rows: Sequence[Attachment]) -> Attachment | None:
    """What the firmware boots: the image's disk, else the first volume by device name. Never the seed."""
    image = next((row for row in rows if row.kind == "image"), None)
    return image or min((row for row in rows if row.kind == "volume"), key=by_device, default=None)


def build(rows: Sequence[Attachment]) -> tuple[Disk, ...]:
    """The disks among these attachments, in the order of their ports."""
    boot = boot_row(rows)
    disks = [one(row, boot_order=1 if row is boot else 0) for row in rows if isinstance(row.backing, DiskSource)]
    return tuple(sorted(disks, key=lambda disk: disk.port))


def one(row: Attachment, boot_order: int = 0) -> Disk:
    """The disk of one prepared attachment that has a port. Raises ValueError for a source that lacks what it needs."""
    source = row.backing
    assert isinstance(source, DiskSource)
    return Disk(
        alias=row.alias,
        target=row.target,
        serial=row.serial,
        path=source.path,
        format=source.format,
        read_only=source.read_only,
        backing=source.backing,
        port=row.port,
        boot_order=boot_order,
        kind=source.kind,
        network=_network(source) if source.kind == "network" else None,
        encryption=_encryption(source, source.encryption) if source.encryption else None,
        settings=source.settings,
    )


def _network(source: DiskSource) -> NetworkDisk:
    if not source.protocol:
        raise ValueError(f"{source.handle}: a network disk without a protocol")
    return NetworkDisk(
        protocol=source.protocol,
        name=source.name,
        hosts=tuple(host.by(source.protocol) for host in source.hosts),
        config=source.config,
        tls=source.tls,
        reconnect=source.reconnect,
        initiator=source.initiator,
        auth=_auth(source) if source.user else None,
    )


def _auth(source: DiskSource) -> DiskAuth:
    return DiskAuth(source.user, "ceph" if source.protocol == "rbd" else "iscsi", secret=_secret(source, "auth"))


def _encryption(source: DiskSource, asked: Encryption) -> DiskEncryption:
    return DiskEncryption(asked.engine, asked.format, secret=_secret(source, "encryption"))


def _secret(source: DiskSource, purpose: SecretPurpose) -> str:
    found = next((each.uuid for each in source.secrets if each.purpose == purpose), "")
    if not found:
        raise ValueError(f"{source.handle}: no secret is named for its {purpose}")
    return found
