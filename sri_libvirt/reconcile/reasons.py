"""Every reason that the loop can give for a machine that is not what it should be: a code, a sentence, an advice.

`sri-libvirt machine why` prints them; a machine without a reason is as it should be, and what an operator should know
of it all the same is a note. When a reason applies does not belong here (that is `plan.py`).
"""

from __future__ import annotations

from sri_libvirt import printable, userdata
from sri_libvirt.errors import UNDER_WAY
from sri_libvirt.records import SECOND, Attachment, Event, Machine, Reason, StopCause, Stranger

WORDS = {"image": "the image", "seed": "the cloud-init seed", "volume": "volume", "nic": "network interface"}

THIS = "<machine id>"
"""Stands in an advice for the machine's id: see `advice`."""

_TOLD = 3
"""Changes of a domain that a sentence names."""

CODES = frozenset(
    {
        "unreachable",
        "stuck-call",
        "stuck-work",
        "look-failed",
        "bug",
        "not-read",
        "action-failed",
        "waiting-for-lane",
        "foreign-domain",
        "domain-edited",
        "restored",
        "starting",
        "device-not-ready",
        "slow-storage",
        "no-room",
        "open-elsewhere",
        "held",
        "under-way",
        "backend-silent",
        "volume-refused",
        "in-use",
        "image-unreachable",
        "image-refused",
        "image-not-allowed",
        "cold-only",
        "release-failed",
        "no-port",
        "detach-settles",
        "detach-held",
        "unplugging",
        "unknown-device",
        "device-ejected",
        "no-progress",
        "define-failed",
        "network-unknown",
        "address-taken",
        "foreign-disk-source",
        "block-job",
        "nic-astray",
        "older-device-first",
        "start-failed",
        "back-off",
        "guest-powered-off",
        "drained",
        "restore-failed",
        "paused",
        "paused-unexplained",
        "paused-by-watchdog",
        "being-worked-on",
        "migrating",
        "io-error",
        "backend-answers",
        "backend-fails",
        "disk-cut-off",
        "grows-at-start",
        "api-error",
        "asleep",
        "halted",
        "guest-crashed",
        "starting-up",
        "state-unknown",
        "shutting-down",
        "host-stopping",
        "start-blocked",
        "domain-type-gone",
        "machine-type-gone",
        "firmware-gone",
    }
)
"""All codes: those that this module makes, and what keeps a machine from starting on this host as it was made.

The words of the latter are those of the KVM verdict (`virtualisation.py`) and of `domain/profile.py`; those of a guest
that is paused, asleep, halted or crashed stand in the table of `states.py`, those of disks in use in `disks.py`.
"""


def device_words(row: Attachment) -> str:
    """A device as a user calls it: `volume "data"`."""
    return f"{WORDS[row.kind]} {printable.quote(row.name)}" if row.name else WORDS[row.kind]


def of_device(row: Attachment, code: str, message: str, advice: str = "") -> Reason:
    """A reason that is about one device."""
    return Reason(code, message, advice, device=row.alias)


def advice(reason: Reason, machine_id: str) -> str:
    """What to do about it, with paths and commands of this machine."""
    return reason.advice.replace(THIS, machine_id)


def notes(machine: Machine) -> list[str]:
    """What an operator should know of a machine though nothing is missing: of its devices, and of its user-data."""
    rows = [row for row in machine.attachments if row.wanted and row.backing is not None and row.backing.note]
    found = [f"{device_words(row)}: {row.backing.note}" for row in rows if row.backing]
    if of_data := userdata.note(machine.spec.ignition_data, seeded=machine.seeded):
        found.append(of_data)
    return found


def unreachable(message: str) -> Reason:
    return Reason(
        "unreachable",
        f"libvirt cannot be asked, so nothing is known and nothing is done: {message}",
        "Start libvirtd (systemctl start libvirtd, or virtqemud on hosts with modular daemons). Guests that run are "
        "not touched meanwhile, and the provider goes on by itself once libvirt answers.",
    )


def stuck(names: tuple[str, ...]) -> Reason:
    """Of late calls, which begin with a small letter, and late actions."""
    if all(name[:1].isupper() for name in names):
        return Reason(
            "stuck-work",
            f"work on this machine has not ended in time ({', '.join(names)}); what it did is not known, so the "
            "machine is left alone until it does",
            "A file system, a device or a driver that it needs hangs: look at the host's mounts, storage and kernel "
            "log. Power OFF or delete ends its guest, after the grace time.",
        )
    return Reason(
        "stuck-call",
        f"a call of libvirt for this machine has not come back in time ({', '.join(names)}); what it did is not known, "
        "so the machine is left alone until it does",
        "Its QEMU or the storage below it hangs: look at the host's storage and the domain's log. Power OFF or delete "
        "ends a QEMU that hangs, after the grace time.",
    )


def look_failed(error: str) -> Reason:
    return Reason(
        "look-failed",
        f"the machine cannot be looked at, so nothing is known and nothing is done; tried again: {error}",
        "Its QEMU or the storage below it hangs, or its domain was damaged: look at virsh dominfo and the domain's "
        "log. Power OFF or delete ends its guest without a look, after the grace time.",
    )


def bug(error: Exception | str) -> Reason:
    name = error if isinstance(error, str) else type(error).__name__
    return Reason(
        "bug",
        f"the provider, or a plugin of it, met a bug of its own ({name}) and tries again",
        "The provider's log says where; please report it. Power OFF or delete ends its guest all the same, after the "
        "grace time.",
    )


def not_read(error: str) -> Reason:
    return Reason(
        "not-read",
        f"the machine's record cannot be read or written, so nothing is done, tried again: {error}",
        "Mend what the message names, or put a backup back: `sri-libvirt store backups` lists them.",
    )


def action_failed(action: str, error: str) -> Reason:
    return Reason(
        "action-failed",
        f"{action} failed, tried again: {error}",
        "It is tried again, later each time, up to a minute. The provider's log and the domain's say more.",
        action=action,
    )


def no_progress(action: str, actions: str) -> Reason:
    return Reason(
        "no-progress",
        f"{actions} succeeded several times in a row, and had to be done again at once each time",
        "It is done less and less often, up to once a minute. Something undoes it, or this is a bug: the provider's "
        "log and `virsh event --all --loop` show more.",
        action=action,
    )


def waiting_for_lane() -> Reason:
    return Reason(
        "waiting-for-lane",
        "it is to be looked at and waits until the provider has finished with other machines",
        "Slow starts or storage that hangs keep the lanes busy: `sri-libvirt machine list` shows what the others wait "
        "for. --lanes sets how many machines are worked on at a time; stops and deletes have one of their own.",
    )


def foreign_domain() -> Reason:
    return Reason(
        "foreign-domain",
        "a domain with this machine's id exists that this provider did not define; it is left alone",
        "Look at it with virsh dumpxml; if it may go, virsh undefine it, and the machine goes on.",
    )


def edited(changes: tuple[str, ...], *, active: bool) -> Reason:
    """Of what is not by our define; `active` is whether its guest runs."""
    more = f"; and {len(changes) - _TOLD} more" if len(changes) > _TOLD else ""
    now = "its guest runs on as it was started, and the next define" if active else "the define before its next start"
    return Reason(
        "domain-edited",
        f"somebody else has changed its domain (as virsh edit does), and {now} puts it back: "
        f"{'; '.join(changes[:_TOLD])}{more}",
        f"`sri-libvirt machine xml {THIS} --diff` shows all of it. Change the machine by its API instead; to have it "
        "put back at once attach or detach a device, or set the machine's power OFF and ON.",
    )


def restored() -> Reason:
    return Reason(
        "restored",
        "the store is a backup that was put back, and nobody has confirmed yet that this machine is still to be as it "
        "says: its guest is left as it is",
        "The machinepoollet does so by itself once it has compared the machine with the API: see that it runs. Without "
        f"one, or where you know better: `sri-libvirt store confirm {THIS}`, or without it for all.",
    )


def starting() -> Reason:
    return Reason("starting", "the guest is being prepared and started")


def device_not_ready(row: Attachment) -> Reason:
    code = row.problem_code if row.problem_code in CODES else "device-not-ready"
    return of_device(row, code, f"{device_words(row)} is not ready: {row.problem}", row.problem_advice)


def cold_only(row: Attachment, words: str) -> Reason:
    return of_device(
        row,
        "cold-only",
        f"{device_words(row)} waits for the machine's next cold start: {words}",
        "Set the machine's power OFF and ON to have it.",
    )


def release_failed(row: Attachment) -> Reason:
    if row.problem_code == UNDER_WAY:
        return of_device(row, UNDER_WAY, f"{device_words(row)} is not released yet: {row.problem}")
    return of_device(
        row, "release-failed", f"{device_words(row)} cannot be released, tried again: {row.problem}", row.problem_advice
    )


def no_port(row: Attachment, ports: int) -> Reason:
    return of_device(
        row,
        "no-port",
        f"{device_words(row)} has no free PCIe port: all {ports} of this machine are taken",
        "Detach another device. Machines created with a higher --pcie-ports have more, as far as their vCPUs go.",
    )


def detach_settles(row: Attachment) -> Reason:
    return of_device(
        row,
        "detach-settles",
        f"{device_words(row)} was detached a moment ago and leaves the guest unless it comes back",
    )


def detach_held(row: Attachment, hold: int) -> Reason:
    return of_device(
        row,
        "detach-held",
        f"all volumes of this running machine were detached at once, so {device_words(row)} is kept plugged for "
        f"{hold // SECOND} s after its detach, in case that was a mistake",
        "Nothing need be done: attach it again and nothing will have happened, or wait. --detach-hold sets the time.",
    )


def unplugging(row: Attachment) -> Reason:
    return of_device(
        row,
        "unplugging",
        f"the guest was asked to let {device_words(row)} go and has not done so yet",
        "A guest that boots, hangs or has no driver for hot-plug ignores it; it is asked again every few seconds, and "
        "its next reset or power-off completes it.",
    )


def stranger_words(stranger: Stranger) -> str:
    """A device that nobody knows the name of, as an operator finds it in the domain's XML."""
    what = f"at {stranger.target}" if stranger.target else f"with MAC {stranger.mac}"
    return f"the device {stranger.alias} ({what})"


def unknown_device(stranger: Stranger) -> Reason:
    return Reason(
        "unknown-device",
        f"{stranger_words(stranger)} is in the guest and not in the store, as after a restored backup; it is unplugged "
        "unless it is attached again",
        "Nothing need be done, unless the guest does not let it go: its next reset or power-off completes it.",
        device=stranger.alias,
    )


def device_ejected(row: Attachment) -> Reason:
    return of_device(
        row,
        "device-ejected",
        f"the guest has ejected {device_words(row)} by itself; it is plugged again, after growing pauses",
        "Stop what ejects it inside the guest (a script, an eject by hand), or detach it.",
    )


def define_failed(error: str) -> Reason:
    return Reason(
        "define-failed",
        f"the persistent domain cannot be brought up to date, tried again later: {error}",
        "The guest runs on; its next start would meet the same error, so look at it before.",
    )


def network_unknown(row: Attachment) -> Reason:
    return of_device(
        row,
        "network-unknown",
        f"{device_words(row)} has no network_id yet",
        "The network's provider has to give its providerID; the machine runs without this device meanwhile.",
    )


def foreign_disk(machine_id: str, row: Attachment, source: str, *, active: bool) -> Reason:
    commit = (
        f"`virsh blockcommit {machine_id} {row.target} --active --pivot --verbose` brings an external snapshot's data "
        "back into the disk, and the machine goes on by itself; "
    )
    if active:
        return of_device(
            row,
            "foreign-disk-source",
            f"{device_words(row)} is somewhere else since somebody took a snapshot of it or moved it: {source}; the "
            "guest runs on, and until it is back its domain is not changed and it is not started anew",
            f"{commit}a disk that was moved is copied back with virsh blockcopy. Nothing need be done while a backup "
            "runs.",
        )
    return of_device(
        row,
        "foreign-disk-source",
        f"{device_words(row)} has its newest data somewhere else, since somebody took a snapshot of it or moved it: "
        f"{source}; the guest is not started from older data",
        f"`virsh start {machine_id}` starts it from there; then {commit}or put the data back into the disk by qemu-img "
        "and let the domain name that (virsh edit).",
    )


def block_job(row: Attachment) -> Reason:
    return of_device(
        row,
        "block-job",
        f"somebody copies or commits {device_words(row)} (a block job); until that has ended its domain is not changed",
        "Nothing need be done while a backup runs. `virsh blockjob` shows it, and ends it with --pivot or --abort.",
    )


def file_left(row: Attachment, source: str) -> str:
    """Of a machine that goes, the event's words."""
    return (
        f"{device_words(row)} had its newest data where somebody else has put it, which is not removed with the "
        f"machine: {source}"
    )


def nic_astray(row: Attachment) -> Reason:
    return of_device(
        row,
        "nic-astray",
        f"{device_words(row)} has lost its place on the host: its network was stopped and started, or it was moved; it "
        "is unplugged from the guest and plugged again",
        "A guest that boots, hangs or has no driver for hot-plug does not let go: power the machine OFF and ON then.",
    )


def older_device_first(row: Attachment) -> Reason:
    return of_device(
        row,
        "older-device-first",
        f"{device_words(row)} waits until the device that had its name or its place before is gone from the guest",
        "Power the machine OFF and ON if the guest does not let it go.",
    )


def start_failed(error: str, failures: int) -> Reason:
    return Reason(
        "start-failed",
        f"the start failed ({failures} in a row), tried again later: {error}",
        f"The domain's log is /var/log/libvirt/qemu/{THIS}.log.",
    )


def restore_failed(error: str, failures: int) -> Reason:
    return Reason(
        "restore-failed",
        f"the guest cannot be restored from its managed save ({failures} in a row), which is kept and tried again "
        f"later: {error}",
        "Mend what the error names. If the guest may lose what it had in memory, set the machine's power OFF and ON: "
        "that drops the save and boots it.",
    )


def back_off(cause: StopCause, failures: int) -> Reason:
    return Reason(
        "back-off",
        f"the guest stopped ({STOP_WORDS[cause]}) and is started again after a pause ({failures} short runs in a row)",
        STOP_ADVICE.get(cause, f"`sri-libvirt machine describe {THIS}` has the ends of its console's and QEMU's logs."),
    )


def guest_powered_off() -> Reason:
    return Reason(
        "guest-powered-off",
        "the guest powered itself off, and stays off until its power is set OFF and ON",
        "Set the machine's power OFF and ON, or serve with --on-guest-poweroff=restart.",
    )


def drained() -> Reason:
    return Reason(
        "drained",
        "the operator has drained this host, so its guests are off",
        "`sri-libvirt uncordon` starts it again.",
    )


def shutting_down(pressed_seconds: int, grace_seconds: int) -> Reason:
    return Reason(
        "shutting-down",
        f"the guest was asked to power off; it is destroyed {grace_seconds} s after the first press of its button"
        if pressed_seconds < grace_seconds
        else "the guest did not power off in its grace time and is destroyed",
    )


def host_stopping() -> Reason:
    return Reason("host-stopping", "the host is shutting down; the machine starts again with the next boot")


def reconsidered() -> Event:
    """A stop that passed for the guest's own until its host went down, too."""
    message = "the guest stopped shortly before the host did, so that is taken for the host's doing, not for its own"
    return Event(kind="stopped", reason=StopCause.HOST.value, message=message)


STOP_WORDS = {
    StopCause.GUEST: "its own power-off",
    StopCause.REQUESTED: "power off as requested",
    StopCause.HOST: "its QEMU was told to end by the host",
    StopCause.PANICKED: "its kernel panicked",
    StopCause.OUT_OF_MEMORY: "the host's kernel killed its QEMU for want of memory",
    StopCause.ABORTED: "its QEMU gave up",
    StopCause.KILLED: "its QEMU ended without a word: killed, or crashed",
    StopCause.FAILED: "its QEMU failed",
    StopCause.DESTROYED: "destroyed from outside this provider",
    StopCause.SAVED: "managed save",
    StopCause.START_FAILED: "the start failed",
    StopCause.UNKNOWN: "nobody saw why",
}
"""How a stop is told to people."""

STOP_ADVICE = {
    StopCause.PANICKED: f"`sri-libvirt console {THIS} --log` has what its kernel said. The host and QEMU are well.",
    StopCause.OUT_OF_MEMORY: "Guests and the rest of the host need more memory than it has: give the class a larger "
    "memory overhead, reserve more for the host (--reserved-memory), or move machines. `journalctl -k` lists who had "
    "what.",
    StopCause.ABORTED: f"QEMU met a bug or an impossible state and said so in /var/log/libvirt/qemu/{THIS}.log: "
    "report it to the distribution, or try another version of QEMU.",
    StopCause.KILLED: "Look for whoever sends SIGKILL on this host (monitoring, scripts, people), and for a crash of "
    "QEMU: coredumpctl, `journalctl -k` (segfault).",
}
"""What to do about a stop of which the logs in general say too little."""

SAVE_DROPPED = {
    "spec-changed": "the machine was changed since it was made",
    "other-run": "it is of another run of the guest",
    "unusable": "libvirt and QEMU cannot read it",
    "incomplete": "libvirt found it incomplete and booted the guest afresh",
}
"""Why a managed save was not restored, as told to people."""
