"""The settings that a disk is opened with: decided when it is prepared, and kept with it.

A disk is prepared right before each cold start and each plug, and its settings are stored with what was prepared. So
what is plugged, what the persistent domain says and what runs are the same, whatever the host or the program has become
since; and whatever its driver, which knows nothing of this. Nothing is asked of a disk that is in use.

Every look may hang with a disk's file system: its machine waits then, and no lane (`looks.py`). What is chosen does not
belong here (`domain/settings.py`), nor how it is found out what can be had (`host/diskio.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from sri_libvirt.devices import DiskSource
from sri_libvirt.domain import settings
from sri_libvirt.host import diskio
from sri_libvirt.looks import Looks
from sri_libvirt.records import ClassPolicy

HOLDS = 600.0
"""Seconds for which it is taken for true whether QEMU can use io_uring, or Linux AIO: it may be upgraded beside us."""

Tried = Literal["io_uring", "native"]
_NAMES = {"io_uring": "io_uring", "native": "Linux AIO"}


@dataclass(frozen=True, slots=True)
class DiskIo:
    """Shared by all lanes. `works` has QEMU's own code open a disk, `takes_direct` opens it."""

    looks: Looks
    procfs: Path
    works: Callable[[Tried, Path, bool], bool] = lambda io, path, block: diskio.works(io, path, block=block)
    takes_direct: Callable[[Path], bool] = diskio.takes_direct
    clock: Callable[[], float] = time.monotonic
    _verdicts: dict[Tried, tuple[float, bool]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def settle(self, policy: ClassPolicy, source: DiskSource) -> DiskSource:
        """A prepared disk with its settings, for a machine of a class with that policy. Raises NotReady."""
        return replace(source, settings=settings.choose(source.kind, policy, _Disk(self, source)))

    def can(self, io: Tried, source: DiskSource) -> bool:
        """Whether this host's QEMU can use it, by the last try, or by one on this disk."""
        with self._lock:
            at, verdict = self._verdicts.get(io, (0.0, False))
            known = io in self._verdicts and self.clock() < at + HOLDS
        if known:
            return verdict
        path = Path(source.path)
        what = f"trying {_NAMES[io]} on {path} (qemu-img info)"
        verdict = self.looks.result(
            f"the directory {path.parent}", ("io", io), what, partial(self.works, io, path, source.kind == "block")
        )
        with self._lock:
            self._verdicts[io] = (self.clock(), verdict)
        return verdict


@dataclass(frozen=True, slots=True)
class _Disk:
    """What can be had for one local disk."""

    host: DiskIo
    source: DiskSource

    def direct(self) -> bool:
        """QEMU opens the base of an overlay in the same way as the overlay."""
        paths = [self.source.path, *([self.source.backing.path] if self.source.backing else [])]
        return all(self._takes_direct(Path(path)) for path in paths)

    def io_uring(self) -> bool:
        return diskio.allows_io_uring(self.host.procfs) and self.host.can("io_uring", self.source)

    def native(self) -> bool:
        return diskio.has_room_for_aio(self.host.procfs) and self.host.can("native", self.source)

    def _takes_direct(self, path: Path) -> bool:
        what = f"opening {path} past the page cache"
        return self.host.looks.result(
            f"the directory {path.parent}", ("direct", path), what, partial(self.host.takes_direct, path)
        )
