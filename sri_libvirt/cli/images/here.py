"""The image room without a daemon, for a command that holds the lock of the state directory.

What is done in it does not belong here.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from sri_libvirt import log, process
from sri_libvirt.capacity.budget import Budget, Hardware, Reserves, Resources, budget
from sri_libvirt.capacity.pool import Pool
from sri_libvirt.capacity.pulls import PullRoom
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

STOP_SECONDS = 5.0


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
        available = partial(space.available, paths.image_cache)
        collector = Collector(cache, settings.image_keep, settings.image_min_free, store.clock, available)
        pool = Pool({}, _disk(settings, paths))
        measure = lambda: pool.set_budget(_disk(settings, paths))  # noqa: E731
        pulling = Pulling(
            cache,
            Fetcher(cancel),
            Rules.of(settings),
            PullRoom(pool, store.usage, measure, available, collector.evict, cache.held),
            questions=questions,
            pulls=pulls,
            clock=store.clock,
            machine=platform.machine(),
        )
        yield ImageCommands(cache, store, pulling, collector, store.clock)
    finally:
        cancel.cancel()
        questions.stop(STOP_SECONDS)
        pulls.stop(STOP_SECONDS)
        store.close()


def _disk(settings: Settings, paths: StatePaths) -> Budget:
    """What machines and pulls may have of the file system, as the daemon counts it."""
    found = space.space(paths.root, paths.machines)
    hardware = Hardware(Resources(0, 0), disk_bytes=found.total_bytes, disk_others_bytes=found.others_bytes)
    return budget(hardware, Reserves(disk_overcommit=settings.disk_overcommit))
