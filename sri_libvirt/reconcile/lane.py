"""Lanes: daemon threads that take one machine at a time and bring it to what it should be.

Each lane has one libvirt connection of its own, so one call at a time runs per connection and per domain. Blocking
calls belong here; asyncio does not, and neither do decisions (`plan.py`) or their execution (`perform.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from sri_libvirt.errors import SRIError, StoreError, Unreachable
from sri_libvirt.hypervisor.base import Connection, Hypervisor
from sri_libvirt.metrics import Metrics
from sri_libvirt.reconcile.observe import Observer
from sri_libvirt.reconcile.perform import Performer
from sri_libvirt.reconcile.plan import Plan, plan
from sri_libvirt.reconcile.queue import WakeQueue
from sri_libvirt.reconcile.view import NotSeen, Policy
from sri_libvirt.records import SECOND, Event, Machine
from sri_libvirt.store.store import Store

log = structlog.get_logger(__name__)

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


class Lane(threading.Thread):
    """One worker. Ends when the queue is closed, after the machine in hand."""

    def __init__(self, loop: Loop, number: int) -> None:
        super().__init__(name=f"lane-{number}", daemon=True)
        self._loop = loop
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
            queue.done(machine_id)
            if wake_at is not None:
                queue.wake(machine_id, wake_at)
        self._drop_connection()

    def reconcile(self, machine_id: str) -> int | None:
        """Bring one machine as far as it goes now. Returns when to look again; None: when woken."""
        for _ in range(MAX_PASSES):
            machine = self._loop.store.machine(machine_id)
            if machine is None:
                return None
            decided = self._decide(machine)
            self._record(machine, decided)
            if not decided.actions:
                return decided.wake_at
            if not self._perform(machine_id, decided):
                return self._loop.clock() + 5 * SECOND
        log.warning("no fixed point", machine=machine_id, passes=MAX_PASSES)
        return self._loop.clock() + 5 * SECOND

    def _decide(self, machine: Machine) -> Plan:
        loop = self._loop
        observed = loop.observer.look(machine, self._connect)
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
            )
        )

    def _perform(self, machine_id: str, decided: Plan) -> bool:
        """Perform in order until one fails. False: nothing is gained by looking again at once."""
        performer = self._loop.performer
        failed = False
        for action in decided.actions:
            if failed and not performer.independent(action):
                break
            name, begun, outcome = type(action).__name__, time.monotonic(), "bug"
            try:
                performer.perform(action, machine_id, self._connect())
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

    def _tell_of_bug(self, machine_id: str) -> None:
        """Put it into the timeline, without waiting: it may be the store that fails."""
        message = "the provider (or a plugin of it) met a bug of its own, tried again in 30 s; its log says more"
        event = Event(kind="failed", reason="bug", message=message)
        with suppress(StoreError):  # the provider is being stopped
            self._loop.store.submit(lambda tx: tx.add_event(machine_id, event))

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = self._loop.hypervisor.connect()
        return self._connection

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
