"""Block devices: a file as a loop device, and a node of it wherever a test wants one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tests.backends.daemon import Inside, here, run


class LoopDevice:
    """A block device over a file; `close()` it always."""

    def __init__(self, file: Path, *, read_only: bool = False) -> None:
        options = ["--read-only"] if read_only else []
        self.path = Path(run(["losetup", "--find", "--show", *options, file]).decode().strip())

    def node(self, path: Path, inside: Inside = here) -> None:
        """Make it known at `path`, too: the /dev of a namespace may have none."""
        number = self.path.stat().st_rdev
        run(["mknod", path, "b", str(os.major(number)), str(os.minor(number))], inside)

    def grown(self) -> None:
        """See that its file has another size by now."""
        run(["losetup", "--set-capacity", self.path])

    def close(self) -> None:
        run(["losetup", "--detach", self.path])

    def __enter__(self) -> LoopDevice:
        assert stat.S_ISBLK(self.path.stat().st_mode)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
