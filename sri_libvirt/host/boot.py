"""The host's boots: which one this is, and whether the host is going down.

What that means for machines does not belong here (reconcile/stops.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from sri_libvirt import process
from sri_libvirt.process import ProcessError

PROC = Path("/proc")
SYSTEMD = Path("/run/systemd/system")
"""Exists where systemd is the init system (sd_booted(3))."""

DEADLINE = 5.0
"""Seconds for systemd to answer; while it is busy stopping things it may take a while."""


class Host:
    """Signs of this host. `run` is for tests."""

    def __init__(
        self,
        *,
        proc: Path = PROC,
        systemd: Path = SYSTEMD,
        run: Callable[[Sequence[str]], bytes] = lambda argv: process.run(argv, deadline=DEADLINE),
    ) -> None:
        self._proc = proc
        self._systemd = systemd
        self._run = run

    def boot_id(self) -> str:
        """The kernel's id of this boot; containers see the host's. Raises OSError when there is no procfs."""
        return _boot_id(self._proc)

    def stopping(self) -> bool | None:
        """Whether systemd says that the host is going down; None, not known, without a systemd that answers.

        It says so before anything is stopped: as soon as the end of all is asked for.
        """
        if not self._systemd.is_dir():
            return None
        try:
            # not `is-system-running`: its exit status says only that the host is not "running"
            state = self._run(["systemctl", "show", "--property=SystemState", "--value"])
        except ProcessError:
            return None
        return state.strip() == b"stopping" if state.strip() else None


@cache  # asked at every look at a machine, and the same for as long as this process lives
def _boot_id(proc: Path) -> str:
    return (proc / "sys/kernel/random/boot_id").read_text().strip()
