"""What a machine's image means, and its boot disk made of it.

Performers like those of `perform.py`, which are the door to them. Where images come from does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from sri_libvirt.devices import Boot, DiskSource, ImagePin
from sri_libvirt.errors import NotReady
from sri_libvirt.hypervisor.base import Connection
from sri_libvirt.paths import MachinePaths
from sri_libvirt.records import Attachment, Machine, MachineClass, Profile
from sri_libvirt.store.store import Store
from sri_libvirt.store.transaction import Transaction

REFUSED = "image-refused"
"""The code of an image that its server does not give, or that is none (images/questions.py)."""

ChooseProfile = Callable[[Connection, MachineClass, Boot], Profile]


class Images(Protocol):
    """The drivers of images."""

    def resolve_image(self, machine: Machine) -> ImagePin:
        """What a machine's image reference means now. Raises NotReady."""

    def image_disk(self, machine: Machine, row: Attachment, paths: MachinePaths) -> DiskSource:
        """A machine's boot disk, made unless it is there, and what it boots besides. Raises NotReady."""

    def remove_image_disk(self, paths: MachinePaths) -> None:
        """Both are gone then."""


@dataclass(frozen=True, slots=True)
class MachineImage:
    """Keeps no state of its own."""

    store: Store
    images: Images
    choose_profile: ChooseProfile

    def resolve(self, machine: Machine, row: Attachment) -> None:
        """Learn what the reference means, once."""
        if row.image is None:
            pin = self.images.resolve_image(machine)

            def work(tx: Transaction) -> None:
                tx.set_image(row.machine, row.key, pin)
                tx.set_backing(row.machine, row.key, row.backing)

            # Synced: what a machine's disk is made of must not be another thing after a power loss.
            self.store.write(work)

    def disk(self, machine: Machine, row: Attachment, paths: MachinePaths, connection: Connection) -> DiskSource:
        """The boot disk. Raises NotReady."""
        try:
            return self.images.image_disk(machine, row, paths)
        except NotReady as error:
            if error.code == REFUSED and row.backing is None and row.image is not None:
                self._resolve_anew(machine, row, connection)
            raise

    def _resolve_anew(self, machine: Machine, row: Attachment, connection: Connection) -> None:
        """What the reference means is no good, and nothing was made of it: it may mean something else by now."""
        with suppress(NotReady):
            pin = self.images.resolve_image(machine)
            if pin != row.image:
                profile = self.choose_profile(connection, machine.machine_class, pin.boot)

                def work(tx: Transaction) -> None:
                    tx.set_image(row.machine, row.key, pin)
                    tx.set_profile(row.machine, profile)

                self.store.write(work)
