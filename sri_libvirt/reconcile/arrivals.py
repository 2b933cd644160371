"""Who lets machines go on that wait for a link of the host, once one has come or was brought up.

What an interface waits for its driver alone knows, so whatever comes lets all be tried again that wait. Links that
guests have are not among those that `up` names: a plug that fails would drive itself. A link whose coming nobody saw
costs `Policy.prepare_retry`.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from sri_libvirt.store.store import Store

log = structlog.get_logger(__name__)


class Arrivals:
    """`up` names the links that are up now. For one thread at a time."""

    def __init__(self, store: Store, up: Callable[[], frozenset[str]], wake: Callable[[str], None]) -> None:
        self._store = store
        self._up = up
        self._wake = wake
        self._known: frozenset[str] = frozenset()

    def begin(self) -> None:
        """What is up now has not come."""
        self._known = self._up()

    def look(self) -> None:
        """Look what has come since the last time, and wake the machines that wait."""
        up = self._up()
        came, self._known = up - self._known, up
        if not came:
            return
        waiting = self._store.write(lambda tx: tx.retry_links(), synced=False)
        log.info("links are up: machines that wait for one go on", links=sorted(came), machines=len(waiting))
        for machine_id in waiting:
            self._wake(machine_id)
