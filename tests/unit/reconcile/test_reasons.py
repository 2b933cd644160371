"""Every reason: that each is made as its code says, has a test of its own, and reads well in `machine why`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest

from sri_libvirt.cli.machine.why import sentences
from sri_libvirt.cli.main import sri_libvirt
from sri_libvirt.clock import SteadyClock
from sri_libvirt.domain import profile as profiles
from sri_libvirt.hypervisor.fake import OFFER
from sri_libvirt.reconcile import disks, perform, states
from sri_libvirt.reconcile import reasons as why
from sri_libvirt.reconcile.view import Heard
from sri_libvirt.reconcile.virtualisation import ADVICE
from sri_libvirt.records import GIB, SECOND, Profile, Reason, StopCause
from sri_libvirt.views import show
from tests.unit.reconcile.world import ID, PROFILE, STRANGER, T0, machine, volume_row

TESTS = Path(__file__).parents[1]
ROW = volume_row(problem="the backend is away", problem_advice="Start it.", problem_at=T0)
UEFI: Profile = replace(PROFILE, firmware="uefi", loader="/nowhere/OVMF.fd")
SELF_EXPLAINING = {"starting", "shutting-down", "host-stopping", "detach-settles"}
"""Nobody has to do anything about these."""


def gone(profile: Profile) -> Reason:
    reason = profiles.still_offered(profile, OFFER, exists=lambda path: False)
    assert reason is not None
    return reason


SAMPLES = {
    "unreachable": why.unreachable("connection refused"),
    "stuck-call": why.stuck(("start", "Destroy")),
    "stuck-work": why.stuck(("PrepareDevice",)),
    "look-failed": why.look_failed("cannot acquire state change lock"),
    "bug": why.bug(KeyError("secret")),
    "not-read": why.not_read("the record of machine 1 is damaged"),
    "no-progress": why.no_progress("Define", "Define"),
    "action-failed": why.action_failed("RemoveFiles", "Device or resource busy"),
    "waiting-for-lane": why.waiting_for_lane(),
    "foreign-domain": why.foreign_domain(),
    "domain-edited": why.edited(("memory kib is '2', not '1'",), active=True),
    "restored": why.restored(),
    "starting": why.starting(),
    "device-not-ready": why.device_not_ready(ROW),
    "slow-storage": why.device_not_ready(replace(ROW, problem_code="slow-storage")),
    "no-room": why.device_not_ready(replace(ROW, problem_code="no-room")),
    "open-elsewhere": why.device_not_ready(replace(ROW, problem_code="open-elsewhere")),
    **{
        code: why.device_not_ready(replace(ROW, problem_code=code))
        for code in (
            "held",
            "under-way",
            "backend-silent",
            "volume-refused",
            "in-use",
            "image-unreachable",
            "image-refused",
            "image-not-allowed",
            "address-taken",
        )
    },
    "cold-only": why.cold_only(ROW, "this libvirt cannot plug it"),
    "release-failed": why.release_failed(ROW),
    "no-port": why.no_port(ROW, 24),
    "detach-settles": why.detach_settles(ROW),
    "detach-held": why.detach_held(ROW, 600 * SECOND),
    "unplugging": why.unplugging(ROW),
    "unknown-device": why.unknown_device(replace(STRANGER, alias="ua-vol-0123456789abcdef-1")),
    "device-ejected": why.device_ejected(ROW),
    "define-failed": why.define_failed("out of memory"),
    "network-unknown": why.network_unknown(ROW),
    "older-device-first": why.older_device_first(ROW),
    "foreign-disk-source": why.foreign_disk(ID, ROW, "/backup/data.snap1", active=True),
    "block-job": why.block_job(ROW),
    "nic-astray": why.nic_astray(ROW),
    "start-failed": why.start_failed("out of memory", 2),
    "back-off": why.back_off(StopCause.FAILED, 1),
    "guest-powered-off": why.guest_powered_off(),
    "drained": why.drained(),
    "restore-failed": why.restore_failed("virtlogd is away", 2),
    **{row.reason.code: row.reason for rows in states.ROWS.values() for row in rows.values() if row.reason},
    "backend-answers": disks.backend_heard(ROW, Heard(True)),
    "backend-fails": disks.backend_heard(ROW, Heard(False, "no route to 192.0.2.1:6789", "See the network.")),
    "disk-cut-off": disks.disk_cut_off(ROW),
    "grows-at-start": disks.grows_at_start(ROW, GIB, 2 * GIB, "QEMU cannot"),
    "shutting-down": why.shutting_down(3, 30),
    "host-stopping": why.host_stopping(),
    "start-blocked": Reason("start-blocked", "the machine runs by KVM, which does not work on this host: gone", ADVICE),
    "domain-type-gone": gone(replace(PROFILE, domain_type="xen")),  # type: ignore[arg-type]  # as of another host
    "machine-type-gone": gone(replace(PROFILE, machine_type="pc-q35-0.1")),
    "firmware-gone": gone(UEFI),
}


def test_the_samples_are_all_reasons() -> None:
    assert {sample.code for sample in SAMPLES.values()} == set(SAMPLES) == why.CODES


def told_of(reason: Reason, now: int) -> list[str]:
    """What `machine why` says."""
    found = show.explained(machine(reasons=(reason,), observed_generation=1), None, SteadyClock.by(lambda: now))
    return list(sentences({**found, "provider_running": True, "state_directory_problem": None}, now))


@pytest.mark.parametrize("code", sorted(why.CODES))
def test_machine_why_prints_each_reason_with_its_advice(code: str) -> None:
    reason = replace(SAMPLES[code], since=T0)
    told = told_of(reason, T0 + 8 * SECOND)
    assert len(told) == (3 if reason.advice else 2)
    first = told[1]
    assert first == f"1. {reason.message[0].upper()}{reason.message[1:]} (for 8s)."
    assert not reason.message.endswith((".", " ", ":"))
    assert "{" not in first + reason.advice
    assert bool(reason.advice) is (code not in SELF_EXPLAINING)
    assert reason.advice == "" or reason.advice.endswith((".", ")"))
    assert told[2:] == ([f"   {why.advice(reason, ID)}"] if reason.advice else [])


def advices() -> Iterator[str]:
    """All that anybody is advised."""
    yield from (sample.advice for sample in SAMPLES.values())
    yield from (why.back_off(cause, 1).advice for cause in StopCause)
    yield from perform_advices()


def perform_advices() -> Iterator[str]:
    yield from (value for name, value in vars(perform).items() if name.endswith("_ADVICE"))


COMMAND = re.compile(r"`?sri-libvirt ((?:[a-z-]+ ?)+)([^`.,]*)")


def test_advice_names_commands_that_there_are() -> None:
    seen = set()
    for advice in advices():
        for words, rest in COMMAND.findall(advice):
            command: click.Command = sri_libvirt
            names = words.split()
            while isinstance(command, click.Group):
                found = command.get_command(click.Context(command), names.pop(0))
                assert found is not None, advice
                command = found
            flags = {flag for each in command.params for flag in (*each.opts, *each.secondary_opts)}
            assert {word for word in rest.split() if word.startswith("--")} <= flags, advice
            seen.add(command.name)
    assert {"list", "xml", "confirm", "describe", "console", "capacity"} <= seen


def test_advice_is_of_this_machine() -> None:
    reason = why.back_off(StopCause.PANICKED, 1)
    assert why.THIS in reason.advice
    words = f"   `sri-libvirt console {ID} --log` has what its kernel said. The host and QEMU are well."
    assert told_of(reason, T0)[2] == words
    assert not [advice for advice in map(replaced, advices()) if "<" in advice or "MACHINE" in advice]


def replaced(advice: str) -> str:
    return why.advice(Reason("code", "words", advice), ID)


@pytest.mark.parametrize("cause", StopCause)
def test_every_stop_can_be_told(cause: StopCause) -> None:
    assert why.STOP_WORDS[cause] in why.back_off(cause, 1).message


def test_a_guest_past_its_grace_time_is_told_of_as_destroyed() -> None:
    assert "is destroyed" in why.shutting_down(30, 30).message
    assert why.shutting_down(3, 30).message == why.shutting_down(4, 30).message, "one reason, not one a second"


def test_every_reason_has_its_test() -> None:
    """A test function that is called test_reason_<code>…, or a case of a table that names the code."""
    named: set[str] = set()
    for file in (*(TESTS / "reconcile").glob("test_*.py"), TESTS / "domain" / "test_profile.py"):
        if file.name == "test_reasons.py":
            continue  # its samples are no tests of plan()
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_reason_"):
                named |= {code for code in why.CODES if node.name.startswith(f"test_reason_{code.replace('-', '_')}")}
            elif isinstance(node, ast.Tuple):
                named |= {
                    each.value for each in node.elts if isinstance(each, ast.Constant) and each.value in why.CODES
                }
    assert named == why.CODES
