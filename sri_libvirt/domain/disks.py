"""Disks: from prepared attachments to virtio disks behind their root ports.

What is on a disk and where it came from does not belong here.
"""

from __future__ import annotations

from collections.abc import Sequence

from sri_libvirt.devices import DiskSource
from sri_libvirt.domain.spec import Disk
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
    """The disk of one prepared attachment that has a port."""
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
    )
