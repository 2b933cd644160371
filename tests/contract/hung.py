"""A real file system that hangs at will: a FUSE export of qemu-storage-daemon, stopped by SIGSTOP.

Whoever opens, stats or reads its one file then waits until it goes on, as with a dead NFS server. What must be true
meanwhile does not belong here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Hung:
    """The file `path` and the server behind it."""

    def __init__(self, root: Path, path: Path) -> None:
        self.path = path
        backing = root / "export.raw"
        backing.write_bytes(b"\xeb\x3c\x90" + os.urandom((1 << 20) - 3))
        path.touch()
        node = f"driver=file,filename={backing},node-name=f,read-only=on"
        export = f"type=fuse,id=e,node-name=f,mountpoint={path},allow-other=off"
        self.server = subprocess.Popen(["qemu-storage-daemon", "--blockdev", node, "--export", export])

    def is_up(self) -> bool:
        return self.path.stat().st_size > 0

    def stop(self) -> None:
        self.server.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.server.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.go_on()
        self.server.terminate()
        self.server.wait(30)


@contextmanager
def serving(root: Path, path: Path) -> Iterator[Hung]:
    """The file system, its file readable at `path`; where there is no FUSE the test is skipped."""
    hung = Hung(root, path)
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
