"""The KVM probe's guest really runs, and its judge really measures; by TCG, because KVM is not everywhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from sri_libvirt import process
from sri_libvirt.host import kvm
from sri_libvirt.process import Measured, ProcessError


def test_the_boot_sector_passes_on_a_cpu_that_works(tmp_path: Path) -> None:
    def by_tcg(argv: Sequence[str], *, deadline: float, cpu_seconds: int) -> Measured:
        replaced = {"q35,accel=kvm": "q35,accel=tcg", "host": kvm.PLAIN_MODEL}
        return process.measure([replaced.get(word, word) for word in argv], deadline=60.0, cpu_seconds=30)

    device = tmp_path / "kvm"
    device.touch()
    ended = Runs(by_tcg)
    kvm.probe(device=device, run=ended, user=lambda: None)
    assert [end.returncode for end in ended.seen[:1]] == [kvm.PASSED]


class Runs:
    def __init__(self, run: kvm.Runner) -> None:
        self.run = run
        self.seen: list[Measured] = []

    def __call__(self, argv: Sequence[str], *, deadline: float, cpu_seconds: int) -> Measured:
        self.seen.append(self.run(argv, deadline=deadline, cpu_seconds=cpu_seconds))
        return self.seen[-1]


def test_cpu_time_is_limited() -> None:
    ended = process.measure(["sh", "-c", "while :; do :; done"], deadline=60.0, cpu_seconds=1)
    assert ended.returncode < 0
    assert not ended.late
    assert 0.5 <= ended.cpu_seconds < 3  # the kernel counts in ticks, and the child's first moments are its parent's


def test_wall_time_is_limited() -> None:
    begun = time.monotonic()
    ended = process.measure(["sleep", "60"], deadline=0.1, cpu_seconds=10)
    assert ended.late
    assert ended.cpu_seconds < 1
    assert time.monotonic() - begun < 30


def test_what_a_program_said_last() -> None:
    ended = process.measure(["sh", "-c", "echo first >&2; echo last >&2; exit 3"], deadline=60.0, cpu_seconds=10)
    assert (ended.returncode, ended.message, ended.late) == (3, "last", False)


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(ProcessError, match="cannot be run"):
        process.measure(["/nonexistent/qemu"], deadline=1.0, cpu_seconds=1)
