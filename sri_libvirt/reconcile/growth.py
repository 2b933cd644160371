"""Who looks at the backends of volumes that guests have open: a thread, each once a period, and an operator's word.

What a look finds is kept where it is asked for (`volumes/probing.py`), and a machine is woken by it if it is news; what
follows from a volume that has grown does not belong here (`disks.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from sri_libvirt import printable
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DiskSource
from sri_libvirt.errors import UNDER_WAY, InvalidSpec, NotFound, NotReady, StoreError
from sri_libvirt.reconcile import disks
from sri_libvirt.records import Attachment, Key, Machine
from sri_libvirt.resources import byte_words
from sri_libvirt.store.store import Store
from sri_libvirt.volumes.base import Found

log = structlog.get_logger(__name__)

ANSWER_SECONDS = 15.0
"""How long an operator waits for all backends of a machine: a probe takes 10 of it, and others may be before it."""

GLANCE_SECONDS = 2.0
"""How long he does who asks for a machine as a whole."""

GROW_SECONDS = 10.0
"""How long a rescan waits until a guest sees what has been found."""

POLL_SECONDS = 0.05


class Volumes(Protocol):
    """How volumes are that guests have open."""

    def can_look(self, row: Attachment) -> bool:
        """Whether there is a backend that can be asked for a volume."""

    def look(self, row: Attachment, since: int = 0) -> Found | None:
        """How it is; None where nobody can ask. NotReady while it is being asked, with the code `UNDER_WAY`, and where
        it fails. An answer of before `since` does not count."""


class Growth(threading.Thread):
    """Looks at each volume that a running guest has once a period, one after the other, spread over it.

    Who has waited longest comes first, and one that is new before all others, which these wait for, if they are many.
    """

    def __init__(self, store: Store, volumes: Volumes, period: float) -> None:
        super().__init__(name="growth", daemon=True)
        self._store = store
        self._volumes = volumes
        self._period = period
        self._ending = threading.Event()
        self._looked: dict[tuple[str, Key], float] = {}

    def run(self) -> None:
        while not self._ending.is_set():
            try:
                rows = self._in_turn()
            except StoreError as error:
                log.info("volumes in use are not looked at now", error=str(error))
                rows = []
            if not rows:
                self._ending.wait(self._period)
            for row in rows:
                self._looked[row.machine, row.key] = time.monotonic()
                self._look(row)
                if self._ending.wait(self._period / len(rows)):
                    return

    def stop(self) -> None:
        """End the thread soon; one that is stuck in a look is left behind."""
        self._ending.set()

    def _in_turn(self) -> list[Attachment]:
        rows = self._in_use()
        before, self._looked = self._looked, {}
        for row in rows:
            self._looked[row.machine, row.key] = before.get((row.machine, row.key), 0.0)
        return sorted(rows, key=lambda row: self._looked[row.machine, row.key])

    def _in_use(self) -> list[Attachment]:
        states = self._store.states()
        running = {machine_id for machine_id, (state, _) in states.items() if state == pb.MACHINE_RUNNING}
        return [row for row in self._store.prepared_volumes() if row.machine in running and self._volumes.can_look(row)]

    def _look(self, row: Attachment) -> None:
        try:
            now = self._store.attachment(row.machine, row.key)
            if now is not None and now.wanted and now.backing is not None:
                self._volumes.look(now)
        except (NotReady, StoreError):
            return  # it is being asked, or fails: who waits for it says so
        except Exception:
            log.exception("a bug: the next look comes all the same", machine=row.machine, volume=row.name)


@dataclass(frozen=True, slots=True)
class Rescan:
    """Commands of the admin socket: looks at the volumes of one machine, at once. Blocking."""

    store: Store
    volumes: Volumes
    clock: Callable[[], int]
    answer_seconds: float = ANSWER_SECONDS
    grow_seconds: float = GROW_SECONDS

    def rescan(self, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Ask anew how large a machine's volumes are (or the one named `volume`), and let its guest see all of it.

        Raises NotFound, InvalidSpec.
        """
        machine = self._machine(arguments)
        rows = _chosen(machine, str(arguments.get("volume", "")))
        plugged = [row for row in rows if _is_plugged(machine, row)]
        answers = self._answers(plugged, since=self.clock(), seconds=self.answer_seconds)
        larger = [row for row in plugged if _is_larger(row, answers[row.name]) and not _waits_for_start(row)]
        self._wait_until_grown(larger, answers)
        return [self._told(row, answers.get(row.name)) for row in rows]

    def glance(self, arguments: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """By volume of a machine that a guest has open: whether its backend answers, None if that is not known yet, and
        else its words. Raises NotFound, InvalidSpec."""
        machine = self._machine(arguments)
        rows = [row for row in _chosen(machine, "") if _is_plugged(machine, row) and self.volumes.can_look(row)]
        found = self._answers(rows, since=0, seconds=GLANCE_SECONDS)
        return {name: _glanced(answer) for name, answer in found.items() if answer is not None}

    def _machine(self, arguments: Mapping[str, Any]) -> Machine:
        machine_id = arguments.get("machine")
        if not isinstance(machine_id, str):
            raise InvalidSpec("machine", "must be a machine's id")
        if (machine := self.store.machine(machine_id)) is None:
            raise NotFound(f"there is no machine {machine_id!r}")
        return machine

    def _answers(self, rows: Sequence[Attachment], *, since: int, seconds: float) -> dict[str, Found | NotReady | None]:
        """What each backend says. All are asked at once; who has not answered in time is told of as such."""
        end = time.monotonic() + seconds
        answers: dict[str, Found | NotReady | None] = {}
        waiting = list(rows)
        while waiting:
            for row in waiting:
                answers[row.name] = self._answer(row, since)
            waiting = [row for row in waiting if _is_under_way(answers[row.name])]
            if time.monotonic() > end:
                break
            if waiting:
                time.sleep(POLL_SECONDS)
        return answers

    def _answer(self, row: Attachment, since: int) -> Found | NotReady | None:
        try:
            return self.volumes.look(row, since)
        except NotReady as error:
            return error

    def _wait_until_grown(self, rows: Sequence[Attachment], answers: Mapping[str, Found | NotReady | None]) -> None:
        end = time.monotonic() + self.grow_seconds
        while time.monotonic() < end:
            if not any(_is_larger(self._now(row), answers[row.name]) for row in rows):
                return
            time.sleep(POLL_SECONDS)

    def _now(self, row: Attachment) -> Attachment:
        """As it is by now; as it was, where it has gone or is to be prepared anew meanwhile."""
        now = self.store.attachment(row.machine, row.key)
        return now if now is not None and isinstance(now.backing, DiskSource) else row

    def _told(self, row: Attachment, answer: Found | NotReady | None) -> dict[str, Any]:
        before = row.backing.size if isinstance(row.backing, DiskSource) else 0
        outcome, message = _outcome(row, self._now(row), answer)
        return {
            "volume": row.name,
            "outcome": outcome,
            "message": message,
            "bytes_before": before or None,
            "bytes": answer.size if isinstance(answer, Found) else None,
        }


def _chosen(machine: Machine, name: str) -> list[Attachment]:
    rows = [row for row in machine.attachments if row.kind == "volume" and row.wanted and name in ("", row.name)]
    if name and not rows:
        raise NotFound(f"machine {machine.id} has no volume {printable.quote(name)}")
    return rows


def _is_plugged(machine: Machine, row: Attachment) -> bool:
    states = {each.name: each.state for each in machine.status.volumes}
    return machine.status.state == pb.MACHINE_RUNNING and states.get(row.name) == pb.VOLUME_ATTACHED


def _is_under_way(answer: Found | NotReady | None) -> bool:
    return isinstance(answer, NotReady) and answer.code == UNDER_WAY


def _is_larger(row: Attachment, answer: Found | NotReady | None) -> bool:
    return isinstance(answer, Found) and isinstance(row.backing, DiskSource) and answer.size > row.backing.size


def _waits_for_start(row: Attachment) -> bool:
    return isinstance(row.backing, DiskSource) and bool(disks.fixed_while_open(row.backing))


def _glanced(answer: Found | NotReady) -> dict[str, Any]:
    if isinstance(answer, Found):
        return {"answers": True, "problem": None}
    return {"answers": None if _is_under_way(answer) else False, "problem": str(answer)}


def _outcome(row: Attachment, now: Attachment, answer: Found | NotReady | None) -> tuple[str, str]:
    """A word, and a sentence about it, of a volume as it was, as it is by now, and what its backend has said."""
    if answer is None:
        return "not-asked", "nobody is asked for it: no guest has it open, or it is a disk of the machine's own"
    if isinstance(answer, NotReady):
        return answer.code or "fails", str(answer)
    assert isinstance(row.backing, DiskSource)
    assert isinstance(now.backing, DiskSource)
    before, size = byte_words(row.backing.size), byte_words(answer.size)
    if answer.size < row.backing.size:
        return "smaller", f"it has {size}, and the guest was given {before}: what lay beyond is gone"
    if answer.size == row.backing.size:
        return "same", f"it has {size}, and the guest sees all of it"
    if because := disks.fixed_while_open(row.backing):
        return "grows-at-start", f"it has {size}, of which the guest sees {before} until its next start: {because}"
    if now.backing.size >= answer.size:
        return "grown", f"the guest sees {size} of it now, and saw {before}"
    return "growing", f"it has {size}, of which the guest sees {before} yet: see machine why"
