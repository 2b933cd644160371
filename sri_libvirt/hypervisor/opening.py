"""Opening a connection within a bound of time.

A daemon that is frozen (stopped, swapped out, deadlocked) accepts a connection and never answers on it, and libvirt's
keepalive begins only after the open. So each open runs on a thread of its own and is given up after a while. What a
connection is good for does not belong here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from contextlib import suppress

import libvirt

from sri_libvirt.errors import Unreachable


class Opener:
    """Opens connections; thread-safe. While one open is late, others are refused at once: no threads pile up."""

    def __init__(self, connect: Callable[[], libvirt.virConnect], *, seconds: float) -> None:
        self._connect = connect
        self._seconds = seconds
        self._lock = threading.Lock()
        self._late: Future[libvirt.virConnect] | None = None

    def open(self) -> libvirt.virConnect:
        """A new connection. Raises Unreachable, after `seconds` at the latest."""
        with self._lock:
            if self._late is not None and not self._late.done():
                raise self._silent()
            self._late = None
        opened: Future[libvirt.virConnect] = Future()
        threading.Thread(target=self._run, args=(opened,), name="libvirt-open", daemon=True).start()
        try:
            return opened.result(self._seconds)
        except LateError:
            with self._lock:
                self._late = opened
            opened.add_done_callback(_close)
            raise self._silent() from None

    def _run(self, opened: Future[libvirt.virConnect]) -> None:
        try:
            opened.set_result(self._connect())
        except Exception as error:
            opened.set_exception(error)

    def _silent(self) -> Unreachable:
        return Unreachable(f"libvirt did not answer within {self._seconds:g} s: its daemon hangs or is frozen")


def _close(late: Future[libvirt.virConnect]) -> None:
    """Nobody waits for it any more."""
    if late.exception() is None:
        with suppress(libvirt.libvirtError):
            late.result().close()
