"""The end of a domain's QEMU log."""

from __future__ import annotations

from pathlib import Path

import pytest

from sri_libvirt.hypervisor import qemulog
from sri_libvirt.hypervisor.base import LastWords

ENDED = 1735787105_678_000_000
"""What the time stamp of END is in Unix nanoseconds."""

START = "2025-01-02 03:04:05.678+0000: starting up libvirt version: 9.0.0, package: 9.0.0-4, qemu version: 7.2.22\n"
END = "2025-01-02 03:05:05.678+0000: shutting down, reason={}\n"
TERM = "2025-01-02T03:05:05.012345Z qemu-system-x86_64: terminating on signal 15 from pid 4647 ({})\n"


def test_a_run_that_goes_on_has_no_last_words() -> None:
    assert qemulog.parse(START + "char device redirected to /dev/pts/3 (label charserial0)\n") == LastWords()


def test_a_guest_powered_off() -> None:
    assert qemulog.parse(START + END.format("shutdown")) == LastWords("shutdown", "", ENDED)


def test_somebody_terminated_qemu() -> None:
    assert qemulog.parse(START + TERM.format("bash") + END.format("shutdown")) == LastWords("shutdown", "bash", ENDED)


def test_a_daemon_that_was_started_by_its_path_has_its_name() -> None:
    assert qemulog.parse(START + TERM.format("/usr/sbin/virtqemud")).terminated_by == "virtqemud"
    assert qemulog.parse(START + TERM.format("/usr/lib/systemd/systemd")).terminated_by == "systemd"


def test_terminated_while_nobody_wrote_the_reason() -> None:
    assert qemulog.parse(START + TERM.format("systemd (1)")) == LastWords("", "systemd (1)")


def test_only_the_last_run_counts() -> None:
    assert qemulog.parse(START + TERM.format("bash") + END.format("crashed") + START) == LastWords()


def test_when_the_run_before_the_latest_was_saved() -> None:
    saved = START + END.format("saved")
    assert qemulog.parse(saved).saved_at == 0, "there is no later one"
    assert qemulog.parse(saved + START) == LastWords(saved_at=ENDED)
    assert qemulog.parse(saved + START + END.format("crashed")) == LastWords("crashed", "", ENDED, saved_at=ENDED)
    assert qemulog.parse(saved + START + END.format("shutdown") + START) == LastWords()


def test_a_tail_without_a_start() -> None:
    assert qemulog.parse("cut line\n" + END.format("destroyed")) == LastWords("destroyed", "", ENDED)


def test_a_time_zone_counts_and_a_day_that_does_not_exist_is_no_time() -> None:
    assert qemulog.parse(END.format("shutdown").replace("+0000", "+0130")).at == ENDED - 5400_000_000_000
    assert qemulog.parse(END.format("shutdown").replace("-01-02", "-02-30")) == LastWords("shutdown")


def test_words_in_the_middle_of_a_line_are_not_libvirts() -> None:
    liar = f"qemu: warning: guest said '{END.format('shutdown').strip()}'\nqemu: x: {TERM.format('bash')}"
    assert qemulog.parse(START + liar) == LastWords()


def test_a_long_log_is_read_at_its_end(tmp_path: Path) -> None:
    log = tmp_path / "machine.log"
    log.write_text(START + END.format("crashed") + START + "noise\n" * 50_000 + END.format("destroyed"))
    assert qemulog.read(log) == LastWords("destroyed", "", ENDED)


def test_no_log(tmp_path: Path) -> None:
    assert qemulog.read(tmp_path / "none.log") == LastWords()


@pytest.mark.parametrize(
    "said",
    [
        "qemu-system-x86_64: ../hw/scsi/scsi-bus.c:415: scsi_req_enqueue: Assertion `!req->enqueued' failed.",
        "ERROR:../accel/tcg/tcg-accel-ops.c:83:tcg_handle_interrupt: assertion failed: (qemu_mutex_iothread_locked())",
        "2025-01-02T03:05:05.012345Z qemu-system-x86_64: ../block/io.c:2: f: Assertion `x' failed.",
        "qemu: hardware error: pflash_write: not implemented",
        "double free or corruption (out)",
        "free(): invalid pointer",
        "malloc(): corrupted top size",
        "*** stack smashing detected ***: terminated",
    ],
)
def test_what_qemu_says_before_it_gives_up(said: str) -> None:
    found = qemulog.parse(START + f"**\n{said}\n" + END.format("crashed"))
    assert found.aborted == said.rpartition("qemu-system-x86_64: ")[2]


@pytest.mark.parametrize(
    "said",
    [
        "char device redirected to /dev/pts/3 (label charserial0)",
        "qemu-system-x86_64: warning: host doesn't support requested feature",
        "2025-01-02T03:05:05.012345Z qemu-system-x86_64: terminating on signal 15 from pid 1 (x)",
        "KVM internal error. Suberror: 1",
    ],
)
def test_other_words_are_no_end(said: str) -> None:
    assert qemulog.parse(START + f"{said}\n" + END.format("crashed")).aborted == ""
