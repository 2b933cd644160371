"""Lanes: daemon threads that take one machine at a time and bring it to what it should be.

Each lane has one libvirt connection of its own, so one call at a time runs per connection and per domain. Blocking
calls belong here; asyncio does not, and neither do decisions (`plan.py`) or their execution (`perform.py`). A lane
whose call or action is too late is given up from outside (`watchdog.py`): once it is back it leaves its machine and
ends. Whatever fails, a look, a plan, an action or a bug, becomes a reason of its machine, and the lane goes on.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import structlog

from sri_libvirt import failpoints, names
from sri_libvirt.errors import UNDER_WAY, HypervisorError, NotReady, SRIError, StoreError, Unreachable
from sri_libvirt.hypervisor.base import Connection, Hypervisor
from sri_libvirt.metrics import Metrics
from sri_libvirt.reconcile import reasons as why
from sri_libvirt.reconcile import stopping
from sri_libvirt.reconcile.actions import (
    Action,
    AssignPorts,
    ChooseProfile,
    PlugDevice,
    PrepareDevice,
    ResolveImage,
    Start,
)
from sri_libvirt.reconcile.calls import LOOK, Calls, is_call, watched
from sri_libvirt.reconcile.observe import Observer
from sri_libvirt.reconcile.perform import Performer
from sri_libvirt.reconcile.plan import Plan, plan
from sri_libvirt.reconcile.queue import WakeQueue
from sri_libvirt.reconcile.view import NotSeen, Observed, Policy
from sri_libvirt.records import SECOND, Event, Key, Machine, Reason
from sri_libvirt.store.store import Store
from sri_libvirt.traces import Lap, Traces

log = structlog.get_logger(__name__)

_NUMBER = re.compile(r"\d+(\.\d+)?")

LOOKS = frozenset({LOOK, "connect", "offer", "snapshot", "last_words", "disk_errors"})
"""Calls of a look, and the whole of it: where one of them hangs, another look would too."""

MOST_SAME = 3
"""Passes in a row that may ask for the same actions: what is done and asked for again at once has brought nothing."""

MAX_PASSES = 24
"""Passes over one machine in a row; more means that actions do not bring it nearer, which is a bug or a race."""


STORE_RETRY = 5 * SECOND
BUG_RETRY = 30 * SECOND
LEAST_RETRY = 5 * SECOND
MOST_RETRY = 60 * SECOND
"""When a machine is looked at again whose pass failed, or an action of which failed that has no back-off of its own."""


AGAIN = (PrepareDevice, ResolveImage, ChooseProfile, AssignPorts)
"""Actions that every try of a start does again, and that change nothing then."""


class Said:
    """What the log says of actions, so that one that goes again as before is no new line. Safe from any thread: a
    machine is with one lane at a time."""

    def __init__(self) -> None:
        self._of: dict[str, dict[Hashable, str]] = {}

    def is_new(self, machine_id: str, action: Hashable, words: str) -> bool:
        """Remember it; whether it is not what was said last. Numbers in it do not count: times and sizes change."""
        said, words = self._of.setdefault(machine_id, {}), _NUMBER.sub("#", words)
        if said.get(action) == words:
            return False
        said[action] = words
        return True

    def over(self, machine_id: str, action: Hashable) -> None:
        """Whatever it comes to next is new."""
        self._of.get(machine_id, {}).pop(action, None)

    def gone(self, machine_id: str) -> None:
        """Whatever is said of the machine is new."""
        self._of.pop(machine_id, None)


@dataclass(frozen=True, slots=True)
class Loop:
    """What all lanes share."""

    store: Store
    queue: WakeQueue
    hypervisor: Hypervisor
    performer: Performer
    observer: Observer
    policy: Policy
    metrics: Metrics
    clock: Callable[[], int]
    call_deadline: int = 120 * SECOND
    said: Said = field(default_factory=Said)
    traces: Traces = field(default_factory=lambda: Traces(time.time_ns))


class Lane(threading.Thread):
    """One worker. Ends when the queue is closed, after the machine in hand, and when it was given up.

    An `urgent` one takes machines whose guest is to go, and hands them back as soon as it is gone.
    """

    def __init__(self, loop: Loop, number: int, *, urgent: bool = False) -> None:
        super().__init__(name=f"lane-{number}", daemon=True)
        self.urgent = urgent
        self._loop = loop
        self.calls = Calls(loop.call_deadline)
        self._connection: Connection | None = None
        self._outcome = "ok"

    def run(self) -> None:
        queue = self._loop.queue
        while (machine_id := queue.take(self.urgent)) is not None:
            begun, self._outcome = time.monotonic(), "ok"
            waited = (self._loop.clock() - queue.since(machine_id)) / SECOND
            try:
                wake_at = self.reconcile(machine_id)
            except StoreError as error:
                log.warning("pass failed", machine=machine_id, error=str(error))
                self._tell(machine_id, why.not_read(str(error)))
                wake_at, self._outcome = self._loop.clock() + STORE_RETRY, "error"
            except Exception as error:
                log.exception("a bug: the machine is tried again later", machine=machine_id)
                self._tell(machine_id, why.bug(error))
                wake_at, self._outcome = self._loop.clock() + BUG_RETRY, "bug"
            self._loop.metrics.loop_pass(self._outcome, time.monotonic() - begun)
            if any(lap.kind == "action" for lap in self.calls.laps):
                waiting = Lap("wait", "for a lane", begun - waited, begun)
                self._loop.traces.add(machine_id, [waiting, *self.calls.laps])
            if self.calls.given_up:
                self._leave(machine_id)
                break
            queue.done(machine_id)
            if wake_at is not None:
                queue.wake(machine_id, wake_at)
        self._drop_connection()

    def reconcile(self, machine_id: str) -> int | None:
        """Bring one machine as far as it goes now. Returns when to look again; None: when woken."""
        self.calls.of_machine(machine_id)
        last: tuple[Action, ...] = ()
        same = 0
        for _ in range(MAX_PASSES):
            machine = self._loop.store.machine(machine_id)
            if machine is None:
                self._loop.said.gone(machine_id)
                return None
            decided = self._decide(machine)
            if self.calls.given_up:
                return None  # others have looked at it since
            self._record(machine, decided)
            if not decided.actions:
                return decided.wake_at
            last, same = decided.actions, same + 1 if decided.actions == last else 1
            if same > MOST_SAME:
                break
            if self.urgent and not self._loop.queue.urgent(machine_id):
                return self._loop.clock()  # the rest is for others: it may take its time
            if not self._perform(machine, decided):
                return self._retry(machine_id)
        return self._rest(machine_id, last)

    def _rest(self, machine_id: str, actions: tuple[Action, ...]) -> int:
        """Nothing comes of what is done: do it less and less often, though its own events wake the machine."""
        names = ", ".join(sorted({type(action).__name__ for action in actions}))
        log.warning("no fixed point", machine=machine_id, actions=names)
        reason = why.no_progress(type(actions[0]).__name__, names)
        # Waited for: how long the rest is, is told by since when there is this reason.
        self._loop.store.write(lambda tx: tx.add_reason(machine_id, reason, kind="failed"))
        until = self._retry(machine_id)
        self._loop.queue.rest(machine_id, until)
        return until

    def _decide(self, machine: Machine) -> Plan:
        loop = self._loop
        with self.calls.acting(LOOK):
            observed = self._look(machine)
            try:
                decided = plan(machine, observed, loop.clock(), loop.policy)
            except Exception as error:
                observed = self._met_bug(machine.id, error)
                decided = plan(machine, observed, loop.clock(), loop.policy)
        if isinstance(observed, NotSeen):
            self._drop_connection()
        return decided

    def _look(self, machine: Machine) -> Observed | NotSeen:
        stuck = self._loop.queue.held(machine.id)  # before the look, which is later than every call that has come back
        if LOOKS.intersection(stuck):
            return NotSeen("the look at it hangs", stuck)
        try:
            return self._loop.observer.look(machine, self._connect, stuck)
        except (SRIError, OSError) as error:
            log.warning("look failed", machine=machine.id, error=str(error))
            return NotSeen(str(error), stuck, cause="refused")
        except Exception as error:
            return self._met_bug(machine.id, error)

    def _met_bug(self, machine_id: str, error: Exception) -> NotSeen:
        log.exception("a bug: nothing is done to the machine but what needs no look", machine=machine_id)
        self._outcome = "bug"
        return NotSeen(type(error).__name__, self._loop.queue.held(machine_id), cause="bug")

    def _record(self, machine: Machine, decided: Plan) -> None:
        """Write what the pass found, if it is news; before its actions, so that a crash loses no reason."""
        old = (machine.status, machine.run, machine.reasons, machine.observed_generation)
        new = (decided.status, decided.run, decided.reasons, decided.observed_generation)
        if old == new and not decided.events and not decided.consumed_stop_at:
            return
        self._loop.store.write(
            lambda tx: tx.record_pass(
                machine.id,
                status=decided.status,
                run=decided.run,
                reasons=decided.reasons,
                observed_generation=decided.observed_generation,
                consumed_stop_at=decided.consumed_stop_at,
                events=[replace(event, time=self._loop.clock()) for event in decided.events],
            ),
            relieving=stopping.gives_back(machine, self._loop.policy),
        )

    def _perform(self, machine: Machine, decided: Plan) -> bool:
        """Perform in order until one fails. False: nothing is gained by looking again at once."""
        performer, machine_id = self._loop.performer, machine.id
        failed, unprepared = False, set[Key]()
        for action in decided.actions:
            if self.calls.given_up or (failed and not performer.independent(action)):
                break
            if isinstance(action, PlugDevice) and action.key in unprepared:
                continue
            name, begun, outcome = type(action).__name__, time.monotonic(), "bug"
            key: Key | None = getattr(action, "key", None)
            which = (name, key)
            try:
                connection = self._connect()
                device = names.alias(*key) if key else ""
                with self.calls.acting(name, device), failpoints.around(f"perform.{name}", HypervisorError):
                    performer.perform(action, machine, connection)
                outcome = "ok"
                if not isinstance(action, AGAIN):
                    self._loop.said.over(machine_id, which)
                if not isinstance(action, AGAIN) or self._loop.said.is_new(machine_id, which, outcome):
                    log.info("action done", machine=machine_id, action=name, seconds=round(time.monotonic() - begun, 4))
                if isinstance(action, Start):
                    self._loop.said.gone(machine_id)
            except Unreachable as error:
                log.warning("libvirt was lost", machine=machine_id, action=name, error=str(error))
                outcome = type(error).__name__
                self._drop_connection()
                return True  # the next look says so, and for how long to wait
            except StoreError:
                outcome = "StoreError"
                raise
            except (SRIError, OSError) as error:
                # Nothing has failed while slow work is under way: that is how every connected volume begins.
                waits = isinstance(error, NotReady) and error.code == UNDER_WAY
                tell, event = (log.info, "action waits") if waits else (log.warning, "action failed")
                if self._loop.said.is_new(machine_id, which, str(error)):
                    tell(event, machine=machine_id, action=name, error=str(error))
                failed, outcome = True, "waits" if waits else type(error).__name__
                if not performer.note_failure(action, machine_id, error):
                    return False
            except Exception as error:
                log.exception("a bug: the action is tried again later", machine=machine_id, action=name)
                failed, self._outcome, met = True, "bug", why.bug(error)
                if not performer.note_failure(action, machine_id, NotReady(met.message, met.advice, met.code)):
                    return False
            finally:
                if isinstance(action, PrepareDevice) and outcome != "ok":
                    unprepared.add(action.key)
                self._loop.metrics.action(name, outcome, time.monotonic() - begun)
        return True

    def _retry(self, machine_id: str) -> int:
        """When to try again what only time can help: as much later as it has failed already, within bounds."""
        now, machine = self._loop.clock(), self._loop.store.machine(machine_id)
        failing = [reason.since for reason in machine.reasons if reason.action] if machine else []
        return now + min(max(now - min(failing, default=now), LEAST_RETRY), MOST_RETRY)

    def _leave(self, machine_id: str) -> None:
        """The late call is back, and what it did is on record: let others look at the machine."""
        late = self.calls.given_up
        assert late is not None
        seconds = time.monotonic() - late.begun
        what = "call of libvirt" if is_call(late.name) else "work on it"
        log.warning("what was late came back", machine=machine_id, name=late.name, seconds=round(seconds, 1))
        message = f"the late {what} ({late.name}) came back; the domain is read again"
        event = Event(kind="late", reason=late.name, message=message, took=int(seconds * SECOND),
                      measure="work")  # fmt: skip
        with suppress(StoreError):  # the provider is being stopped
            self._loop.store.submit(lambda tx: tx.add_event(machine_id, event))
        self._loop.queue.release(machine_id, late.name)

    def _tell(self, machine_id: str, reason: Reason) -> None:
        """Keep why a pass came to no plan, without waiting: it may be the store that fails."""
        with suppress(StoreError):  # the provider is being stopped
            self._loop.store.submit(lambda tx: tx.add_reason(machine_id, reason, kind="failed"))

    def _connect(self) -> Connection:
        if self._connection is None:
            with self.calls.making("connect"):
                connection = self._loop.hypervisor.connect()
            self._connection = watched(connection, self.calls.making)
        return self._connection

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
