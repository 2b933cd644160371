"""Who wants to know that machines have changed: told of ids once a commit is on disk, and asks the store for the rest.

What of a machine has changed, and whether that matters to anybody, does not belong here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial

import structlog

log = structlog.get_logger(__name__)

Changed = Callable[[frozenset[str]], None]
"""Called by the writer's thread with the ids of machines, also of such that are no more; must return at once."""


class Changes:
    """Those who want to know. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: tuple[Changed, ...] = ()

    def follow(self, told: Changed) -> Callable[[], None]:
        """Tell of each commit from now on, until what is returned is called."""
        with self._lock:
            self._told = (*self._told, told)

        return partial(self._leave, told)

    def tell(self, ids: Iterable[str]) -> None:
        """These have changed."""
        if self._told and (changed := frozenset(ids)):
            for told in self._told:
                try:
                    told(changed)
                except Exception:  # the writer goes on, whatever becomes of who only wants to know
                    log.exception("a bug: one who follows changes is told of no more of them")
                    self._leave(told)

    def _leave(self, told: Changed) -> None:
        with self._lock:
            self._told = tuple(each for each in self._told if each is not told)
