"""The image room without a daemon, for a command that holds the lock of the state directory.

What is done in it does not belong here.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sri_libvirt import log, process
from sri_libvirt.config import Settings
from sri_libvirt.host import space
from sri_libvirt.images.cache import Cache
from sri_libvirt.images.collecting import Collector
from sri_libvirt.images.commands import ImageCommands
from sri_libvirt.images.fetching import Fetcher
from sri_libvirt.images.pulling import Pulling
from sri_libvirt.images.rules import Rules
from sri_libvirt.jobs import Jobs
from sri_libvirt.paths import StatePaths
from sri_libvirt.resources import byte_words

STOP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class FileSystem:
    """The room of pulls where nobody sells any: what the file system has."""

    path: Path

    def take(self, holder: str, amount: int) -> str:  # noqa: ARG002 (of the contract)
        free = self.free()
        return f"disk: {byte_words(amount)} asked, {byte_words(free)} free" if amount > free else ""

    def free(self) -> int:
        return space.available(self.path)

    def give_back(self, holder: str) -> None:
        pass


@contextmanager
def commands(settings: Settings) -> Iterator[ImageCommands]:
    """What an operator asks of the image cache, answered by this process. The caller holds the lock."""
    from sri_libvirt.store.store import Store

    log.set_up("error", "auto")  # what the daemon logs is told by the command, and standard output is its answer's
    paths = StatePaths(settings.state_dir)
    store = Store.open(paths)
    cancel = process.Cancel()
    questions, pulls = Jobs(), Jobs(threads=settings.image_pulls)
    try:
        cache = Cache(paths.image_cache, paths.machines, store)
        pulling = Pulling(
            cache,
            Fetcher(cancel),
            Rules.of(settings),
            FileSystem(paths.image_cache),
            questions=questions,
            pulls=pulls,
            clock=store.clock,
            machine=platform.machine(),
        )
        room = FileSystem(paths.image_cache)
        collector = Collector(cache, settings.image_keep, settings.image_min_free, store.clock, room.free)
        yield ImageCommands(cache, store, pulling, collector, store.clock)
    finally:
        cancel.cancel()
        questions.stop(STOP_SECONDS)
        pulls.stop(STOP_SECONDS)
        store.close()
