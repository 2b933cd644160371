"""The questions that people ask of machines, by name, each with its answer as plain data.

Asked by the command line in its own process where it may read the store, and of the daemon where it may not: so what
is asked with comes from anybody who may, and is looked at before it is used. What an answer may hold is `show.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sri_libvirt import statedir
from sri_libvirt.config import Settings
from sri_libvirt.errors import InvalidSpec, NotFound, SRIError, StoreError
from sri_libvirt.looks import Looks
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import Machine
from sri_libvirt.store import Reader, room
from sri_libvirt.views import pace, show
from sri_libvirt.views.find import find, find_ever, find_gone
from sri_libvirt.views.live import Connect

QUESTIONS = ("list", "gone", "find", "get", "why", "describe", "events", "trace")

MOST_IDS = 10_000
MOST_LINES = 4_096
"""Machines that may be asked for by id, and lines of timelines that an answer holds: none grows with what is asked."""

Daemon = Callable[[str, Mapping[str, Any]], Any]
"""Asks the daemon what only it knows: `volumes`, `images` and `spans`. Raises SRIError, also where there is none."""


class Views:
    """Answers of one state directory. Thread-safe. `connect` and `looks` are for what may hang (`live.py`)."""

    def __init__(self, reader: Reader, settings: Settings, daemon: Daemon, connect: Connect, looks: Looks) -> None:
        self._reader = reader
        self._settings = settings
        self._paths = StatePaths(settings.state_dir)
        self._daemon = daemon
        self._connect = connect
        self._looks = looks

    def answer(self, question: str, arguments: Mapping[str, Any]) -> Any:
        """One of QUESTIONS. Raises InvalidSpec, NotFound and StoreError, also of a store that may be the wrong one."""
        if question not in QUESTIONS:
            raise InvalidSpec("question", f"{question!r} is not one of {', '.join(QUESTIONS)}")
        if doubt := self._reader.doubt:
            raise StoreError(doubt)
        return getattr(self, f"_{question}")(arguments)

    def _list(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The machines, the oldest first, or those of `ids`; those whose record cannot be read come last."""
        ids = _texts(arguments, "ids")
        if ids is None:
            machines, damaged = self._reader.readable()
        else:
            machines, damaged = [each for each in map(self._reader.machine, ids) if each is not None], {}
        clock = self._reader.clock()
        return {
            **self._provider(),
            "machines": [
                *(show.listed(each, clock) for each in machines),
                *(show.unreadable(*each) for each in damaged.items()),
            ],
        }

    def _gone(self, _: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Those that are no more, the latest first."""
        clock = self._reader.clock()
        return [show.departed(each, clock) for each in self._reader.departed()]

    def _find(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The id of the machine of this name, and whether it is gone."""
        word = _text(arguments, "machine")
        try:
            return {"id": find(self._reader, word).id, "gone": False}
        except NotFound:
            if (departed := find_gone(self._reader, word)) is None:
                raise
            return {"id": departed.id, "gone": True}

    def _get(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """A machine by itself; with `heard`, which takes two seconds at most, what its volumes' backends say."""
        machine = find(self._reader, _text(arguments, "machine"))
        heard = self._heard(machine) if arguments.get("heard") else {}
        return show.full(machine, self._reader.clock(), heard)

    def _why(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Why a machine is not what it should be."""
        machine = find(self._reader, _text(arguments, "machine"))
        clock, provider = self._reader.clock(), self._provider()
        latest = self._reader.events(machine.id, 1)
        found = show.explained(machine, latest[-1] if latest else None, clock)
        if provider["state_directory_problem"] and found["as_it_should_be"]:
            found["as_it_should_be"] = None  # what is on record may be of the past
        return {**found, **provider, "image_pull": pace.of_image(self._daemon, machine)}

    def _describe(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """One page, also of a machine that is gone."""
        from sri_libvirt.views.page import Page  # what it looks at takes a moment to load

        page, word = Page(self._reader, self._settings, self._connect, self._looks), _text(arguments, "machine")
        try:
            machine = find(self._reader, word)
        except NotFound:
            if (departed := find_gone(self._reader, word)) is None:
                raise
            return page.gone(departed)
        return page.here(machine, self._heard(machine))

    def _events(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Lines of the timelines of `machine`, of the `ids`, or of all, each with its number.

        Of the last `ago` nanoseconds, or since `since` by the steady clock, which `now` is of; and after the line with
        the number `after`. There are `more` than an answer holds: of numbers `beyond` its last.
        """
        ids = _texts(arguments, "ids")
        if "machine" in arguments:
            ids = [find_ever(self._reader, _text(arguments, "machine"))]
        clock = self._reader.clock()
        now, ago = clock(), _number(arguments, "ago")
        since = max(now - ago, 0) if ago is not None else _number(arguments, "since") or 0
        after, beyond = (_number(arguments, each) or 0 for each in ("after", "beyond"))
        lines = self._reader.timelines(ids, since=since, after=after, beyond=beyond, most=MOST_LINES)
        return {
            "more": len(lines) == MOST_LINES,
            "now": now,
            "since": since,
            "ids": ids,
            "events": [
                {"number": number, "machine": each.machine, **show.event(each, clock)} for number, each in lines
            ],
        }

    def _trace(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """What the daemon has in its memory of a machine's time, and its timeline; nanoseconds by the wall clock."""
        machine_id = find_ever(self._reader, _text(arguments, "machine"))
        clock = self._reader.clock()
        spans = self._daemon("spans", {"machine": machine_id})
        return {
            "id": machine_id,
            "spans": [
                {**each, "begin": clock.to_wall(each["begin"]), "end": clock.to_wall(each["end"])} for each in spans
            ],
            "events": [
                {"at": clock.to_wall(each.time), **show.event(each, clock)} for each in self._reader.events(machine_id)
            ],
        }

    def _provider(self) -> dict[str, Any]:
        """What may make an answer one of the past: whether the provider runs (None where that cannot be known), and
        why nothing can be written down."""
        return {
            "provider_running": statedir.is_held(self._paths),
            "state_directory": str(self._paths.root),
            "state_directory_problem": room.unwritable(self._paths.reserve) or None,
        }

    def _heard(self, machine: Machine) -> Mapping[str, Any]:
        """What the daemon hears of the volumes' backends."""
        if not any(row.kind == "volume" and row.volume().HasField("connection") for row in machine.attachments):
            return {}
        try:
            heard: Mapping[str, Any] = self._daemon("volumes", {"machine": machine.id})
        except SRIError:
            return {}
        return heard


def _text(arguments: Mapping[str, Any], name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str):
        raise InvalidSpec(name, "must be a text")
    try:
        value.encode()
    except UnicodeEncodeError:  # what the command line was given is not UTF-8
        raise InvalidSpec(name, "must be UTF-8") from None
    return value


def _texts(arguments: Mapping[str, Any], name: str) -> list[str] | None:
    value = arguments.get(name)
    if value is not None and not (isinstance(value, list) and all(isinstance(each, str) for each in value)):
        raise InvalidSpec(name, "must be a list of texts")
    if value is None:
        return None
    ids = list(dict.fromkeys(value))
    if len(ids) > MOST_IDS:
        raise InvalidSpec(name, f"are {len(ids)}, of at most {MOST_IDS}")
    return ids


def _number(arguments: Mapping[str, Any], name: str) -> int | None:
    value = arguments.get(name)
    if value is not None and not (type(value) is int and 0 <= value < 1 << 63):
        raise InvalidSpec(name, "must be a number")
    return value
