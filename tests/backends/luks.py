"""Files with a LUKS header, whose key opens in milliseconds where a real one's costs seconds of CPU.

No device mapper: cryptsetup writes the header alone. What lies on such a disk does not belong here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tests.backends.daemon import run

LuksVersion = Literal[1, 2]

OFFSET = {1: 4 << 20, 2: 16 << 20}
"""Bytes before what the guest sees: whole objects of an image, as Ceph 18 wants it; of version 1 cryptsetup is told."""

_KDF = {
    1: ["--pbkdf-force-iterations=1000", f"--align-payload={OFFSET[1] // 512}"],
    2: ["--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"],
}


def make(path: Path, size: int, passphrase: bytes, version: LuksVersion) -> None:
    """Make a sparse file of which a guest sees `size` bytes."""
    with path.open("wb") as file:
        file.truncate(size + OFFSET[version])
    argv = ["cryptsetup", "luksFormat", "--batch-mode", f"--type=luks{version}", *_KDF[version]]
    run([*argv, "--key-file=-", path], stdin=passphrase)
