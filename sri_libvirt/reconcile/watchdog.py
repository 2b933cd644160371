"""Looks after the lanes: one whose call is past its deadline is replaced, with a connection of its own for the new one.

The machine is held then: what became of the call is not known, so nobody touches the machine, but for a destroy, until
the lane's thread has come back and the domain was read again (design 7). Other machines go on meanwhile. What a held
machine may do does not belong here (that is `plan.py`), nor the deadlines (`calls.py`).
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import structlog

from sri_libvirt.errors import StoreError
from sri_libvirt.reconcile import reasons as why
from sri_libvirt.reconcile.calls import Call
from sri_libvirt.reconcile.lane import Lane, Loop
from sri_libvirt.records import Event

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.5
"""How often the lanes are looked at."""

LOOKED_AT_SECONDS = 30.0
"""When lanes count as not looked at any more; a look itself takes no time."""

MOST_LATE = 16
"""Lanes that may be out in late calls. libvirtd has 20 workers for all its clients: a call more would take the last of
them from those that work, so the lanes that are left wait then."""


class Watchdog(threading.Thread):
    """Starts `number` lanes and keeps that many at work. `lanes` are those, without the late ones."""

    def __init__(self, loop: Loop, number: int, period: float = LOOK_SECONDS) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.lanes = [Lane(loop, each) for each in range(number)]
        self._loop = loop
        self._period = period
        self._made = number
        self._late: list[Lane] = []
        self._told_of_most = False
        self._looked_at = 0.0
        self._ending = threading.Event()

    def start(self) -> None:
        """Start the lanes, then the watch over them."""
        for lane in self.lanes:
            lane.start()
        self._looked_at = time.monotonic()
        super().start()

    def run(self) -> None:
        while not self._ending.wait(self._period):
            try:
                self._looked_at = time.monotonic()
                self.look(self._looked_at)
            except Exception:
                log.exception("a bug: the lanes are looked at again")

    def stop(self) -> None:
        """Replace no more lanes; returns when the thread has ended. Lanes end with their queue."""
        self._ending.set()
        if self.ident is not None:
            self.join()

    def problem(self, now: float) -> str:
        """What keeps machines from being worked on: "" when lanes are at work, and are looked at, or before `start`.

        A lane that is stuck in libvirt is none: that is libvirt's fault, and is dealt with here.
        """
        if self.ident is None:
            return ""
        dead = [lane.name for lane in self.lanes if lane.ident is not None and not lane.is_alive()]
        if dead or not self.is_alive():
            return f"ended by themselves: {', '.join(dead or [self.name])}"
        late = now - self._looked_at
        return f"nobody has looked at the lanes for {late:.0f} s" if late > LOOKED_AT_SECONDS else ""

    def look(self, now: float) -> None:
        """Replace every lane whose call is past its deadline at `now` (seconds of `time.monotonic`)."""
        self._late = [lane for lane in self._late if lane.is_alive()]
        for place, lane in enumerate(self.lanes):
            if len(self._late) >= MOST_LATE:
                if not self._told_of_most:
                    log.error("too many calls of libvirt are late: no more lanes are replaced", late=len(self._late))
                self._told_of_most = True
                return
            call = lane.calls.give_up(now, self._loop.queue.hold)
            if call is not None:
                self._replace(place, call, now)
        self._told_of_most = False

    def _replace(self, place: int, call: Call, now: float) -> None:
        log.error("a call of libvirt does not come back: its machine is held, its lane is replaced",
                  machine=call.machine_id, call=call.name, seconds=round(now - call.begun, 1))  # fmt: skip
        self._late.append(self.lanes[place])
        self.lanes[place] = Lane(self._loop, self._made)
        self._made += 1
        self.lanes[place].start()
        reason = why.stuck_call((call.name,))
        event = Event(kind="failed", reason=reason.code, message=reason.message, took=int((now - call.begun) * 1e9))
        with suppress(StoreError):  # the provider is being stopped
            self._loop.store.submit(lambda tx: tx.add_event(call.machine_id, event))
