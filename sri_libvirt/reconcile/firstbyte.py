"""When each guest's first byte came out of its console after a start, for the trace of that start.

libvirt tells nobody, and virtlogd only writes: so the log of a guest that was just started is looked at, by one thread
for all, less and less often, and what is told is true to a fiftieth. A guest may print nothing, as one that goes on
from a managed save: it is awaited for LONGEST, and its trace does not say when it spoke. What the bytes are does not
belong here, nor does whether the guest is well.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from sri_libvirt.traces import Lap, Traces

NAME = "guest, to its first byte"
SHORTEST = 0.02
LONGEST = 300.0
SHARE = 0.02
"""Between two looks at a log pass SHORTEST seconds, or this share of the time for which the guest is awaited."""

Listen = Callable[[str], AbstractContextManager[None]]
"""A machine's start goes within: what its guest prints from there on is listened for."""


def nobody_listens(_machine_id: str) -> AbstractContextManager[None]:
    """For who traces nothing."""
    return nullcontext()


class _End(NamedTuple):
    """Where a log ends: virtlogd puts a new file at its path when one is full."""

    inode: int
    size: int


@dataclass(frozen=True, slots=True)
class _Awaited:
    """A guest that has printed nothing yet: where its log ended, since when it runs, when it is looked at next."""

    end: _End
    since: float
    due: float


class FirstBytes(threading.Thread):
    """`log_of` says where a machine's log is; spans go to `traces`. Safe from any thread."""

    def __init__(self, log_of: Callable[[str], Path], traces: Traces) -> None:
        super().__init__(name="first-bytes", daemon=True)
        self._log_of = log_of
        self._traces = traces
        self._changed = threading.Condition()
        self._awaited: dict[str, _Awaited] = {}
        self._stopped = False

    @contextmanager
    def of(self, machine_id: str) -> Iterator[None]:
        """The guest is started within, and awaited from the end on, if that did not raise. The one before it, if it
        has printed nothing, never will.
        """
        with self._changed:
            self._awaited.pop(machine_id, None)
        end = self._end_of(machine_id)
        yield
        if end is None:
            return
        now = time.monotonic()
        with self._changed:
            self._awaited[machine_id] = _Awaited(end, now, now)
            self._changed.notify()

    def run(self) -> None:
        while (due := self._due()) is not None:
            for machine_id, awaited in due:
                self._look(machine_id, awaited)

    def stop(self) -> None:
        """Await nobody any longer; a look that hangs is left behind."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _due(self) -> list[tuple[str, _Awaited]] | None:
        """Wait until guests are due to be looked at, and say which; None at the end."""
        with self._changed:
            while not self._stopped:
                now = time.monotonic()
                if found := [each for each in self._awaited.items() if each[1].due <= now]:
                    return found
                dues = [each.due for each in self._awaited.values()]
                self._changed.wait(min(dues) - now if dues else None)
            return None

    def _look(self, machine_id: str, awaited: _Awaited) -> None:
        end, now = self._end_of(machine_id), time.monotonic()
        heard = end is not None and end.size > (awaited.end.size if end.inode == awaited.end.inode else 0)
        with self._changed:
            if self._awaited.get(machine_id) is not awaited:
                return  # it is started anew: what is heard may be the next one's
            waited = now - awaited.since
            if heard or waited > LONGEST:
                del self._awaited[machine_id]
            else:
                self._awaited[machine_id] = replace(awaited, due=now + max(SHORTEST, waited * SHARE))
        if heard:
            self._traces.add(machine_id, [Lap("guest", NAME, awaited.since, now)])

    def _end_of(self, machine_id: str) -> _End | None:
        """None where that cannot be known, which is no reason not to start a guest."""
        try:
            found = self._log_of(machine_id).stat()
        except FileNotFoundError:
            return _End(0, 0)
        except OSError:
            return None
        return _End(found.st_ino, found.st_size)
