"""Whether the kernel has killed a machine's QEMU for want of memory: its own log names the control group of whom it
killed, and libvirt names that after the domain.

What is asked first costs nothing: a counter of all such kills of this boot. The log is read from /dev/kmsg where that
is allowed, else from the journal, which holds a copy. Where neither can be read nothing is said. What follows from a
kill does not belong here.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sri_libvirt import process
from sri_libvirt.process import ProcessError

PROC = Path("/proc")
KMSG = Path("/dev/kmsg")

JOURNAL = ("journalctl", "--dmesg", "--boot", "--lines=2000", "--output=json", "--quiet", "--no-pager")
"""The kernel's latest lines; some 200 are written for one kill."""

DEADLINE = 5.0
"""Seconds for journalctl."""

SLACK = 300.0
"""Seconds by which the log's clock may differ from that of the uptime: nobody corrects it while the host is up."""

RECORD = 8192
"""Bytes of one record of /dev/kmsg at most (its own limit)."""

RECORDS = 100_000
"""Records read at most; the kernel's buffer holds fewer, but it goes on being written."""

_KILL = re.compile(r"\boom-kill:.*\btask_memcg=([^,]*)")
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class Kill:
    """One process that was killed: its control group, and when, in microseconds since the boot."""

    group: str
    at: int


def parse_kmsg(record: str) -> Kill | None:
    """A kill from one record of /dev/kmsg ("priority,sequence,microseconds,flags;text"); None from any other line."""
    head, _, text = record.partition(";")
    fields = head.split(",")
    # The kernel escapes what it prints, and systemd escapes the name of the scope.
    return _kill(_ESCAPE.sub(_character, text), fields[2] if len(fields) > 2 else "")


def parse_journal(line: str) -> Kill | None:
    """A kill from one entry of the journal as JSON; None from any other."""
    try:
        entry = json.loads(line)
        text, at = entry["MESSAGE"], entry.get("_SOURCE_MONOTONIC_TIMESTAMP") or entry["__MONOTONIC_TIMESTAMP"]
    except (ValueError, KeyError, TypeError):
        return None
    return _kill(text, at) if isinstance(text, str) and isinstance(at, str) else None


def _kill(text: str, at: str) -> Kill | None:
    found = _KILL.search(text)
    return Kill(_ESCAPE.sub(_character, found[1]), int(at)) if found and at.isdecimal() else None


def _character(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 16))


class OutOfMemory:
    """Asks this host's kernel. `run` and the paths are for tests."""

    def __init__(
        self,
        *,
        proc: Path = PROC,
        kmsg: Path = KMSG,
        run: Callable[[Sequence[str]], bytes] = lambda argv: process.run(argv, deadline=DEADLINE),
        uptime: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._proc = proc
        self._kmsg = kmsg
        self._run = run
        self._uptime = uptime

    def killed(self, domain: str, seconds: float) -> bool:
        """Whether a process of this domain was killed within the last `seconds`; False where nobody can tell."""
        if not self._any():
            return False
        group = re.compile(rf"(?:^|/)(?:machine-)?qemu-\d+-{re.escape(domain)}\b")
        since = self._uptime() // 1000 - int((seconds + SLACK) * 1e6)
        return any(kill.at >= since and group.search(kill.group) for kill in self._kills())

    def _any(self) -> bool:
        """Whether anything was killed on this host since its boot; True where that is not told."""
        try:
            counters = (self._proc / "vmstat").read_text()
        except OSError:
            return True
        found = re.search(r"^oom_kill (\d+)$", counters, re.MULTILINE)
        return found is None or found[1] != "0"

    def _kills(self) -> Iterator[Kill]:
        try:
            fd = os.open(self._kmsg, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            yield from self._of_journal()
            return
        try:
            yield from filter(None, map(parse_kmsg, _records(fd)))
        finally:
            os.close(fd)

    def _of_journal(self) -> Iterator[Kill]:
        try:
            said = self._run(JOURNAL).decode(errors="replace")
        except ProcessError:
            return
        yield from filter(None, map(parse_journal, said.splitlines()))


def _records(fd: int) -> Iterator[str]:
    """All records that are there now, oldest first."""
    for _ in range(RECORDS):
        try:
            record = os.read(fd, RECORD)
        except BrokenPipeError:
            continue  # overwritten while it was read: the next read is of the oldest that is left
        except OSError:
            return  # the end, or it may not be read
        if not record:
            return
        yield record.decode(errors="replace")
