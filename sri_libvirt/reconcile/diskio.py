"""The settings that a disk is opened with: decided when it is prepared, and kept with it.

A disk is prepared right before each cold start and each plug, and its settings are stored with what was prepared. So
what is plugged, what the persistent domain says and what runs are the same, whatever the host or the program has become
since; and whatever its driver, which knows nothing of this. Nothing is asked of a disk that is in use, but of one whose
record was lost.

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
from sri_libvirt.process import ProcessError
from sri_libvirt.records import ClassPolicy

HOLDS = 600.0
"""Seconds for which it is taken for true that QEMU can use io_uring, or Linux AIO: it may be upgraded beside us."""

REFUSED = 60.0
"""Seconds for which it is taken for true that it cannot: it may be the one disk's fault on which that was tried."""

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
            until, verdict = self._verdicts.get(io, (None, False))
        if until is not None and self.clock() < until:
            return verdict
        path, block = Path(source.path), source.kind == "block"
        what = f"trying {_NAMES[io]} on {path} (qemu-img info)"
        try:
            verdict = self.looks.result(
                _place(path, block=block), ("io", io), what, partial(self.works, io, path, block)
            )
        except ProcessError:
            return False  # this disk does without, and nothing is known of others
        with self._lock:
            self._verdicts[io] = (self.clock() + (HOLDS if verdict else REFUSED), verdict)
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
        place = _place(path, block=self.source.kind == "block")
        what = f"opening {path} past the page cache"
        return self.host.looks.result(place, ("direct", path), what, partial(self.host.takes_direct, path))


def _place(path: Path, *, block: bool) -> str:
    """What hangs together: the files of a directory, as a rule, and each device alone, whatever is listed beside it."""
    return f"the device {path}" if block else f"the directory {path.parent}"
