"""Guests have filled the file system of the state directory: what makes room is taken, and nothing else meanwhile.

The file system is a real one, of some MiB, in a mount namespace of its own. What is done on it is in `full_disk.py`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(("scenario", "mib"), [("again-and-again", 40), ("begun-on-it", 40), ("thousand", 128)])
def test_what_makes_room_is_taken_on_a_full_disk(tmp_path: Path, scenario: str, mib: int) -> None:
    (tmp_path / "state").mkdir()
    program = 'mount -t tmpfs -o size="$1"m tmpfs "$2/state"; exec "$0" -m tests.contract.full_disk "$3" "$2"'
    argv = ["unshare", "--mount", "sh", "-ec", program, sys.executable, str(mib), str(tmp_path), scenario]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-6000:]
