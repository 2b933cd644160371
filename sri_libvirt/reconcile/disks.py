"""Disks in use: what is told of one at which QEMU has paused its guest, and what becomes of one that has grown. Pure.

A guest sees more of a volume only by a call that would cut its storage if it asked for less, so that call is planned
for a size that the latest look at the backend has found and no other; as yet there is such a look when the guest was
paused. What a pause means for the machine does not belong here (`states.py`), nor when backends are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sri_libvirt.devices import DiskSource
from sri_libvirt.reconcile.actions import ResizeDisk
from sri_libvirt.reconcile.reasons import device_words, of_device
from sri_libvirt.reconcile.step import Step, join, soonest
from sri_libvirt.reconcile.view import FailedDisk, Heard, Observed, Policy
from sri_libvirt.records import SECOND, Attachment, Event, Machine, Reason
from sri_libvirt.resources import byte_words

IO_ERROR = "io-error"

ASK_AGAIN = 2 * SECOND
"""When a machine is looked at again whose disk's backend is being asked."""

POWER_CYCLE = "Set the machine's power OFF and ON: its guest is shut down and started anew."


def told(step: Step, machine: Machine, observed: Observed, now: int) -> Step:
    """What is done about a guest that does not run, with the disks named that are to blame, and with events."""
    paused = [reason for reason in step.reasons if reason.code == IO_ERROR]
    if not paused:
        return step
    rows = {row.target: row for row in machine.attachments if row.alias in observed.live}
    failed = observed.failed_disks
    reasons = [io_error(rows, failed)] if failed else paused
    for disk in failed:
        if row := rows.get(disk.target):
            reasons += _of_backend(row, disk)
    others = [reason for reason in step.reasons if reason.code != IO_ERROR]
    asking = any(disk.backend is not None and disk.backend.answers is None for disk in failed)
    return replace(
        step,
        reasons=tuple(replace(reason, told=True) for reason in reasons) + tuple(others),
        events=step.events + tuple(_news(machine, reasons)),
        wake_at=soonest(step.wake_at, now + ASK_AGAIN if asking and step.wake_at else None),
    )


def grow(machine: Machine, observed: Observed, policy: Policy) -> Step:
    """Let a running guest see all of its volumes. One that is off has them measured before its next start."""
    steps = []
    for row in machine.attachments:
        if row.kind != "volume" or not row.wanted or row.problem or row.alias not in observed.live:
            continue
        if not isinstance(row.backing, DiskSource) or (size := policy.size_of(row)) <= row.backing.size:
            continue
        if because := fixed_while_open(row.backing):
            steps.append(Step(reasons=(grows_at_start(row, row.backing.size, size, because),)))
        else:
            steps.append(Step(actions=(ResizeDisk(row.key, size),)))
    return join(steps)


def fixed_while_open(disk: DiskSource) -> str:
    """Why QEMU cannot let a disk grow that it has open; "" if it can.

    librbd takes the new size of an image that it decrypts for that of its storage up to 16.2, which would cut it by its
    header, and for what the guest sees in 18.2: nobody can tell which one a QEMU has loaded.
    """
    if disk.protocol == "nbd":
        return "QEMU cannot resize the disk of an NBD server that it is connected to"
    if disk.encryption is not None and disk.encryption.engine == "librbd":
        return "a resize of an image that librbd decrypts cuts it, by some of its versions"
    return ""


def io_error(rows: dict[str, Attachment], failed: tuple[FailedDisk, ...]) -> Reason:
    """The pause itself. `rows` are the machine's by target."""
    names = ", ".join(
        (device_words(rows[disk.target]) if disk.target in rows else f"disk {disk.target}")
        + (" (no space is left for it)" if disk.no_space else "")
        for disk in failed
    )
    advice = "Look at the health of the storage behind it."
    if any(disk.no_space for disk in failed):
        advice = "Make room on the storage behind it: the guest goes on by itself then, and has lost nothing."
    message = f"QEMU paused the guest at an I/O error of {names}; it is resumed, after growing pauses"
    return Reason(
        IO_ERROR, message, advice, device=",".join(rows[each.target].alias for each in failed if each.target in rows)
    )


def backend_heard(row: Attachment, heard: Heard) -> Reason:
    """What its backend says now."""
    if heard.answers:
        return of_device(
            row,
            "backend-answers",
            f"the backend of {device_words(row)} answers now",
            "So the guest goes on with its next resume, as a rule, unless the storage lacks space or has bad blocks.",
        )
    return of_device(
        row, "backend-fails", f"the backend of {device_words(row)} fails now: {heard.problem}", heard.advice
    )


def disk_cut_off(row: Attachment) -> Reason:
    return of_device(
        row,
        "disk-cut-off",
        f"QEMU connects to the NBD server of {device_words(row)} once only, so a disk that has lost it does not come "
        "back by a resume (libvirt has a word for that since 9.2)",
        f"{POWER_CYCLE} See that the server answers first.",
    )


def grows_at_start(row: Attachment, before: int, size: int, because: str) -> Reason:
    return of_device(
        row,
        "grows-at-start",
        f"{device_words(row)} has {byte_words(size)} by now, of which the guest sees {byte_words(before)}: {because}",
        f"{POWER_CYCLE} It sees all of it then.",
    )


def _of_backend(row: Attachment, disk: FailedDisk) -> Iterator[Reason]:
    if disk.backend is not None and disk.backend.answers is not None:
        yield backend_heard(row, disk.backend)
    backing = row.backing
    if not disk.no_space and isinstance(backing, DiskSource) and backing.protocol == "nbd" and not backing.reconnect:
        yield disk_cut_off(row)


def _news(machine: Machine, reasons: list[Reason]) -> Iterator[Event]:
    """An event for each that was not told of a moment ago."""
    known = {reason.identity for reason in machine.reasons}
    for reason in reasons:
        if reason.identity not in known:
            yield Event(kind="disk", reason=reason.code, message=reason.message)
