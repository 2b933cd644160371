"""Whose word makes wishes of a restored backup those of the present: a poollet's that has compared, or an operator's.

A store that was put back says so itself (`store/backup.py`). When it is served for the first time every machine of it
begins to wait, and gets a new generation: so whatever a poollet listed before, it finds a difference and reconciles the
machine. That is seen from here: a list by the machine's uid, then its calls, then, if none of them has failed, a list
by the machine's id (contract A.5). Relists alone prove nothing: a poollet whose API is away makes them, too. What waits
meanwhile does not belong here (that is `reconcile/restored.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import NotFound, StoreError
from sri_libvirt.records import LABEL_UID, Event
from sri_libvirt.store.backup import COPIED

if TYPE_CHECKING:
    from sri_libvirt.store import Store, Transaction

log = structlog.get_logger(__name__)

META_BEGUN = "restored"
"""Key in `meta`: the copy, by when it was made, whose machines have begun to wait."""


def begin(tx: Transaction, now: int) -> int:
    """Let every machine of a restored backup wait, once; how many they are."""
    copied = tx.meta(COPIED)
    if copied is None or tx.meta(META_BEGUN) == copied:
        return 0
    machines = tx.machines()
    for each in machines:
        tx.set_spec(each.id, each.spec, each.generation + 1)
        tx.set_run(each.id, replace(each.run, strangers=None))
        tx.set_unconfirmed(each.id, now)
        message = "the store is a backup that was put back; what it says of this machine waits to be confirmed"
        tx.add_event(each.id, Event(kind="restored", reason="waits", message=message))
    tx.set_meta(META_BEGUN, copied)
    return len(machines)


def confirm(tx: Transaction, ids: list[str], who: str) -> list[str]:
    """Let these machines (all that wait if none is named) be what the store says; which of them had waited.

    Raises NotFound, with nothing done, for one that there is not.
    """
    for machine_id in ids:
        if tx.machine(machine_id) is None:
            raise NotFound(f"there is no machine {machine_id}")
    waiting = [each for each in tx.unconfirmed() if not ids or each in ids]
    for machine_id in waiting:
        tx.set_unconfirmed(machine_id, 0)
        tx.add_event(machine_id, Event(kind="restored", reason="confirmed", message=f"it is confirmed by {who}"))
    return waiting


class Confirmation:
    """Listens to the lists that are asked for. `wake` is called for each machine that is confirmed."""

    def __init__(self, store: Store, clock: Callable[[], int], wake: Callable[[str], None]) -> None:
        self._store = store
        self._clock = clock
        self._wake = wake
        self._waiting: dict[str, str] = {}  # id: uid
        self._compared: set[str] = set()

    def begin(self) -> None:
        """Find out who waits. Before anybody can be heard, and before any lane works."""
        if count := self._store.write(lambda tx: begin(tx, self._clock())):
            log.warning("the store is a restored backup: machines wait until a poollet or an operator confirms them",
                        machines=count)  # fmt: skip
        self._waiting = self._store.write(lambda tx: {each: _uid(tx, each) for each in tx.unconfirmed()})

    def count(self) -> int:
        """How many machines wait."""
        return len(self._waiting)

    def listed(self, asked: pb.MachineFilter) -> None:
        """A list was asked for. Returns at once."""
        if not self._waiting:
            return
        if uid := asked.label_selector.get(LABEL_UID):
            self._compared |= {each for each, its in list(self._waiting.items()) if its == uid}
        elif asked.id in self._compared:
            self._compared.discard(asked.id)
            work = self._store.submit(
                lambda tx: confirm(tx, [asked.id], "the poollet, which has compared it with the API"), relieving=True
            )
            work.add_done_callback(self._confirmed)

    def command(self, arguments: Mapping[str, Any]) -> dict[str, int]:
        """The admin command: `ids`, all if empty; how many it was that had waited."""
        ids = [str(each) for each in arguments["ids"]]
        work = self._store.submit(lambda tx: confirm(tx, ids, "the operator"))
        work.add_done_callback(self._confirmed)
        return {"confirmed": len(work.result())}

    def _confirmed(self, done: Future[list[str]]) -> None:
        problem = done.exception()
        if isinstance(problem, StoreError):
            log.warning("a machine is not confirmed: the next comparison will tell", error=str(problem))
        if problem is not None:
            return
        for machine_id in done.result():
            self._waiting.pop(machine_id, None)
            self._wake(machine_id)


def _uid(tx: Transaction, machine_id: str) -> str:
    machine = tx.machine(machine_id)
    return machine.uid if machine else ""
