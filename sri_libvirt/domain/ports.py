"""Root ports: which device gets which. A port, once given, stays with its attachment for life.

Image = first port, seed = last, so that neither moves a volume. A port is free when no row holds it; a row goes only
when its device is gone from spec and live XML (contract G.12). PCI addresses do not belong here (see `layout.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from sri_libvirt.domain.disks import by_device
from sri_libvirt.records import Attachment, AttachmentKind

Key = tuple[AttachmentKind, str, int]

IMAGE_PORT = 1


def assign(attachments: Sequence[Attachment], ports: int) -> dict[Key, int]:
    """The port of every row: what it has, or for a prepared device without one the lowest free; 0 if there is none.

    `attachments` are all rows of the machine, also those that are on their way out: they hold their ports.
    New volumes go first in device-name order, then new NICs by name.
    """
    assigned = {row.key: row.port for row in attachments}
    kinds = {row.kind for row in attachments}
    taken = {row.port for row in attachments}
    reserved = {IMAGE_PORT} if "image" in kinds else set()
    reserved |= {ports} if "seed" in kinds else set()
    free = iter([port for port in range(1, ports + 1) if port not in taken | reserved])
    for row in sorted((row for row in attachments if not row.port and row.wanted and row.backing), key=_order):
        if row.kind == "image":
            assigned[row.key] = IMAGE_PORT
        elif row.kind == "seed":
            assigned[row.key] = ports
        else:
            assigned[row.key] = next(free, 0)
    return assigned


def _order(row: Attachment) -> tuple[bool, int, str, str]:
    length, target = by_device(row)
    return (row.kind == "nic", length, target, row.name)
