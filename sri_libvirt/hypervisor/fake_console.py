"""The serial consoles of the fake's guests: what they print, what is typed, and who has them.

Rules of sessions do not belong here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from sri_libvirt.errors import ConsoleLost


@dataclass
class FakeConsole:
    """See `base.Console`."""

    heard: Callable[[], None]
    printed: bytearray = field(default_factory=bytearray)
    typed: bytearray = field(default_factory=bytearray)
    ended: bool = False
    lost: str = ""
    quiet: bool = True
    """Whether the reader waits to be told of more."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._takes = threading.Event()
        self._takes.set()
        self._closes = threading.Event()
        self._closes.set()

    def read(self) -> bytes | None:
        with self._lock:
            if self.printed:
                found = bytes(self.printed[: 64 * 1024])
                del self.printed[: len(found)]
                return found
            if self.lost:
                raise ConsoleLost(f"the machine's console was lost: {self.lost}")
            self.quiet = not self.ended
            return b"" if self.ended else None

    def write(self, data: bytes) -> int:
        self._takes.wait()
        with self._lock:
            if self.lost:
                raise ConsoleLost(f"the machine's console takes nothing more: {self.lost}")
            if self.ended:
                return 0
            self.typed += data
            return len(data)

    def close(self) -> None:
        self._closes.wait()
        self.end()

    def drop(self) -> None:
        self.close()

    # What tests do to it.

    def prints(self, data: bytes) -> None:
        """The guest prints."""
        with self._lock:
            self.printed += data
        self._tell()

    def end(self) -> None:
        """Its QEMU ends."""
        with self._lock:
            self.ended = True
        self._takes.set()
        self._tell()

    def lose(self, why: str) -> None:
        """It is not open any more."""
        with self._lock:
            self.lost = why
        self._takes.set()
        self._tell()

    def stall(self) -> None:
        """From now on the guest takes nothing of what is typed, until `go_on`."""
        self._takes.clear()

    def go_on(self) -> None:
        self._takes.set()

    def slow_to_close(self) -> Callable[[], None]:
        """Let a close last until what is returned is called."""
        self._closes.clear()
        return self._closes.set

    def _tell(self) -> None:
        with self._lock:
            quiet, self.quiet = self.quiet, False
        if quiet:
            self.heard()
