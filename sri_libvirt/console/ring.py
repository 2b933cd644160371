"""What a guest has printed and its client has not taken yet: bounded, so that neither the guest nor this process
suffers from a client that does not read.

What is shown in place of what was lost is said here, who is shown it is not.
"""

from __future__ import annotations

import threading
from collections import deque

MOST_BYTES = 256 * 1024

_LOST = "\r\n[{} bytes of output were lost here; the console log has them]\r\n"


class Ring:
    """Thread-safe. The oldest goes first when there is too much."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self.lost = 0
        """Bytes in all."""
        self._most = most
        self._lock = threading.Lock()
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._untold = 0

    def put(self, data: bytes) -> bool:
        """Add what the guest printed; whether there was nothing before."""
        with self._lock:
            was_empty = not self._size and not self._untold
            self._pieces.append(data)
            self._size += len(data)
            while self._size > self._most:
                oldest = self._pieces.popleft()
                excess = self._size - self._most
                if len(oldest) > excess:
                    self._pieces.appendleft(oldest[excess:])
                gone = min(len(oldest), excess)
                self._size -= gone
                self._untold += gone
                self.lost += gone
            return was_empty

    def take(self, most: int) -> bytes:
        """The oldest that there is, after a line that tells of what was lost before it; empty if there is nothing."""
        with self._lock:
            if self._untold:
                told, self._untold = _LOST.format(self._untold).encode(), 0
                return told
            taken = bytearray()
            while self._pieces and len(taken) < most:
                piece = self._pieces.popleft()
                room = most - len(taken)
                taken += piece[:room]
                if len(piece) > room:
                    self._pieces.appendleft(piece[room:])
            self._size -= len(taken)
            return bytes(taken)
