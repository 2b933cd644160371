"""Encrypted disks for tests. What opens them does not belong here."""

from __future__ import annotations

import subprocess
from pathlib import Path

TRIES = 50


def make(disk: Path, passphrase: bytes, size: str = "64K") -> None:
    """A LUKS 1 disk at this path, whose key costs next to nothing.

    qemu-img measures the CPU time of its key, and where the kernel counts that in ticks it finds none now and then.
    """
    key = ["--object", f"secret,id=key,data={passphrase.decode()}", "-o", "key-secret=key,iter-time=10"]
    for _ in range(TRIES):
        argv = ["qemu-img", "create", "-q", "-f", "luks", *key, str(disk), size]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if "accurate CPU usage" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
