"""Volumes that are open in guests which a restored store does not know, or does not know to have them.

Machines made since the backup run on without a record, so neither the poollet nor the store knows what they have open:
the poollet makes such a machine anew, with the same volumes. Asked in a store that was put back alone, for in any other
there are no such guests but by an operator's hand. What such a guest has open is known by what its XML calls it alone.
What is swept away does not belong here (`orphans.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sri_libvirt.devices import DiskSource, may_be_same
from sri_libvirt.domain import observed as domain_view
from sri_libvirt.errors import NotReady
from sri_libvirt.hypervisor.base import Connection
from sri_libvirt.store.backup import COPIED
from sri_libvirt.store.store import Store
from sri_libvirt.volumes.block import DEVICES


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Shared by all lanes. What lies below `machines` is its machine's own, and open nowhere else."""

    store: Store
    machines: Path

    def check(self, connection: Connection, machine_id: str, disk: DiskSource) -> None:
        """Raise NotReady while a guest that the store does not know to have this volume has it open."""
        if self.store.meta(COPIED) is None or Path(disk.source).is_relative_to(self.machines):
            return
        if other := self.store.stranger_with(partial(_may_be, disk), besides=machine_id):
            raise NotReady(
                f"machine {other} has it open and is not to have it; it is being unplugged there",
                f"Nothing need be done, unless its guest does not let it go: sri-libvirt machine why {other}.",
                code="open-elsewhere",
            )
        for each in sorted(set(connection.domain_ids()) - set(self.store.machine_ids())):
            domain = connection.snapshot(each)
            if domain is not None and domain.active and self._opens(domain.live_xml, disk):
                raise NotReady(
                    f"the guest {each} has it open, which was made after the backup that this store was restored from",
                    f"If nobody needs that guest: sri-libvirt sweep --yes --running {each}.",
                    code="open-elsewhere",
                )

    def _opens(self, live_xml: str, disk: DiskSource) -> bool:
        found = domain_view.read(live_xml)
        ours = found.instance == self.store.instance
        sources = (device.source for device in found.devices.values() if device.kind == "disk")
        return ours and any(_may_be(disk, each) for each in sources)


def _may_be(disk: DiskSource, source: str) -> bool:
    """Whether what a guest has open by that name may be the disk; of a device whose name is gone nobody can tell."""
    if may_be_same(disk.source, source):
        return True
    return disk.kind == "block" and source.startswith(DEVICES) and _number(source) in (None, _number(disk.path))


def _number(path: str) -> int | None:
    try:
        return Path(path).stat().st_rdev
    except OSError:
        return None
