"""Block devices: a file as a loop device, and a node of it wherever a test wants one."""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path

from tests.backends.daemon import Inside, here, run

TRIES = 8
_GET_FREE = 0x4C82  # LOOP_CTL_GET_FREE (the kernel's include/uapi/linux/loop.h)
_MAJOR = 7


class LoopDevice:
    """A block device over a file; `close()` it always."""

    def __init__(self, file: Path, *, read_only: bool = False) -> None:
        for _ in range(TRIES):
            self.path = _free()
            with suppress(AssertionError):  # another has taken it meanwhile
                run(["losetup", *(["--read-only"] if read_only else []), self.path, file])
                return
        raise AssertionError(f"no loop device for {file}, nor {TRIES - 1} times before")

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


def _free() -> Path:
    """A device that nobody uses, and its node: a /dev without devtmpfs has those alone that it was made with."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        number = fcntl.ioctl(control, _GET_FREE)
    finally:
        os.close(control)
    path = Path(f"/dev/loop{number}")
    with suppress(FileExistsError):
        os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(_MAJOR, number))
    return path
