"""How a guest is started, stopped and woken, and what its record says of that before and after the call.

Performers like those of `perform.py`, which are the door to them. Whether an action is right does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from sri_libvirt.domain import ports
from sri_libvirt.errors import HypervisorError, Unreachable, UnusableSave
from sri_libvirt.hypervisor.base import Connection
from sri_libvirt.reconcile import actions as act
from sri_libvirt.reconcile import brake, starting
from sri_libvirt.reconcile.firstbyte import Listen, nobody_listens
from sri_libvirt.reconcile.reasons import SAVE_DROPPED
from sri_libvirt.reconcile.secrets import Lend, lend_nothing
from sri_libvirt.records import SECOND, Event, Machine, Run, StopCause
from sri_libvirt.store.store import Store
from sri_libvirt.store.transaction import Transaction


@dataclass(frozen=True, slots=True)
class GuestPower:
    """Keeps no state of its own."""

    store: Store
    clock: Callable[[], int]
    boot_id: Callable[[], str]
    lend: Lend = lend_nothing
    listen: Listen = nobody_listens

    def start(self, machine: Machine, connection: Connection, action: act.Start) -> None:
        """Start it cold or from its managed save, and tell which of both it was."""
        begun = self.clock()
        # A save may also hold a disk that was being unplugged when it was made.
        rows = machine.attachments if action.restore else ports.in_domain(machine.attachments)
        with self.lend(connection, rows), self.listen(machine.id):
            restored = connection.start(machine.id, force_boot=not action.restore) and action.restore
        now = self.clock()
        behind = max(now - machine.run.stopped_at, 1) if restored else 0
        # A restored run may be of an earlier boot.
        run = replace(machine.run.going(now), boot_id=self.boot_id(), not_before=0, error="", behind=behind,
                      restored=restored)  # fmt: skip
        dropped = "incomplete" if action.restore and not restored else action.drops_save
        word = "restored from its managed save" if restored else "started"
        started = Event(kind="started", reason="restored" if restored else "booted", message=f"the guest is {word}",
                        time=now, took=now - begun, measure="work")  # fmt: skip

        def work(tx: Transaction) -> None:
            tx.set_run(machine.id, run)
            if dropped:
                message = f"the managed save is dropped: {SAVE_DROPPED[dropped]}"
                tx.add_event(machine.id, Event(kind="save-dropped", reason=dropped, message=message, time=now))
            tx.add_event(machine.id, started)

        self._note(work)

    def set_clock(self, machine: Machine, connection: Connection) -> None:
        """Have an agent set it, and tell either way: a wrong clock does its harm long after the restore."""
        try:
            done = connection.set_time(machine.id)
        except Unreachable:
            raise
        except HypervisorError:
            done = False  # the guest runs, which is what was asked for
        if done:
            reason, end = "clock-set", "its agent has set it to the host's"
        else:
            reason, end = "clock-behind", "no agent in it has set it, so it stays behind unless the guest runs NTP"
        run = machine.run
        message = f"the guest's clock stood {run.behind // SECOND} s behind after the restore: {end}"
        event = Event(kind="clock", reason=reason, message=message, took=run.behind, measure="behind")

        def work(tx: Transaction) -> None:
            tx.set_run(machine.id, replace(run, behind=0))
            tx.add_event(machine.id, event)

        self._note(work)

    def resume(self, machine: Machine, connection: Connection, action: act.Resume) -> None:
        """Let it run on, or wake it. Noted before the call, so that the next one waits even if this one fails."""
        self._set_run(machine, replace(machine.run, resumed_at=self.clock(), resumes=action.resumes))
        (connection.wake_up if action.wake else connection.resume)(machine.id)

    def destroy(self, machine: Machine, connection: Connection, cause: StopCause | None) -> None:
        """End its QEMU."""
        now, run = self.clock(), machine.run
        if cause is None:  # noted before, so that the stop is known for ours
            run = replace(run, pressed_at=run.pressed_at or now, last_press_at=now)
        else:
            run = replace(run, ending=cause)
        self._set_run(machine, run, relieving=True)
        connection.destroy(machine.id)

    def press(self, machine: Machine, connection: Connection, *, first: bool) -> None:
        """Press its button."""
        now = self.clock()
        pressed = now if first else machine.run.pressed_at
        # Before the press, so that the grace time runs even if no press ever succeeds.
        self._set_run(machine, replace(machine.run, pressed_at=pressed, last_press_at=now), relieving=True)
        connection.press_power_button(machine.id)

    def note_start_failure(self, machine: Machine, what: str, message: str, error: Exception) -> None:
        """Keep why it could not be started, and until when no other start is tried."""
        now, failures, refused = self.clock(), machine.run.failures + 1, machine.run.save_refused
        if isinstance(error, UnusableSave):
            refused += starting.REFUSALS if error.certain else 1
        run = replace(machine.run, failures=failures, not_before=now + brake.back_off(failures), error=message,
                      save_refused=refused)  # fmt: skip
        event = Event(kind="failed", reason="start-failed", message=f"{what} failed: {message}", time=now)

        def work(tx: Transaction) -> None:
            tx.set_run(machine.id, run)
            tx.add_event(machine.id, event)

        self.store.write(work)

    def _set_run(self, machine: Machine, run: Run, *, relieving: bool = False) -> None:
        self._note(lambda tx: tx.set_run(machine.id, run), relieving=relieving)

    def _note(self, work: Callable[[Transaction], object], *, relieving: bool = False) -> None:
        """Write a step down. What a power loss takes of it, it took of guest and QEMU too: the step is taken anew."""
        self.store.write(work, synced=False, relieving=relieving)
