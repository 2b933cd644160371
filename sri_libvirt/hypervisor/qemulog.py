"""How a domain's QEMU log ends: the only record of a stop that survives a restart of libvirtd.

The log is of all runs; only what the latest run wrote counts, and when the one before it was saved. Of the file only
its end is read. What a stop means does not belong here.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sri_libvirt.hypervisor.base import LastWords

TAIL = 64 << 10
"""Bytes read from the end; the two lines looked for are the last ones."""

_STAMP = r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{1,6}[+-]\d{4}): "
# Anchored: what QEMU repeats of a guest's or an operator's words in the middle of a line is no statement of libvirt.
_STARTING = re.compile(_STAMP + r"starting up", re.MULTILINE)
_REASON = re.compile(_STAMP + r"shutting down, reason=([a-z-]+)\s*$", re.MULTILINE)
_ABORTED = re.compile(
    r"^(?:\d{4}-\d\d-\d\dT\S+ )?(?:qemu-system-\S+: )?"
    r"(ERROR:\S+:\d+:.*|\S+:\d+: .*: Assertion .* failed\.?|qemu: hardware error: .*"
    r"|\*\*\* .* \*\*\*: terminated|(?:malloc|free|realloc|munmap_chunk|double free)\b.*: .*"
    r"|double free or corruption.*|corrupted .*|terminate called .*)$",
    re.MULTILINE,
)
"""What GLib, the C library and QEMU itself say before they call abort()."""
_WORDS = 300
"""Characters kept of QEMU's own words."""
_SIGNAL = re.compile(r"^\S+ [^\n:]*: terminating on signal \d+ from pid \d+ \((.*)\)\s*$", re.MULTILINE)


def parse(tail: str) -> LastWords:
    """The last words of the latest run in a log's tail."""
    starts = [match.start() for match in _STARTING.finditer(tail)]
    run = tail[starts[-1] :] if starts else tail
    before = _REASON.findall(tail[: starts[-1]]) if starts else []
    saved = before[-1][0] if before and before[-1][1] == "saved" else ""
    reasons, signals = _REASON.findall(run), _SIGNAL.findall(run)
    stamp, reason = reasons[-1] if reasons else ("", "")
    # QEMU tells what the process was started as: systemd starts daemons by their paths, people by their names.
    by = signals[-1].rpartition("/")[2] if signals else ""
    aborted = _ABORTED.findall(run)
    return LastWords(reason, by, _nanoseconds(stamp), aborted[-1][:_WORDS] if aborted else "", _nanoseconds(saved))


def _nanoseconds(stamp: str) -> int:
    """Unix nanoseconds of libvirt's time stamp; 0 of "" and of a day that no calendar has."""
    try:
        time = datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S.%f%z")
    except ValueError:
        return 0
    return (time - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1) * 1000


def read(path: Path) -> LastWords:
    """The last words in a log file; empty when there is none or it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            return parse(file.read(TAIL).decode(errors="replace"))
    except OSError:
        return LastWords()
