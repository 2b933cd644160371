"""What wakes a machine besides RPCs and its own `wake_at`: libvirt's events, a new connection, the periodic resync.

The reason of a stop is written down as it comes, by the store's writer, so that no lane has to be free for it. What a
stop means does not belong here (that is `stops.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future

import structlog

from sri_libvirt.domain.states import machine_state
from sri_libvirt.errors import SRIError
from sri_libvirt.hypervisor.base import Connection, DomainEvent, EventKind
from sri_libvirt.reconcile.queue import WakeQueue
from sri_libvirt.records import SECOND, StopEvent
from sri_libvirt.store.store import Store

log = structlog.get_logger(__name__)

REBOOT_PAUSE = SECOND
"""How long after its guest's reset a machine is looked at, in nanoseconds: so often at most."""

TURN = 12
"""Periods until everybody has had its turn of the resync."""


class EventSource:
    """The hypervisor's listener: called on its event thread, so it only queues.

    `others` is told when domains that are no machines of ours may have come or gone, and networks changed.
    """

    def __init__(
        self,
        store: Store,
        queue: WakeQueue,
        clock: Callable[[], int],
        reachable: Callable[[bool], None],
        others: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._queue = queue
        self._clock = clock
        self._reachable = reachable
        self._others = others
        self._shutdowns: dict[str, str] = {}
        self._failed: dict[str, dict[str, bool]] = {}

    def failed_disks(self, machine_id: str) -> Mapping[str, bool]:
        """Aliases of the disks at which QEMU has paused a guest, and whether for want of space; none if nobody saw."""
        return dict(self._failed.get(machine_id, {}))

    def on_connected(self) -> None:
        """Events may have been missed: look at every machine."""
        log.info("libvirt is reached: every machine is looked at")
        self._shutdowns.clear()
        self._failed.clear()
        self._reachable(True)
        wake_all(self._store, self._queue)
        self._others()

    def on_disconnected(self, reason: str) -> None:
        log.warning("libvirt is lost; guests go on, the provider reconnects", reason=reason)
        self._reachable(False)
        wake_all(self._store, self._queue)

    def on_event(self, event: DomainEvent) -> None:
        """Note who asked for a shutdown until the stop itself comes; then write both down, and only then wake."""
        if event.kind in (EventKind.STARTED, EventKind.STOPPED) and not self._store.frames(event.machine_id):
            self._others()
            return
        match event.kind:
            case EventKind.REBOOT:  # asks for nothing, and a guest can do it many times a second
                self._queue.wake(event.machine_id, self._clock() + REBOOT_PAUSE)
                return
            case EventKind.SHUTDOWN:
                self._shutdowns[event.machine_id] = event.detail
            case EventKind.STARTED:
                self._shutdowns.pop(event.machine_id, None)
                self._failed.pop(event.machine_id, None)
            case EventKind.RESUMED:
                self._failed.pop(event.machine_id, None)
            case EventKind.IO_ERROR | EventKind.NO_SPACE:
                disks = {**self._failed.get(event.machine_id, {}), event.detail: event.kind is EventKind.NO_SPACE}
                self._failed[event.machine_id] = disks
            case EventKind.STOPPED:
                self._failed.pop(event.machine_id, None)
                stop = StopEvent(
                    shutdown=self._shutdowns.pop(event.machine_id, ""), stopped=event.detail, at=self._clock()
                )
                noted = self._store.submit(
                    lambda tx: tx.note_stop(event.machine_id, stop), synced=False, relieving=True
                )
                noted.add_done_callback(lambda done: self._noted(event.machine_id, done))
                return
            case _:
                pass
        self._queue.wake(event.machine_id)

    def on_network(self, name: str) -> None:
        """A network that was stopped and started has lost the taps of its guests, and one that was made anew their
        addresses: look at the machines on it, and let those go on that have waited for it.
        """
        self._others()
        found = self._store.submit(lambda tx: tx.retry_links() | set(tx.machines_on(name)), synced=False)
        found.add_done_callback(self._wake_found)

    def _wake_found(self, found: Future[set[str]]) -> None:
        if problem := found.exception():
            log.warning("who is on a network could not be read; the resync finds them", error=str(problem))
            return
        for machine_id in found.result():
            self._queue.wake(machine_id)

    def _noted(self, machine_id: str, done: Future[None]) -> None:
        """A stop whose evidence could not be stored is told from the QEMU log and libvirt's own words instead."""
        if problem := done.exception():
            log.warning("why a guest stopped could not be stored", machine=machine_id, error=str(problem))
        self._queue.wake(machine_id)


def wake_all(store: Store, queue: WakeQueue) -> None:
    """Look at every machine now."""
    for machine_id in store.machine_ids():
        queue.wake(machine_id)


class Resync(threading.Thread):
    """Wakes machines now and then, whatever events said: a start or stop that was lost costs one period at most.

    Once a period the states of all domains are read in one call, and whoever is not listed as what its domain is, is
    looked at. What no state tells (a domain that was redefined by hand) is found by a turn of everybody, a part each
    period: a look at a thousand machines would take a core for seconds, and libvirt as long.
    """

    def __init__(self, store: Store, queue: WakeQueue, connect: Callable[[], Connection], period: float) -> None:
        super().__init__(name="resync", daemon=True)
        self._store = store
        self._queue = queue
        self._connect = connect
        self._period = period
        self._periods = 0
        self._ending = threading.Event()

    def run(self) -> None:
        while not self._ending.wait(self._period):
            try:
                self.once()
            except SRIError as error:
                log.info("the states of domains are not read now", error=str(error))
            except Exception:
                log.exception("a bug: the next resync comes all the same")

    def once(self) -> None:
        """Wake those that are not what they are listed as, and those whose turn it is. Raises Unreachable."""
        self._periods += 1
        for number, machine_id in enumerate(sorted(self._store.machine_ids())):
            if number % TURN == self._periods % TURN:
                self._queue.wake(machine_id)
        connection = self._connect()
        try:
            domains = connection.states()
        finally:
            connection.close()
        for machine_id, (listed, deleted) in self._store.states().items():
            state = domains.get(machine_id)
            if deleted or state is None or machine_state(state) != listed:
                self._queue.wake(machine_id)

    def stop(self) -> None:
        """End the thread; returns when it has."""
        self._ending.set()
        self.join()
