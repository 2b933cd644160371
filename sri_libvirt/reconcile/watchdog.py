"""Looks after the lanes: one whose call or action is past its deadline is replaced, with a connection of its own for
the new one.

The machine is held then: what became of it is not known, so nobody touches the machine, but for a destroy, until the
lane's thread has come back and the domain was read again (design 7). Other machines go on meanwhile; one that waits
for a lane for long is told so. What a held machine may do does not belong here (that is `plan.py`), nor the deadlines
(`calls.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import structlog

from sri_libvirt.errors import StoreError
from sri_libvirt.reconcile import reasons as why
from sri_libvirt.reconcile.calls import Call
from sri_libvirt.reconcile.lane import Lane, Loop
from sri_libvirt.records import Event
from sri_libvirt.store.transaction import Transaction

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.5
"""How often the lanes are looked at."""

LOOKED_AT_SECONDS = 30.0
"""When lanes count as not looked at any more; a look itself takes no time."""

MOST_LATE = 16
"""Lanes that may be out late. libvirtd has 20 workers for all its clients: a call more would take the last of them from
those that work, so the lanes that are left wait then."""


def hangs_in_kernel(thread: int | None) -> bool:
    """Whether a thread of ours is in uninterruptible sleep: not even the end of the process would end it."""
    try:
        state = Path(f"/proc/self/task/{thread}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state == "D"


class Watchdog(threading.Thread):
    """Starts `number` lanes, and one for machines whose guest is to go, and keeps that many at work.

    `lanes` are those, without the late ones.
    """

    def __init__(
        self,
        loop: Loop,
        number: int,
        period: float = LOOK_SECONDS,
        hangs_in_kernel: Callable[[int | None], bool] = hangs_in_kernel,
    ) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.lanes = [Lane(loop, each, urgent=each == number) for each in range(number + 1)]
        self._loop = loop
        self._period = period
        self._hangs_in_kernel = hangs_in_kernel
        self._made = len(self.lanes)
        self._late: list[Lane] = []
        self._told_of_most = False
        self._told_to_wait: dict[str, int] = {}
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
                self.tell_who_waits()
            except Exception:
                log.exception("a bug: the lanes are looked at again")

    def stop(self) -> None:
        """Replace no more lanes; returns when the thread has ended. Lanes end with their queue."""
        self._ending.set()
        if self.ident is not None:
            self.join()

    def late(self) -> int:
        """How many lanes are out late."""
        return len(self._late)

    def problem(self, now: float) -> str:
        """What keeps machines from being worked on, and would not if this process began anew; "" before `start`.

        So a lane that is stuck in libvirt, or in the kernel, is none, and not even all of them are: libvirt keeps the
        call, and a process with a thread in the kernel cannot end, so that the next one could not begin. The machines
        say what they wait for then. But when no lane can be replaced any more for work that hangs in our own code,
        or in a driver's, only a restart ends that.
        """
        if self.ident is None:
            return ""
        dead = [lane.name for lane in self.lanes if lane.ident is not None and not lane.is_alive()]
        if dead or not self.is_alive():
            return f"ended by themselves: {', '.join(dead or [self.name])}"
        late = now - self._looked_at
        if late > LOOKED_AT_SECONDS:
            return f"nobody has looked at the lanes for {late:.0f} s"
        if not self._told_of_most or any(self._hangs_in_kernel(lane.native_id) for lane in self._late):
            return ""
        ours = [lane.name for lane in self._late if not lane.calls.in_hypervisor]
        return f"no lane can be replaced, and these hang in no call of libvirt: {', '.join(ours)}" if ours else ""

    def look(self, now: float) -> None:
        """Replace every lane that is past a deadline at `now` (seconds of `time.monotonic`)."""
        self._late = [lane for lane in self._late if lane.is_alive()]
        for place, lane in enumerate(self.lanes):
            if len(self._late) >= MOST_LATE:
                if not self._told_of_most:
                    log.error("too much work is late: no more lanes are replaced", late=len(self._late))
                self._told_of_most = True
                return
            late = lane.calls.give_up(now, self._loop.queue.hold)
            if late is not None:
                self._replace(place, late, now)
        self._told_of_most = False

    def tell_who_waits(self) -> None:
        """Give machines that wait for a lane for long a reason; their next pass takes it away."""
        now = self._loop.clock()
        waiting = self._loop.queue.waiting(now - self._loop.policy.long_wait)
        news = {each: since for each, since in waiting.items() if self._told_to_wait.get(each) != since}
        self._told_to_wait = waiting
        for machine_id, since in news.items():
            self._tell_to_wait(machine_id, since)

    def _tell_to_wait(self, machine_id: str, since: int) -> None:
        def note(tx: Transaction) -> None:
            if machine_id in self._loop.queue.waiting(since + 1):  # still
                tx.add_reason(machine_id, replace(why.waiting_for_lane(), since=since), kind="waiting")

        with suppress(StoreError):  # the provider is being stopped
            # One whose pass began just then has not seen the reason and would leave it: another pass.
            self._loop.store.submit(note).add_done_callback(lambda _: self._loop.queue.wake(machine_id))

    def _replace(self, place: int, late: Call, now: float) -> None:
        log.error("what a lane does takes too long: its machine is held, it is replaced",
                  machine=late.machine_id, name=late.name, seconds=round(now - late.begun, 1))  # fmt: skip
        self._late.append(self.lanes[place])
        self.lanes[place] = Lane(self._loop, self._made, urgent=self.lanes[place].urgent)
        self._made += 1
        self.lanes[place].start()
        reason = why.stuck((late.name,))
        lasts = int((now - late.begun) * 1e9)
        event = Event(kind="failed", reason=reason.code, message=reason.message, took=lasts, measure="work")
        with suppress(StoreError):  # the provider is being stopped
            self._loop.store.submit(lambda tx: tx.add_event(late.machine_id, event))
