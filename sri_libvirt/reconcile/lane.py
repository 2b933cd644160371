"""Lanes: daemon threads that take one machine at a time and bring it to what it should be.

Each lane has one libvirt connection of its own, so one call at a time runs per connection and per domain. Blocking
calls belong here; asyncio does not, and neither do decisions (`plan.py`) or their execution (`perform.py`). A lane
whose call is too late is given up from outside (`watchdog.py`): once it is back it leaves its machine and ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from sri_libvirt import failpoints
from sri_libvirt.errors import HypervisorError, SRIError, StoreError, Unreachable
from sri_libvirt.hypervisor.base import Connection, Hypervisor
from sri_libvirt.metrics import Metrics
from sri_libvirt.reconcile import stopping
from sri_libvirt.reconcile.calls import Calls, watched
from sri_libvirt.reconcile.observe import Observer
from sri_libvirt.reconcile.perform import Performer
from sri_libvirt.reconcile.plan import Plan, plan
from sri_libvirt.reconcile.queue import WakeQueue
from sri_libvirt.reconcile.view import NotSeen, Observed, Policy
from sri_libvirt.records import SECOND, Event, Machine
from sri_libvirt.store.store import Store

log = structlog.get_logger(__name__)

LOOKS = frozenset({"connect", "offer", "snapshot", "last_words"})
"""Calls of a look: where one of them hangs, another look would too."""

MAX_PASSES = 24
"""Passes over one machine in a row; more means that actions do not bring it nearer, which is a bug or a race."""


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


class Lane(threading.Thread):
    """One worker. Ends when the queue is closed, after the machine in hand, and when it was given up."""

    def __init__(self, loop: Loop, number: int) -> None:
        super().__init__(name=f"lane-{number}", daemon=True)
        self._loop = loop
        self.calls = Calls(loop.call_deadline)
        self._connection: Connection | None = None

    def run(self) -> None:
        queue = self._loop.queue
        while (machine_id := queue.take()) is not None:
            begun, outcome = time.monotonic(), "ok"
            try:
                wake_at = self.reconcile(machine_id)
            except SRIError as error:
                log.warning("pass failed", machine=machine_id, error=str(error))
                wake_at, outcome = self._loop.clock() + 5 * SECOND, "error"
            except Exception:
                log.exception("a bug: the machine is tried again in 30 s", machine=machine_id)
                self._tell_of_bug(machine_id)
                wake_at, outcome = self._loop.clock() + 30 * SECOND, "bug"
            self._loop.metrics.loop_pass(outcome, time.monotonic() - begun)
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
        for _ in range(MAX_PASSES):
            machine = self._loop.store.machine(machine_id)
            if machine is None:
                return None
            decided = self._decide(machine)
            if self.calls.given_up:
                return None  # others have looked at it since
            self._record(machine, decided)
            if not decided.actions:
                return decided.wake_at
            if not self._perform(machine_id, decided):
                return self._loop.clock() + 5 * SECOND
        log.warning("no fixed point", machine=machine_id, passes=MAX_PASSES)
        return self._loop.clock() + 5 * SECOND

    def _decide(self, machine: Machine) -> Plan:
        loop = self._loop
        stuck = loop.queue.held(machine.id)  # before the look, which is later than every call that has come back
        observed: Observed | NotSeen
        if LOOKS.intersection(stuck):
            observed = NotSeen("the look at it hangs", stuck)
        else:
            observed = replace(loop.observer.look(machine, self._connect), stuck=stuck)
        decided = plan(machine, observed, loop.clock(), loop.policy)
        if isinstance(observed, NotSeen):
            self._drop_connection()
        return decided

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

    def _perform(self, machine_id: str, decided: Plan) -> bool:
        """Perform in order until one fails. False: nothing is gained by looking again at once."""
        performer = self._loop.performer
        failed = False
        for action in decided.actions:
            if self.calls.given_up or (failed and not performer.independent(action)):
                break
            name, begun, outcome = type(action).__name__, time.monotonic(), "bug"
            try:
                connection = self._connect()
                with failpoints.around(f"perform.{name}", HypervisorError):
                    performer.perform(action, machine_id, connection)
                outcome = "ok"
                log.info("action done", machine=machine_id, action=name, seconds=round(time.monotonic() - begun, 4))
            except Unreachable as error:
                log.warning("libvirt was lost", machine=machine_id, action=name, error=str(error))
                outcome = type(error).__name__
                self._drop_connection()
                return True  # the next look says so, and for how long to wait
            except (SRIError, OSError) as error:
                log.warning("action failed", machine=machine_id, action=name, error=str(error))
                failed, outcome = True, type(error).__name__
                if not performer.note_failure(action, machine_id, error):
                    return False
            finally:
                self._loop.metrics.action(name, outcome, time.monotonic() - begun)
        return True

    def _leave(self, machine_id: str) -> None:
        """The late call is back, and what it did is on record: let others look at the machine."""
        call = self.calls.given_up
        assert call is not None
        seconds = time.monotonic() - call.begun
        log.warning("a late call of libvirt came back", machine=machine_id, call=call.name, seconds=round(seconds, 1))
        message = f"the late call of libvirt ({call.name}) came back; the domain is read again"
        event = Event(kind="late", reason=call.name, message=message, took=int(seconds * SECOND))
        with suppress(StoreError):  # the provider is being stopped
            self._loop.store.submit(lambda tx: tx.add_event(machine_id, event))
        self._loop.queue.release(machine_id, call.name)

    def _tell_of_bug(self, machine_id: str) -> None:
        """Put it into the timeline, without waiting: it may be the store that fails."""
        message = "the provider (or a plugin of it) met a bug of its own, tried again in 30 s; its log says more"
        event = Event(kind="failed", reason="bug", message=message)
        with suppress(StoreError):  # the provider is being stopped
            self._loop.store.submit(lambda tx: tx.add_event(machine_id, event))

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
