"""When files of the image cache go: those that no machine needs, by age, and where room lacks.

What is removed how does not belong here (`cache.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sri_libvirt.images.cache import Cache
from sri_libvirt.records import CachedImage


@dataclass(frozen=True, slots=True)
class Collector:
    """`keep` is how long (nanoseconds) a file is kept that no machine needs, `min_free` the bytes that the file system
    is to have; `available` gives those that it has, `measure` is called when there are more by a prune."""

    cache: Cache
    keep: int
    min_free: int
    clock: Callable[[], int]
    available: Callable[[], int]
    measure: Callable[[], None] = lambda: None

    def collect(self) -> None:
        """Give up what is too old, and the longest unused while the file system lacks room. For once in a while."""
        self.cache.collect(self._overdue, lambda: self.min_free - self.available())

    def evict(self, lacking: int) -> int:
        """Give up the longest unused until so many bytes are free that lacked. Returns what came free."""
        return self.cache.collect(self._overdue, lambda: lacking)

    def prune(self, *, everything: bool) -> int:
        """Give up what is too old, or everything, that no machine needs. Returns the bytes that came free."""
        freed = self.cache.collect(lambda image: everything or self._overdue(image), lambda: 0)
        self.measure()
        return freed

    def _overdue(self, image: CachedImage) -> bool:
        return self.clock() - image.used > self.keep
