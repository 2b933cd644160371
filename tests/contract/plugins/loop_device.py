"""A block device of a test's own: a loop device on a file, gone at the end."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def loop_device(file: Path) -> Iterator[str]:
    """The path of its device; where none can be made the test is skipped."""
    done = subprocess.run(["losetup", "--find", "--show", file], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no loop devices here: {done.stderr.strip()}")
    device = done.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
