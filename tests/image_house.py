"""The image room of one host without a provider: a cache on a real store, real fetchers, and who waits for them.

Registries and web servers do not belong here (tests/backends).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from sri_libvirt.capacity.budget import Budget, Hardware, Reserves, Resources, budget
from sri_libvirt.capacity.pool import Pool
from sri_libvirt.capacity.pulls import PullRoom
from sri_libvirt.devices import DiskSource, ImagePin
from sri_libvirt.errors import UNDER_WAY, NotReady
from sri_libvirt.images import boot
from sri_libvirt.images.base import Base
from sri_libvirt.images.cache import Cache
from sri_libvirt.images.collecting import Collector
from sri_libvirt.images.fetching import Fetcher
from sri_libvirt.images.overlay import Overlays
from sri_libvirt.images.pulling import Fetching, Pulling, Room
from sri_libvirt.images.registry import ImageAccess, ImageRegistry
from sri_libvirt.images.rules import Rules
from sri_libvirt.jobs import Jobs
from sri_libvirt.looks import Looks
from sri_libvirt.paths import MachinePaths, StatePaths
from sri_libvirt.process import Cancel
from sri_libvirt.records import SECOND
from sri_libvirt.store.store import Store

T = TypeVar("T")

WAITER = "somebody"
PLENTY = 1 << 40
KEEP = 7 * 24 * 3600 * SECOND


class AllRoom:
    """A host with `bytes` of room."""

    def __init__(self) -> None:
        self.bytes = PLENTY
        self.held: dict[str, int] = {}

    def take(self, holder: str, amount: int) -> str:
        free = self.free() + self.held.get(holder, 0)
        if amount > free:
            return f"disk: {amount} asked, {free} free"
        self.held[holder] = amount
        return ""

    def free(self) -> int:
        return self.bytes - sum(self.held.values())

    def give_back(self, holder: str) -> None:
        self.held.pop(holder, None)


class House:
    """What a provider has of the image room, below `root`. `rules` may be changed; `clock` goes on when told to. With
    `disk` its file system has so many bytes, for the cache and for what is stored as claims, as a provider counts."""

    def __init__(
        self,
        root: Path,
        rules: Rules | None = None,
        *,
        fetcher: Fetching | None = None,
        directories: Sequence[Path] = (),
        looks: Looks | None = None,
        disk: int | None = None,
    ) -> None:
        self.paths = StatePaths(root)
        self.ahead = 0
        self.store = Store.open(self.paths, clock=self.clock)
        self.cancel = Cancel()
        self.woken = threading.Event()
        self.room = AllRoom()
        self.cache = Cache(self.paths.image_cache, self.paths.machines, self.store)
        self.collector = Collector(self.cache, KEEP, 0, self.clock, self.room.free)
        self.counted: list[tuple[str, int]] = []
        self.questions, self.pulls = Jobs(self._wake), Jobs(self._wake, 2)
        self.pulling = Pulling(
            self.cache,
            fetcher or Fetcher(self.cancel),
            rules or Rules(),
            self.room if disk is None else self._room_of(disk),
            questions=self.questions,
            pulls=self.pulls,
            clock=self.clock,
            machine="x86_64",
            count=lambda outcome, size, _: self.counted.append((outcome, size)),
        )
        looks = looks or Looks()
        access = ImageAccess(directories, (self.paths.image_cache,), looks, self.cache, self.pulling)
        self.images = ImageRegistry.load(access)
        self.overlays = Overlays(looks)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _room_of(self, disk: int) -> Room:
        def measured() -> Budget:
            return budget(Hardware(Resources(0, 0), disk_bytes=disk, disk_others_bytes=self.cache.held()), Reserves())

        pool = Pool({}, measured())
        available = lambda: disk - self.cache.held()  # noqa: E731
        measure = lambda: pool.set_budget(measured())  # noqa: E731
        return PullRoom(pool, self.store.usage, measure, available, self.collector.evict, self.cache.held)

    def close(self) -> None:
        self.cancel.cancel()
        self.questions.stop(10)
        self.pulls.stop(10)
        self.store.close()

    def clock(self) -> int:
        return time.time_ns() + self.ahead

    def later(self, seconds: float) -> None:
        """Time goes on."""
        self.ahead += int(seconds * SECOND)

    def resolve(self, image: str, seconds: float = 60.0) -> ImagePin | None:
        """What it means, once that is known. Raises NotReady for what does not mend itself by waiting."""
        return self._waited(lambda: self.images.select(image).resolve(image, WAITER), seconds)

    def base(self, image: str, pin: ImagePin | None, seconds: float = 60.0) -> Base:
        """Its files, once they are there. Raises NotReady as `resolve` does."""
        return self._waited(lambda: self.images.select(image).base(image, pin, WAITER, None), seconds)

    def prepare(
        self,
        image: str,
        paths: MachinePaths,
        size: int,
        made: DiskSource | None = None,
        pin: ImagePin | None = None,
        seconds: float = 60.0,
    ) -> DiskSource:
        """A machine's boot disk, as the loop has it made. Raises NotReady as `resolve` does."""
        driver = self.images.select(image)
        pin = pin or self.resolve(image, seconds)
        before = self.overlays.before(paths.image_disk, made)
        base = self._waited(lambda: driver.base(image, pin, WAITER, before), seconds)
        boot.copy(base, paths)
        return self.overlays.prepare(base, image, paths.image_disk, size, made)

    def _waited(self, ask: Callable[[], T], seconds: float) -> T:
        end = time.monotonic() + seconds
        while True:
            self.woken.clear()
            try:
                return ask()
            except NotReady as error:
                if error.code != UNDER_WAY:
                    raise
                if time.monotonic() > end:
                    raise AssertionError(f"not within {seconds:g} s: {error}") from error
            self.woken.wait(max(0.0, end - time.monotonic()))

    def _wake(self, _: str) -> None:
        self.woken.set()
