"""Who stopped the guest: from what libvirt's events, its states and QEMU's log say to one StopCause (contract G.5).

Pure. What follows from a cause (start again, wait, stay off) is decided in `plan.py`.
"""

from __future__ import annotations

from dataclasses import replace

from sri_libvirt.hypervisor.base import LastWords
from sri_libvirt.records import SECOND, Run, StopCause, StopEvent

LIBVIRT_DAEMONS = frozenset({"libvirtd", "virtqemud"})
"""QEMU names who sent it SIGTERM. libvirt's own daemon ends every QEMU whose guest has powered off in that way, so its
name says nothing; a virDomainDestroy is told from it by `reason=destroyed`."""

_BY_STOPPED = {
    "destroyed": StopCause.DESTROYED,
    "panicked": StopCause.PANICKED,
    "saved": StopCause.SAVED,
    "daemon": StopCause.FAILED,
}
"""Details of STOPPED, reasons of SHUTOFF and CRASHED, and `reason=` of the log that speak for themselves."""

LATE = 5 * 60 * SECOND
"""So near the end of a boot a stop is not believed to be the guest's own, where nobody could tell."""

_FELL = frozenset({"crashed", "failed"})
"""Words of all of them for a QEMU that libvirt did not end, or that it ended because its guest had panicked."""


def classify(
    run: Run,
    event: StopEvent | None,
    *,
    state_reason: str,
    managed_save: bool,
    last_words: LastWords,
    boot_id: str,
    host_stopping: bool | None,
    out_of_memory: bool = False,
) -> StopCause:
    """Why the guest of `run` is off.

    `event` is what the event thread saw, None when nobody watched. `state_reason` is libvirt's reason of SHUTOFF ("" if
    the domain is gone). `out_of_memory` is what the kernel says. The order of the rules matters: what is certain comes
    first.
    """
    if host_stopping:
        return StopCause.HOST  # libvirt-guests presses the button on all guests then
    if managed_save:
        return StopCause.SAVED  # each of our starts uses up or drops the save, so it is of this run
    if run.ending is not None:
        return run.ending  # it had stopped before its QEMU was ended
    detail = event.stopped if event else state_reason
    cause = _BY_STOPPED.get(detail)
    if cause is None and detail in _FELL:
        cause = _of_fall(event, last_words, out_of_memory)
    if cause is None and event is None:
        if run.boot_id != boot_id:
            return StopCause.HOST  # the host went down under it, whatever the log's end says
        cause = _BY_STOPPED.get(last_words.reason)
        if last_words.reason in _FELL:
            cause = _of_fall(event, last_words, out_of_memory)
    if cause is None:
        cause = _of_shutdown(event, detail, last_words)
    if run.pressed_at and cause in (StopCause.GUEST, StopCause.DESTROYED):
        return StopCause.REQUESTED
    if run.strangers is None and event is None and cause is StopCause.GUEST:
        return StopCause.UNKNOWN  # a restored backup does not know whether we have pressed the button since
    return cause


def saved_meanwhile(run: Run, event: StopEvent | None, reason: str, last_words: LastWords, ended: int) -> int:
    """When the guest of `run`, which runs, was saved without a look at it since: its clock stands still from then on; 0
    if it was not, or is not known to be restored.

    `reason` is libvirt's of its state, which does not tell while it is being restored; `ended` is when its boot ended.
    """
    if run.stopped is not None:
        return run.stopped_at if run.stopped is StopCause.SAVED else 0
    if event and event.stopped == "saved":
        return event.at
    if reason != "restored" or run.restored:
        return 0
    return last_words.saved_at if last_words.saved_at > run.started_at else ended


def reconsidered(run: Run, boot_id: str, boot_ended_at: int) -> Run:
    """The run as it is seen in the boot `boot_id`: a stop that nobody could tell from the host's own end, and that came
    shortly before that, was the host's. Those who press all buttons at a shutdown wait some minutes for slow guests."""
    if not run.unsure or run.boot_id == boot_id:
        return run
    late = bool(boot_ended_at) and boot_ended_at - run.stopped_at <= LATE
    return replace(run, unsure=False, stopped=StopCause.HOST if late else run.stopped)


def _of_fall(event: StopEvent | None, last_words: LastWords, out_of_memory: bool) -> StopCause:
    """The guest's kernel, the host's, QEMU itself or somebody else: libvirt alone knows only the first, if watched.

    Its events call a panic "crashed" and a QEMU that is gone "failed"; afterwards both are "crashed", but a QEMU whose
    guest has panicked was ended by libvirt, which QEMU's log tells.
    """
    ended_by_libvirt = last_words.reason == "crashed" and last_words.terminated_by in LIBVIRT_DAEMONS
    if event.stopped == "crashed" if event else ended_by_libvirt:
        return StopCause.PANICKED
    if out_of_memory:
        return StopCause.OUT_OF_MEMORY
    if last_words.aborted:
        return StopCause.ABORTED
    return StopCause.FAILED if event is None and last_words.reason == "failed" else StopCause.KILLED


def _of_shutdown(event: StopEvent | None, detail: str, last_words: LastWords) -> StopCause:
    """A bare "shutdown" is the guest's own or a SIGTERM's: libvirt 9 gives both the same state."""
    if event and event.shutdown:
        return StopCause.HOST if event.shutdown == "host" else StopCause.GUEST
    if last_words.terminated_by and last_words.terminated_by not in LIBVIRT_DAEMONS:
        return StopCause.HOST
    if "shutdown" in (detail, last_words.reason):
        return StopCause.GUEST
    return StopCause.UNKNOWN
