"""What pulls of images take of the host's disk: beside all machines, and given up to what is measured when they end.

The cache counts as what others hold of the file system, so that it shrinks what is sold (`host/space.py`), and so do
parts of files that are being fetched. What is fetched does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sri_libvirt.capacity.pool import Pool
from sri_libvirt.resources import DISK, Claim, Usage


@dataclass(frozen=True, slots=True)
class PullRoom:
    """The room of pulls in a pool. `measure` reads the host anew, `available` gives the bytes that its file system has
    in fact, `evict` gives up so many bytes of what the cache holds and nobody needs, as far as there are such; `cached`
    are all that it holds."""

    pool: Pool
    usage: Callable[[], Usage]
    measure: Callable[[], None]
    available: Callable[[], int]
    evict: Callable[[int], int]
    cached: Callable[[], int]

    def take(self, holder: str, amount: int) -> str:
        """Let a pull have so many bytes in place of what it had; "" when it has them, else what lacks, with the
        arithmetic.

        Nothing makes way for what would not fit all the same: a tenant may name an image of any size.
        """
        claims = [Claim(DISK, amount)]
        self.measure()
        lacking = self.pool.take(holder, claims, self.usage())
        missing = amount - self._free(holder)
        if lacking and missing <= self.cached() and self.evict(missing):
            self.measure()
            lacking = self.pool.take(holder, claims, self.usage())
        return lacking

    def free(self) -> int:
        """The bytes that nobody has."""
        return self._free("")

    def _free(self, holder: str) -> int:
        return min(self.pool.free(DISK, self.usage(), holder), self.available())

    def give_back(self, holder: str) -> None:
        """A pull has ended: what it has written is measured from now on."""
        self.measure()
        self.pool.give_back(holder)
