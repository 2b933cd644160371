"""Watching libvirt's events on a connection of its own, for ever: keepalive, reconnect with back-off, re-register.

A subscription must never end silently: whatever happens to the connection or in a callback, the thread goes on, and
after each reconnect the listener is told that it may have missed something. What an event means for a machine does not
belong here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import libvirt
import structlog

from sri_libvirt.errors import Unreachable
from sri_libvirt.hypervisor import words
from sri_libvirt.hypervisor.base import DomainEvent, EventKind, Listener

log = structlog.get_logger(__name__)

LOOK_SECONDS = 5.0
"""How often the connection is asked whether it is alive: a close callback can fail to come."""

BACK_OFF_SECONDS = (1.0, 2.0, 3.0, 5.0)
"""Waits between attempts to connect; the last one repeats."""

STOP_SECONDS = 5.0
"""How long `stop` waits for a thread that may be stuck in an open."""


class Watcher:
    """One listener's thread. Its calls come one at a time, from this thread and from libvirt's event thread.

    `on_disconnected` is called once per loss, and once when the first attempt to connect fails.
    """

    def __init__(self, connect: Callable[[], libvirt.virConnect], listener: Listener) -> None:
        self._connect = connect
        self._listener = listener
        self._telling = threading.RLock()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._closed_because = ""
        self._thread = threading.Thread(target=self._run, name="libvirt-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the watching; no call of the listener begins after this returns. Idempotent."""
        with self._telling:
            self._stop.set()
        self._wake.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        failures = 0
        reachable = True  # nobody was told otherwise yet
        while not self._stop.is_set():
            try:
                reason, connected = self._watch_once()
            except Unreachable as error:
                reason, connected = str(error), False
            except Exception as error:
                log.exception("watching libvirt failed; it is tried again")
                reason, connected = f"watching failed: {error}", False
            reachable, failures = (True, 0) if connected else (reachable, failures + 1)
            if reachable:
                self._tell(self._listener.on_disconnected, reason)
                reachable = False
            self._stop.wait(BACK_OFF_SECONDS[min(failures, len(BACK_OFF_SECONDS) - 1)])

    def _watch_once(self) -> tuple[str, bool]:
        """Connect, register and wait for the end of the connection. Returns why it ended and that it had begun."""
        connection = self._connect()
        callbacks: list[int] = []
        networks: list[int] = []
        self._wake.clear()
        self._closed_because = ""
        try:
            connection.registerCloseCallback(self._on_close, None)
            callbacks.extend(self._register(connection))
            networks.extend(self._register_networks(connection))
            self._tell(self._listener.on_connected)
            while not self._stop.is_set() and not self._closed_because:
                self._wake.wait(LOOK_SECONDS)
                if not connection.isAlive():
                    break
            return self._closed_because or "the connection is dead", True
        except libvirt.libvirtError as error:
            return f"the connection failed: {error}", True
        finally:
            _release(connection, callbacks, networks)

    def _register(self, connection: libvirt.virConnect) -> list[int]:
        def register(event: int, callback: Callable[..., None]) -> int:
            number: int = connection.domainEventRegisterAny(None, event, _guarded(callback), None)
            return number

        device_added, device_removed = self._device(EventKind.DEVICE_ADDED), self._device(EventKind.DEVICE_REMOVED)
        return [
            register(libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_lifecycle),
            register(libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, self._on_reboot),
            register(libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON, self._on_io_error),
            register(libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, self._on_block_job),
            register(libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, device_added),
            register(libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, device_removed),
        ]

    def _register_networks(self, connection: libvirt.virConnect) -> list[int]:
        """Without libvirt's networks (a daemon of their own, which may be away) the periodic resync has to do."""
        event, callback = libvirt.VIR_NETWORK_EVENT_ID_LIFECYCLE, _guarded(self._on_network)
        try:
            return [connection.networkEventRegisterAny(None, event, callback, None)]
        except libvirt.libvirtError as error:
            log.info("libvirt does not tell of networks", error=str(error))
            return []

    def _on_network(self, _connection: Any, network: libvirt.virNetwork, *_: Any) -> None:
        self._tell(self._listener.on_network, network.name())

    def _on_lifecycle(self, _connection: Any, domain: libvirt.virDomain, event: int, detail: int, _: Any) -> None:
        kind = words.EVENT_KINDS.get(event)
        if kind is not None:
            self._emit(domain, kind, words.EVENT_DETAILS.get(kind, {}).get(detail, ""))

    def _on_reboot(self, _connection: Any, domain: libvirt.virDomain, _: Any) -> None:
        self._emit(domain, EventKind.REBOOT)

    def _on_io_error(
        self, _connection: Any, domain: libvirt.virDomain, _source: str, alias: str, action: int, reason: str, _: Any
    ) -> None:
        # One that the guest is told of by itself asks for nothing, and a guest can have them by the thousand.
        if action == libvirt.VIR_DOMAIN_EVENT_IO_ERROR_PAUSE:
            self._emit(domain, EventKind.NO_SPACE if reason == "enospc" else EventKind.IO_ERROR, alias or "")

    def _on_block_job(self, _connection: Any, domain: libvirt.virDomain, *_: Any) -> None:
        self._emit(domain, EventKind.BLOCK_JOB)

    def _device(self, kind: EventKind) -> Callable[..., None]:
        return lambda _connection, domain, alias, _: self._emit(domain, kind, alias)

    def _on_close(self, _connection: Any, reason: int, _: Any) -> None:
        self._closed_because = words.CLOSE_REASONS.get(reason, "the connection ended")
        self._wake.set()

    def _emit(self, domain: libvirt.virDomain, kind: EventKind, detail: str = "") -> None:
        self._tell(self._listener.on_event, DomainEvent(domain.UUIDString(), kind, detail))

    def _tell(self, method: Callable[..., None], *words_: Any) -> None:
        with self._telling:
            if self._stop.is_set():
                return
            try:
                method(*words_)
            except Exception:
                log.exception("a listener of libvirt's events raised; the next event is delivered all the same")


def _guarded(callback: Callable[..., None]) -> Callable[..., None]:
    """The callback, whose exceptions are logged: in libvirt's binding they would go to stderr, unstructured."""

    def guarded(*arguments: Any) -> None:
        try:
            callback(*arguments)
        except Exception:
            log.exception("an event of libvirt could not be read; the next one is delivered all the same")

    return guarded


def _release(connection: libvirt.virConnect, callbacks: list[int], networks: list[int]) -> None:
    """Give a connection up, broken or not. Callbacks hold references to it, so they go first."""
    for number in callbacks:
        with suppress(libvirt.libvirtError):
            connection.domainEventDeregisterAny(number)
    for number in networks:
        with suppress(libvirt.libvirtError):
            connection.networkEventDeregisterAny(number)
    with suppress(libvirt.libvirtError):
        connection.unregisterCloseCallback()
    with suppress(libvirt.libvirtError):
        connection.close()
