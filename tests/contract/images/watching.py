"""Which files somebody opens, by the kernel's own word (inotify(7), which the standard library does not have)."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_ACCESS, _MODIFY, _OPEN = 0x1, 0x2, 0x20
_EVENT = struct.Struct("iIII")


class Watch:
    """A watch of one file. `was_opened()` tells whether any process has opened, read or written it since the last."""

    def __init__(self, path: Path) -> None:
        self._fd = _checked(_LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        _checked(_LIBC.inotify_add_watch(self._fd, os.fsencode(path), _ACCESS | _MODIFY | _OPEN))

    def was_opened(self) -> bool:
        try:
            return len(os.read(self._fd, 1 << 16)) >= _EVENT.size
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, errno.errorcode.get(number, "?"))
    return result
