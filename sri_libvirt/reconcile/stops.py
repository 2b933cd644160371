"""Who stopped the guest: from what libvirt's events, its states and QEMU's log say to one StopCause (contract G.5).

Pure. What follows from a cause (start again, wait, stay off) is decided in `plan.py`.
"""

from __future__ import annotations

from sri_libvirt.hypervisor.base import LastWords
from sri_libvirt.records import Run, StopCause, StopEvent

LIBVIRT_DAEMONS = frozenset({"libvirtd", "virtqemud"})
"""QEMU names who sent it SIGTERM. libvirt's own daemon ends every QEMU whose guest has powered off in that way, so its
name says nothing; a virDomainDestroy is told from it by `reason=destroyed`."""

_BY_STOPPED = {
    "destroyed": StopCause.DESTROYED,
    "crashed": StopCause.FAILED,
    "failed": StopCause.FAILED,
    "saved": StopCause.SAVED,
}
"""Details of STOPPED, reasons of SHUTOFF and `reason=` of the log that speak for themselves; "shutdown" does not."""


def classify(
    run: Run,
    event: StopEvent | None,
    *,
    state_reason: str,
    managed_save: bool,
    last_words: LastWords,
    boot_id: str,
    host_stopping: bool,
) -> StopCause:
    """Why the guest of `run` is off.

    `event` is what the event thread saw, None when nobody watched. `state_reason` is libvirt's reason of SHUTOFF ("" if
    the domain is gone). The order of the rules matters: what is certain comes first.
    """
    if host_stopping:
        return StopCause.HOST  # libvirt-guests presses the button on all guests then
    if managed_save:
        return StopCause.SAVED  # each of our starts uses up or drops the save, so it is of this run
    detail = event.stopped if event else state_reason
    cause = _BY_STOPPED.get(detail)
    if cause is None and event is None:
        if run.boot_id != boot_id:
            return StopCause.HOST  # the host went down under it, whatever the log's end says
        cause = _BY_STOPPED.get(last_words.reason)
    if cause is None:
        cause = _of_shutdown(event, detail, last_words)
    if run.pressed_at and cause in (StopCause.GUEST, StopCause.DESTROYED):
        return StopCause.REQUESTED
    return cause


def _of_shutdown(event: StopEvent | None, detail: str, last_words: LastWords) -> StopCause:
    """A bare "shutdown" is the guest's own or a SIGTERM's: libvirt 9 gives both the same state."""
    if event and event.shutdown:
        return StopCause.HOST if event.shutdown == "host" else StopCause.GUEST
    if last_words.terminated_by and last_words.terminated_by not in LIBVIRT_DAEMONS:
        return StopCause.HOST
    if "shutdown" in (detail, last_words.reason):
        return StopCause.GUEST
    return StopCause.UNKNOWN
