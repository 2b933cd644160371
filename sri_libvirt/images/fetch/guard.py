"""Which addresses this process may connect to: looked at when it connects, whatever name or redirect led there.

A name is resolved by who connects, so a look at it before proves nothing. Python tells of every connection before it is
made (`sys.addaudithook`), and by which library does not matter. Which hosts may be asked does not belong here.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sri_libvirt.images.sources import forbidden


class Forbidden(OSError):
    """An address that nobody may be sent to by a tenant's words."""


_guarded = threading.local()
_lock = threading.Lock()
_installed: list[bool] = []


@contextmanager
def connecting(*, anywhere: bool) -> Iterator[None]:
    """While it is open this thread connects to addresses that are not forbidden, or to all of them."""
    with _lock:
        if not _installed:
            sys.addaudithook(_heard)  # it cannot be taken away again
            _installed.append(True)
    before = getattr(_guarded, "on", False)
    _guarded.on = not anywhere
    try:
        yield
    finally:
        _guarded.on = before


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "socket.connect" or not getattr(_guarded, "on", False):
        return
    address = arguments[1]
    if isinstance(address, tuple) and (words := forbidden(str(address[0]))):
        raise Forbidden(f"{address[0]}, {words}")
