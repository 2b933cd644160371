"""The guard of the unit tests: no subprocess, no network socket, no libvirt, nothing read from the real /sys or /proc.

An audit hook sees what Python does; the few doors of C libraries (libvirt, grpc), which it does not see, are closed one
by one. A violation raises where it happens, and fails the test even if somebody catches it there.
Fixtures of single rooms do not belong here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

_PROCESSES = frozenset(
    {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn"}
)
_SOCKETS = frozenset({"socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo"})
_READS = frozenset({"open", "os.listdir", "os.scandir"})
_KERNEL = ("/sys", "/proc")
_C_DOORS = {
    "libvirt": ("open", "openAuth", "openReadOnly"),
    "grpc": ("server", "insecure_channel", "secure_channel"),
    "grpc.aio": ("server", "insecure_channel", "secure_channel"),
    "prometheus_client": ("start_http_server",),
    "sri_libvirt.metrics": ("start_http_server",),
}


class HostTouched(BaseException):
    """A unit test reached for the host. Not an Exception, so that no `except Exception` hides it."""


class _Guard:
    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []

    def stop(self, what: str) -> None:
        self.seen.append(what)
        raise HostTouched(f"unit tests may not do this: {what}")

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in _PROCESSES:
            self.stop(f"{event} {args[0]!r}" if args else event)
        elif event in _SOCKETS:
            self.stop(f"{event} {args[1:]!r}")
        elif event in _READS and args and _is_kernels(args[0]):
            self.stop(f"{event} {args[0]!r}")


def _is_kernels(path: object) -> bool:
    if isinstance(path, (str, bytes, os.PathLike)):
        text = os.fsdecode(path)
        return text.startswith(_KERNEL) and (text in _KERNEL or text.startswith(tuple(f"{top}/" for top in _KERNEL)))
    return False


_guard = _Guard()
sys.addaudithook(_guard.hook)  # cannot be taken away again: hence `on`


def _closed(name: str) -> Callable[..., None]:
    return lambda *_args, **_kwargs: _guard.stop(name)


@pytest.fixture(autouse=True)
def host_guard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """On for every unit test. The list holds what was seen; a test of the guard itself empties it."""
    for module, functions in _C_DOORS.items():
        if module in sys.modules:
            for function in functions:
                monkeypatch.setattr(sys.modules[module], function, _closed(f"{module}.{function}"))
    _guard.seen.clear()
    _guard.on = True
    try:
        yield _guard.seen
    finally:
        _guard.on = False
    if _guard.seen:
        pytest.fail(f"touched the host: {'; '.join(_guard.seen)}")
