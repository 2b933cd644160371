"""Root ports: which device gets which. A port, once given, stays with its attachment for life.

The one answer to who has a port: the rows and the number of ports decide it, never whether a device is prepared, which
is done for what has a port and nothing else. Image = first port, seed = last, so that neither moves a volume. A port
is free when no row holds it; a row goes only when its device is gone from spec and live XML (contract G.12). PCI
addresses do not belong here (see `layout.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sri_libvirt.domain.disks import by_device
from sri_libvirt.records import Attachment, AttachmentKind, Key

IMAGE_PORT = 1

VECTORS = 190
"""Interrupt vectors of one vCPU that ports and devices can have. A Linux guest has about 200; the rest is for what
every machine has. Measured: of 20 plugged disks a guest of one vCPU with 184 ports sees six, with 160 all."""


def usable(ports: int, vcpus: int) -> int:
    """How many of so many ports a guest can use with a device behind each: the ports of a new machine.

    A port has one vector; a disk has one for each vCPU's queue and one more, a network interface three.
    """
    of_each = 1 + max(vcpus + 1, 3)
    return min(ports, vcpus * VECTORS // of_each)


def assign(attachments: Sequence[Attachment], ports: int) -> dict[Key, int]:
    """The port of every row: what it has, or for one that should have one the lowest free; 0 if it gets none.

    `attachments` are all rows of the machine, also those that are on their way out: they hold their ports, and a new
    device of the same name waits for them. New volumes go first in device-name order, then new NICs by name.
    """
    assigned = {row.key: row.port for row in attachments}
    kinds = {row.kind for row in attachments}
    taken = {row.port for row in attachments}
    reserved = {IMAGE_PORT} if "image" in kinds else set()
    reserved |= {ports} if "seed" in kinds else set()
    free = iter([port for port in range(1, ports + 1) if port not in taken | reserved])
    leaving = leaving_names(attachments)
    due = [row for row in attachments if not row.port and row.wanted and (row.kind, row.name) not in leaving]
    for row in sorted((row for row in due if not without_network(row)), key=_order):
        if row.kind == "image":
            assigned[row.key] = IMAGE_PORT
        elif row.kind == "seed":
            assigned[row.key] = ports
        else:
            assigned[row.key] = next(free, 0)
    return assigned


def placed(attachments: Sequence[Attachment], ports: int) -> tuple[Attachment, ...]:
    """The rows with the ports that `assign` gives them."""
    assigned = assign(attachments, ports)
    return tuple(row if row.port == assigned[row.key] else replace(row, port=assigned[row.key]) for row in attachments)


def in_domain(attachments: Iterable[Attachment]) -> list[Attachment]:
    """The rows whose devices the persistent domain has: wanted, prepared, and with a port."""
    return [row for row in attachments if row.wanted and row.backing is not None and row.port]


def leaving_names(attachments: Iterable[Attachment]) -> set[tuple[AttachmentKind, str]]:
    """Names whose older device is not released yet: the new one waits for it."""
    return {(row.kind, row.name) for row in attachments if not row.wanted}


def without_network(row: Attachment) -> bool:
    """A NIC that waits for its network's id: no driver is asked about it (contract G.13), and it holds no port."""
    return row.kind == "nic" and not row.nic().network_id


def _order(row: Attachment) -> tuple[bool, int, str, str]:
    length, target = by_device(row)
    return (row.kind == "nic", length, target, row.name)
