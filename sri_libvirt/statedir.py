"""The state directory: making it, and having it alone. What lies where in it does not belong here (`paths.py`)."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sri_libvirt.errors import ConfigError
from sri_libvirt.paths import StatePaths

LOCK_SECONDS = 0.2
"""How long to wait for the lock: `machine why` takes it for some microseconds to see whether a provider runs."""


def prepare(paths: StatePaths) -> None:
    """Make the state directory. Raises ConfigError when it cannot be written."""
    try:
        paths.prepare()
    except OSError as error:
        raise ConfigError(
            f"--state-dir {paths.root}: {error.strerror}: it must be a directory that root can write"
        ) from None


@contextmanager
def lock(paths: StatePaths) -> Iterator[None]:
    """Be the only provider of this state directory. Raises ConfigError when another is."""
    fd = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not _locked(fd):
            raise ConfigError(f"another provider runs on {paths.root}: stop it, or give this one its own --state-dir")
        with suppress(OSError):  # who it is is a comfort; a full file system must not keep anybody from making room
            os.ftruncate(fd, os.pwrite(fd, f"{os.getpid()}\n".encode(), 0))
        yield
    finally:
        os.close(fd)


def is_held(paths: StatePaths) -> bool | None:
    """Whether a provider has the lock; None when this user may not ask.

    It is asked for in shared mode, so that two such questions never see each other, and given back at once.
    """
    try:
        fd = os.open(paths.lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _locked(fd: int) -> bool:
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(LOCK_SECONDS / 20)
        else:
            return True
