"""What RPCs say of devices that a guest has and the store has lost, because it was put back from a backup.

How such a device is seen and unplugged does not belong here (that is `reconcile/strangers.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from sri_libvirt import names, printable
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import Unavailable
from sri_libvirt.records import GIB, Attachment, AttachmentKind, Machine


class RowOf(Protocol):
    """The row of a volume with this target and incarnation."""

    def __call__(self, *, target: str, incarnation: int) -> Attachment: ...


def looked_at(machine: Machine) -> Machine:
    """The machine, unless nobody can say which devices it has."""
    if machine.run.strangers is None:
        raise Unavailable(
            f"the store was put back from a backup and machine {machine.id} was not looked at since, so which devices "
            "its guest has is not known yet: retry (libvirt must be reached)"
        )
    return machine


def refuse_while_plugged(machine: Machine, kind: AttachmentKind, name: str) -> None:
    """NOT_FOUND would say that the device is free, while the guest has it and only the store has lost it."""
    if stranger := machine.run.stranger(kind, name):
        raise Unavailable(
            f"{printable.quote(name)} is in no record of machine {machine.id}, but its guest has it "
            f"({stranger.alias}); it is being unplugged, retry"
        )


def still_plugged(machine: Machine, volume: pb.Volume, row_of: RowOf) -> Attachment | None:
    """The row that the store has lost of a volume that the guest has still: what runs is the truth, and stays.

    Its serial is made of device, driver and handle; an empty disk is told by its file. Of a NIC the XML says too
    little: it is plugged anew.
    """
    found = machine.run.stranger("volume", volume.name)
    if found is None or (volume.device and names.target_of(volume.device) != found.target):
        return None
    row = row_of(target=found.target, incarnation=names.incarnation_of(found.alias))
    size = volume.empty_disk.size_bytes or GIB
    same = volume.HasField("connection") or found.source.endswith(f"/{names.empty_disk_file(volume.name, size)}")
    others = machine.attachments
    taken = any(each.key == row.key or each.target == row.target or each.port == found.port for each in others)
    return None if taken or not same or found.serial != row.serial else replace(row, port=found.port)
