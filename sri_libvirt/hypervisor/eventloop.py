"""libvirt's event loop on a thread of its own: it answers keepalive messages and delivers events.

libvirt has one event loop per process, which must be registered before the first connection is opened. What events mean
does not belong here, nor does an asyncio loop: libvirt's callbacks come on other threads.
"""

from __future__ import annotations

import atexit
import threading

import libvirt
import structlog

log = structlog.get_logger(__name__)


class EventLoop:
    """libvirt's default event loop. `ensure_running` is called before every open; idempotent and thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._registered = False
        self._stopping = False

    def ensure_running(self) -> None:
        """Register the loop and start its thread, once per process."""
        with self._lock:
            if not self._registered:
                # Errors come as exceptions; without a handler libvirt prints each to stderr as well.
                libvirt.registerErrorHandler(lambda _context, _error: None, None)
                libvirt.virEventRegisterDefaultImpl()
                self._registered = True
                atexit.register(self.stop)
            if self._thread is None:
                self._stopping = False
                self._thread = threading.Thread(target=self._run, name="libvirt-events", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End the thread, at the process's end. A callback that hangs is left behind after a second."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is None:
                return
            self._stopping = True
            libvirt.virEventAddTimeout(0, lambda *_: None, None)  # wakes the loop
        thread.join(timeout=1.0)

    def _run(self) -> None:
        while not self._stopping:
            try:
                libvirt.virEventRunDefaultImpl()
            except Exception:
                log.exception("libvirt's event loop stumbled; it goes on")


LOOP = EventLoop()
"""The process's one loop, as libvirt has it."""
