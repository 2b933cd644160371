"""When each boot of the host gave its last sign of life, kept in the store: so that a later boot knows when it ended.

Where nobody can tell whether the host is going down, a guest that powers itself off looks like one whose button a
shutdown has pressed; how long its host went on tells them apart afterwards. What follows from that does not belong here
(`stops.py`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import structlog

from sri_libvirt.errors import StoreError
from sri_libvirt.store.store import Store

log = structlog.get_logger(__name__)

META_BOOTS = "boots"
"""Key in the store: the last sign of life of each boot, by its id."""

PERIOD = 60.0
"""Seconds between two signs; how much too early the end of a boot that was cut off may seem."""

_KEPT = 8


class Boots(threading.Thread):
    """Gives a sign from `start` to `stop`, once a period. `ended` is safe from any thread."""

    def __init__(self, store: Store, boot_id: Callable[[], str], clock: Callable[[], int]) -> None:
        super().__init__(name="boots", daemon=True)
        self._store = store
        self._boot_id = boot_id
        self._clock = clock
        self._ending = threading.Event()
        self._seen: dict[str, int] = json.loads(store.meta(META_BOOTS) or "{}")

    def ended(self, boot_id: str) -> int:
        """When a boot before this one gave its last sign; 0 of this one, and where that is not known."""
        return 0 if boot_id == self._boot_id() else self._seen.get(boot_id, 0)

    def run(self) -> None:
        while True:
            self.sign()
            if self._ending.wait(PERIOD):
                return

    def sign(self) -> None:
        """Give one now. It need not survive a power loss: one that is lost makes the end seem a minute earlier."""
        seen = {**self._seen, self._boot_id(): self._clock()}
        self._seen = dict(sorted(seen.items(), key=lambda each: each[1])[-_KEPT:])
        text = json.dumps(self._seen)
        try:
            self._store.write(lambda tx: tx.set_meta(META_BOOTS, text), synced=False)
        except StoreError as error:
            log.warning("that the host is up could not be stored", error=str(error))

    def stop(self) -> None:
        """End the thread, with a last sign; returns when it has."""
        self._ending.set()
        self.join()
        self.sign()
