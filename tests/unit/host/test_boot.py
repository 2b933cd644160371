"""This boot of the host, and its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from sri_libvirt.host.boot import Host
from sri_libvirt.process import ProcessError


def test_boot_id(tmp_path: Path) -> None:
    (tmp_path / "sys/kernel/random").mkdir(parents=True)
    (tmp_path / "sys/kernel/random/boot_id").write_text("4c9a028f-70c1-4a35-b2ef-f32c761c7cd0\n")
    assert Host(proc=tmp_path).boot_id() == "4c9a028f-70c1-4a35-b2ef-f32c761c7cd0"


@pytest.mark.parametrize(
    ("state", "stopping"), [(b"stopping\n", True), (b"running\n", False), (b"degraded\n", False), (b"\n", None)]
)
def test_stopping(tmp_path: Path, state: bytes, stopping: bool | None) -> None:
    assert Host(systemd=tmp_path, run=lambda _: state).stopping() is stopping


def test_without_systemd_nothing_is_asked_and_nothing_known(tmp_path: Path) -> None:
    def run(argv: Sequence[str]) -> bytes:
        raise AssertionError(argv)

    assert Host(systemd=tmp_path / "none", run=run).stopping() is None


def test_a_systemd_that_does_not_answer_is_no_no(tmp_path: Path) -> None:
    def run(argv: Sequence[str]) -> bytes:
        raise ProcessError("systemctl did not end within 5 s")

    assert Host(systemd=tmp_path, run=run).stopping() is None
