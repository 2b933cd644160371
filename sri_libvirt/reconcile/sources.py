"""What wakes a machine besides RPCs and its own `wake_at`: libvirt's events, a new connection, the periodic resync.

The reason of a stop is written down as it comes, by the store's writer, so that no lane has to be free for it. What a
stop means does not belong here (that is `stops.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from sri_libvirt.hypervisor.base import DomainEvent, EventKind
from sri_libvirt.reconcile.queue import WakeQueue
from sri_libvirt.records import StopEvent
from sri_libvirt.store.store import Store

log = structlog.get_logger(__name__)


class EventSource:
    """The hypervisor's listener: called on its event thread, so it only queues."""

    def __init__(
        self, store: Store, queue: WakeQueue, clock: Callable[[], int], reachable: Callable[[bool], None]
    ) -> None:
        self._store = store
        self._queue = queue
        self._clock = clock
        self._reachable = reachable
        self._shutdowns: dict[str, str] = {}

    def on_connected(self) -> None:
        """Events may have been missed: look at every machine."""
        log.info("libvirt is reached: every machine is looked at")
        self._shutdowns.clear()
        self._reachable(True)
        wake_all(self._store, self._queue)

    def on_disconnected(self, reason: str) -> None:
        log.warning("libvirt is lost; guests go on, the provider reconnects", reason=reason)
        self._reachable(False)
        wake_all(self._store, self._queue)

    def on_event(self, event: DomainEvent) -> None:
        """Note who asked for a shutdown until the stop itself comes; then write both down, and only then wake."""
        match event.kind:
            case EventKind.SHUTDOWN:
                self._shutdowns[event.machine_id] = event.detail
            case EventKind.STARTED:
                self._shutdowns.pop(event.machine_id, None)
            case EventKind.STOPPED:
                stop = StopEvent(
                    shutdown=self._shutdowns.pop(event.machine_id, ""), stopped=event.detail, at=self._clock()
                )
                noted = self._store.submit(lambda tx: tx.note_stop(event.machine_id, stop))
                noted.add_done_callback(lambda _: self._queue.wake(event.machine_id))
                return
            case _:
                pass
        self._queue.wake(event.machine_id)


def wake_all(store: Store, queue: WakeQueue) -> None:
    """Look at every machine now."""
    for machine_id in store.machine_ids():
        queue.wake(machine_id)


class Resync(threading.Thread):
    """Looks at every machine now and then, whatever events said: an event that was lost costs one period at most."""

    def __init__(self, store: Store, queue: WakeQueue, period: float) -> None:
        super().__init__(name="resync", daemon=True)
        self._store = store
        self._queue = queue
        self._period = period
        self._ending = threading.Event()

    def run(self) -> None:
        while not self._ending.wait(self._period):
            wake_all(self._store, self._queue)

    def stop(self) -> None:
        """End the thread; returns when it has."""
        self._ending.set()
        self.join()
