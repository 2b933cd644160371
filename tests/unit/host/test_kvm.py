"""The verdict on KVM, from how probes end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sri_libvirt.host import kvm
from sri_libvirt.host.kvm import KvmVerdict, User
from sri_libvirt.process import Measured, ProcessError

PASSED = Measured(33, 0.2, False, "")
ABORTED = Measured(-6, 0.02, False, "failed to set MSR 0x10a")
EMULATED = Measured(-9, 2.0, False, "")
LATE = Measured(-9, 0.3, True, "")
WRONG = Measured(35, 0.2, False, "")


class Runs:
    """Ends the probes as told, by CPU model; remembers what was tried."""

    def __init__(self, host: Sequence[Measured], plain: Sequence[Measured] = ()) -> None:
        self.left = {"host": list(host), kvm.PLAIN_MODEL: list(plain)}
        self.tried: list[str] = []
        self.limits: list[int] = []

    def __call__(self, argv: Sequence[str], *, deadline: float, cpu_seconds: int) -> Measured:
        model = argv[argv.index("-cpu") + 1]
        self.tried.append(model)
        self.limits.append(cpu_seconds)
        return self.left[model].pop(0)


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "kvm"
    path.touch()
    return path


def probe(device: Path, run: Callable[..., Measured], pace: float = 0.03) -> KvmVerdict:
    return kvm.probe(
        device=device, emulator="qemu", run=run, user=lambda: None, pace=lambda: pace, patience=lambda: 0.0
    )


def test_kvm_with_the_hosts_cpu(device: Path) -> None:
    runs = Runs([PASSED])
    verdict = probe(device, runs)
    assert (verdict.works, verdict.host_passthrough) == (True, True)
    assert runs.tried == ["host"]
    assert runs.limits == [kvm.CPU_SECONDS]


def test_a_busy_host_gets_three_tries(device: Path) -> None:
    verdict = probe(device, Runs([LATE, LATE, PASSED]))
    assert (verdict.works, verdict.host_passthrough) == (True, True)


def test_kvm_with_a_plain_model_only(device: Path) -> None:
    verdict = probe(device, Runs([ABORTED] * 3, [PASSED]))
    assert (verdict.works, verdict.host_passthrough) == (True, False)
    assert "MSR 0x10a" in verdict.detail


@pytest.mark.parametrize(
    ("ending", "words"),
    [(LATE, "did not end"), (WRONG, "status 35"), (ABORTED, "signal 6")],
)
def test_no_after_three_tries_each(device: Path, ending: Measured, words: str) -> None:
    runs = Runs([ABORTED] * 3, [ending] * 3)
    verdict = probe(device, runs)
    assert (verdict.works, verdict.host_passthrough) == (False, False)
    assert words in verdict.detail
    assert runs.tried == ["host"] * 3 + [kvm.PLAIN_MODEL] * 3


@pytest.mark.parametrize("slow", [EMULATED, Measured(33, 1.95, False, "")])
def test_a_guest_that_passes_by_emulation_alone_does_not_pass_and_is_not_tried_again(
    device: Path, slow: Measured
) -> None:
    runs = Runs([slow], [slow])
    verdict = probe(device, runs)
    assert not verdict.works
    assert "only emulates" in verdict.detail
    assert runs.tried == ["host", kvm.PLAIN_MODEL]


def test_a_host_that_is_slow_in_all_things_may_have_kvm(device: Path) -> None:
    """As one that is emulated."""
    runs = Runs([Measured(33, 8.1, False, "")])
    assert probe(device, runs, pace=0.5).host_passthrough
    assert runs.limits == [30]


def test_the_pace_is_cpu_time() -> None:
    assert 0 < kvm.pace() < 60


def test_no_device(tmp_path: Path) -> None:
    verdict = probe(tmp_path / "none", Runs([]))
    assert not verdict.works
    assert "BIOS" in verdict.detail


def test_while_the_host_boots_the_device_is_waited_for(tmp_path: Path) -> None:
    asked = 0

    def user() -> User | None:
        nonlocal asked
        asked += 1
        if asked == 3:
            (tmp_path / "kvm").touch()
        return None

    verdict = kvm.probe(
        device=tmp_path / "kvm",
        emulator="qemu",
        run=Runs([PASSED]),
        user=user,
        pace=lambda: 0.03,
        patience=lambda: 60.0,
    )
    assert verdict.works


@pytest.mark.parametrize(
    ("seconds", "flags", "patience"),
    [
        (20.0, "flags\t\t: fpu svm lm", kvm.BOOT_PATIENCE),
        (kvm.BOOT_SECONDS - 5, "flags\t\t: fpu vmx", 5.0),
        (kvm.BOOT_SECONDS + 1, "flags\t\t: fpu vmx", 0.0),
        (20.0, "flags\t\t: fpu svm_lock vmxnet\nvmx flags\t: vnmi", 0.0),
    ],
)
def test_patience_is_for_hosts_that_boot_and_can_run_guests(
    seconds: float, flags: str, patience: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{flags}\n")
    monkeypatch.setattr(kvm, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(time, "clock_gettime", lambda clock: seconds)
    assert kvm.boot_patience() == patience


def test_no_emulator(device: Path) -> None:
    def missing(argv: Sequence[str], *, deadline: float, cpu_seconds: int) -> Measured:
        raise ProcessError(f"{argv[0]} cannot be run: No such file or directory")

    assert "cannot be run" in probe(device, missing).detail


def test_a_device_that_qemus_user_cannot_open_is_said_with_the_cure(device: Path) -> None:
    device.chmod(0o600)
    user = User("libvirt-qemu", os.getuid() + 1, frozenset())
    verdict = kvm.probe(device=device, emulator="qemu", run=Runs([]), user=lambda: user, patience=lambda: 0.0)
    assert not verdict.works
    assert "mode 0600" in verdict.detail
    assert "libvirt-qemu" in verdict.detail
    assert f"chgrp kvm {device} && chmod 660 {device}" in verdict.detail


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "can"),
    [
        (0o660, 0, 104, True),  # as udev's rule has it
        (0o666, 0, 0, True),
        (0o660, 0, 0, False),
        (0o640, 0, 104, False),
        (0o600, 64055, 0, True),
        (0o066, 64055, 104, False),  # the owner's bits count for the owner
        (0o606, 0, 104, False),  # the group's for the group
    ],
)
def test_mode_bits(mode: int, uid: int, gid: int, can: bool) -> None:
    assert kvm.may_open(User("libvirt-qemu", 64055, frozenset({104, 64055})), mode, uid, gid) is can


def test_the_boot_sector_is_one() -> None:
    disk = kvm.boot_disk()
    assert len(disk) == 1 << 20
    assert disk[510:512] == b"\x55\xaa"
    assert disk[0x6A:0x6C] == bytes.fromhex("31c0")  # where the jump to 64 bits goes
    assert disk[0x8D:0x91] == bytes.fromhex("917c0000")  # the descriptor table follows its own address
    assert (2_000_000).to_bytes(4, "little") in disk[0x6A:0x8B]
