"""`sri-libvirt machine describe`: one page of a machine, also of one that is gone.

All of it is chosen field by field (`show.py`); a log is the guest's or QEMU's own words, without what QEMU was started
with. What cannot be known at the moment is named, and holds nothing else up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import click

from sri_libvirt.cli import output as out
from sri_libvirt.cli import show
from sri_libvirt.cli.console import logfile
from sri_libvirt.cli.find import find, find_gone, open_store
from sri_libvirt.cli.machine import live, page
from sri_libvirt.cli.machine.get import heard_of
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.cli.report import shares
from sri_libvirt.config import Settings
from sri_libvirt.devices import DiskSource
from sri_libvirt.errors import NotFound
from sri_libvirt.paths import MachinePaths, StatePaths
from sri_libvirt.records import Departed, Machine
from sri_libvirt.store import Reader

EVENTS = 12
LINES = 10
"""As many of its latest events, and of the last lines of each log, as a page has room for."""

QEMU_LOGS = Path("/var/log/libvirt/qemu")
_TAIL = 64 << 10


@click.command()
@click.argument("machine")
@settings_options("state_dir", "libvirt_uri", "procfs")
@out.form("text", "json", "yaml")
def describe(machine: str, settings: Settings, output: str) -> None:
    """Show all of one machine on a page; of one that is gone what is still known, by its name too.

    libvirt, the daemon and the backends of volumes are asked, for some seconds at most; without them the rest is shown.
    """
    with open_store(settings) as reader:
        try:
            found = _here(reader, find(reader, machine), settings)
        except NotFound:
            departed = find_gone(reader, machine)
            if departed is None:
                raise
            found = _gone(reader, departed)
    if output == "text":
        page.show(found)
    else:
        out.data(found, output)


def _here(reader: Reader, machine: Machine, settings: Settings) -> dict[str, Any]:
    clock, paths = reader.clock(), StatePaths(settings.state_dir)
    full = show.full(machine, clock, heard_of(machine, paths))
    files = paths.machine(machine.id)
    backings = {row.alias: row.backing for row in machine.attachments}
    taken = _real_sizes(backings.values())
    for device in full["devices"]:
        device["file"] = path = _file(backings[device["alias"]])
        device["real_bytes"] = taken.get(path)
    process = live.process(settings, machine.id)
    timeline = reader.events(machine.id)
    state = next((each for each in reversed(timeline) if each.kind == "state"), None)
    return {
        **full,
        "state_since": show.timestamp(clock.to_wall(state.latest)) if state else None,
        "gone": None,
        "claims": shares.data(shares.of(reader, machine)),
        "domain": {**live.domain(settings, machine.id), "process": process},
        "events": [show.event(each, clock) for each in timeline[-EVENTS:]],
        "console_log": _console(files),
        "qemu_log": _qemu(machine.id),
    }


def _gone(reader: Reader, departed: Departed) -> dict[str, Any]:
    clock = reader.clock()
    return {
        **show.departed(departed, clock),
        "events": [show.event(each, clock) for each in reader.events(departed.id, EVENTS)],
        "qemu_log": _qemu(departed.id),
    }


def _file(backing: object) -> str | None:
    """The file of this host behind a device."""
    return (backing.path or None) if isinstance(backing, DiskSource) else None


def _real_sizes(backings: Iterable[object]) -> dict[str | None, int]:
    """What files really take, by path; without those of which nobody says it in time, as of a server that hangs."""
    taken: dict[str | None, int] = {}

    def look() -> None:
        for backing in backings:
            if isinstance(backing, DiskSource) and backing.kind == "file":
                with suppress(OSError):
                    taken[backing.path] = Path(backing.path).stat().st_blocks * 512

    with suppress(TimeoutError):
        live.within(live.SECONDS, look)
    return dict(taken)


def _console(files: MachinePaths) -> list[str]:
    text = logfile.Text()
    with ExitStack() as stack:
        try:
            parts = [stack.enter_context(each) for each in logfile.parts(files)]
            said = b"".join(logfile.last(LINES, parts))
        except OSError:
            return []
    return text.of(said).splitlines()


def _qemu(machine_id: str) -> list[str]:
    """What QEMU and libvirt have said last, without the arguments and the environment that it was started with."""
    try:
        with (QEMU_LOGS / f"{machine_id}.log").open("rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - _TAIL, 0))
            lines = file.read(_TAIL).splitlines()
    except OSError:
        return []
    return [line.decode(errors="replace") for line in _without_arguments(lines)][-LINES:]


def _without_arguments(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines that are not of a command: such go on in the next one, and the last ends with the options of logs."""
    goes_on = False
    for line in lines:
        was, goes_on = goes_on, line.endswith(b"\\")
        if not was and not goes_on:
            yield line
