"""A real file system that hangs at will: a FUSE export of qemu-storage-daemon, stopped by SIGSTOP.

Whoever opens, stats or reads its one file then waits until it goes on, as with a dead NFS server. What must be true
meanwhile does not belong here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.backends.daemon import freeze

Inside = Callable[[Sequence[str]], list[str]]


class Hung:
    """The file `path` and the server behind it; `inside` makes of an argument list the one that runs in a namespace."""

    def __init__(self, root: Path, path: Path, inside: Inside) -> None:
        self.path = path
        self._inside = inside
        backing = root / "export.raw"
        backing.write_bytes(b"\xeb\x3c\x90" + os.urandom((1 << 20) - 3))
        path.touch()
        node = f"driver=file,filename={backing},node-name=f,read-only=on"
        export = f"type=fuse,id=e,node-name=f,mountpoint={path},allow-other=off"
        self.server = subprocess.Popen(inside(["qemu-storage-daemon", "--blockdev", node, "--export", export]))

    def is_up(self) -> bool:
        size = subprocess.run(
            self._inside(["stat", "-c", "%s", str(self.path)]), capture_output=True, check=True
        ).stdout
        return int(size) > 0

    def stop(self) -> None:
        freeze(self.server.pid)

    def go_on(self) -> None:
        self.server.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.go_on()
        self.server.terminate()
        self.server.wait(30)


@contextmanager
def serving(root: Path, path: Path, inside: Inside = list) -> Iterator[Hung]:
    """The file system, its file readable at `path`; where there is no FUSE the test is skipped."""
    hung = Hung(root, path, inside)
    try:
        end = time.monotonic() + 30
        while not hung.is_up():
            if hung.server.poll() is not None:
                pytest.skip("no FUSE here")
            assert time.monotonic() < end
            time.sleep(0.02)
        yield hung
    finally:
        hung.close()
