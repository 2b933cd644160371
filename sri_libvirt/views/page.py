"""One page of a machine, also of one that is gone.

All of it is chosen field by field (`show.py`); a log is the guest's or QEMU's own words, without what QEMU was started
with. What cannot be known at the moment is named, and holds nothing else up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from sri_libvirt.config import Settings
from sri_libvirt.devices import DiskSource
from sri_libvirt.errors import SRIError
from sri_libvirt.looks import Looks
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import Departed, Machine
from sri_libvirt.store import Reader
from sri_libvirt.views import consolelog, live, shares, show

EVENTS = 12
LINES = 10
"""As many of its latest events, and of the last lines of each log, as a page has room for."""

QEMU_LOGS = Path("/var/log/libvirt/qemu")
_TAIL = 64 << 10


class Page:
    """Makes pages. `looks` are those at what may hang."""

    def __init__(self, reader: Reader, settings: Settings, connect: live.Connect, looks: Looks) -> None:
        self._reader = reader
        self._settings = settings
        self._connect = connect
        self._looks = looks

    def here(self, machine: Machine, heard: Mapping[str, Any]) -> dict[str, Any]:
        """`heard` is what the backends of its volumes say, by name."""
        clock = self._reader.clock()
        full = show.full(machine, clock, heard)
        backings = {row.alias: row.backing for row in machine.attachments}
        taken = self._real_sizes(backings.values())
        for device in full["devices"]:
            device["file"] = path = _file(backings[device["alias"]])
            device["real_bytes"] = taken.get(path)
        timeline = self._reader.events(machine.id)
        state = next((each for each in reversed(timeline) if each.kind == "state"), None)
        return {
            **full,
            "state_since": show.timestamp(clock.to_wall(state.latest)) if state else None,
            "gone": None,
            "claims": shares.data(shares.of(self._reader, machine)),
            "domain": {**live.domain(self._connect, self._looks, machine.id), **self._process(machine.id)},
            "events": [show.event(each, clock) for each in timeline[-EVENTS:]],
            "console_log": self._console(machine.id),
            "qemu_log": self._qemu(machine.id),
        }

    def gone(self, departed: Departed) -> dict[str, Any]:
        """What is still known."""
        clock = self._reader.clock()
        return {
            **show.departed(departed, clock),
            "events": [show.event(each, clock) for each in self._reader.events(departed.id, EVENTS)],
            "qemu_log": self._qemu(departed.id),
        }

    def _process(self, machine_id: str) -> dict[str, Any]:
        try:
            process = live.process(self._settings.procfs, self._looks, machine_id)
        except (SRIError, OSError) as error:
            return {"process": None, "process_problem": str(error)}
        return {"process": process, "process_problem": None}

    def _real_sizes(self, backings: Iterable[object]) -> dict[str | None, int]:
        """What files really take, by path; without those of which nobody says it in time, as of a server that hangs."""
        paths = frozenset(each.path for each in backings if isinstance(each, DiskSource) and each.kind == "file")
        taken: dict[str | None, int] = {}

        def look() -> dict[str | None, int]:
            for path in sorted(paths):
                with suppress(OSError):
                    taken[path] = Path(path).stat().st_blocks * 512
            return taken

        try:  # who asks for the same at the same time has another's look
            return self._looks.result("the files of disks", paths, "asking what files take", look)
        except SRIError:
            return dict(taken)

    def _console(self, machine_id: str) -> list[str]:
        """What the guest has printed last: no more of it than a guest can make worth reading."""
        files = StatePaths(self._settings.state_dir).machine(machine_id)

        def look() -> bytes:
            with ExitStack() as stack:
                parts = [stack.enter_context(each) for each in consolelog.parts(files)]
                consolelog.skip(parts, _TAIL)
                return b"".join(consolelog.last(LINES, parts))

        try:
            said = self._looks.result(str(files.root.parent), machine_id, "reading a console log", look)
        except (SRIError, OSError):
            return []
        return consolelog.Text().of(said).splitlines()

    def _qemu(self, machine_id: str) -> list[str]:
        """What QEMU and libvirt have said last, without the arguments and the environment that it was started with."""

        def look() -> list[bytes]:
            with (QEMU_LOGS / f"{machine_id}.log").open("rb") as file:
                file.seek(0, 2)
                file.seek(max(file.tell() - _TAIL, 0))
                return file.read(_TAIL).splitlines()

        try:
            lines = self._looks.result(str(QEMU_LOGS), machine_id, "reading a log of QEMU", look)
        except (SRIError, OSError):
            return []
        return [line.decode(errors="replace") for line in _without_arguments(lines)][-LINES:]


def _file(backing: object) -> str | None:
    """The file of this host behind a device."""
    return (backing.path or None) if isinstance(backing, DiskSource) else None


def _without_arguments(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines that are not of a command: such go on in the next one, and the last ends with the options of logs."""
    goes_on = False
    for line in lines:
        was, goes_on = goes_on, line.endswith(b"\\")
        if not was and not goes_on:
            yield line
