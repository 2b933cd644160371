"""Failpoints: nothing in production, and exactly what a test asked for elsewhere."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sri_libvirt import config, failpoints
from sri_libvirt.errors import ConfigError, HypervisorError, SRIError, StoreError
from sri_libvirt.store.transaction import Transaction


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm(None)


def test_nothing_is_armed_without_the_variable() -> None:
    assert config.failpoint({}) == ""
    with failpoints.around("libvirt.start", HypervisorError):
        failpoints.reach("before store.x", StoreError)
    assert failpoints.around("a", SRIError) is failpoints.around("b", SRIError), "it costs something"
    assert config.failpoint({"SRI_LIBVIRT_FAILPOINT": "kill 1 x"}) == "kill 1 x"


def test_a_point_is_passed_before_and_after() -> None:
    passed: list[str] = []
    failpoints.arm(lambda point, _error: passed.append(point))
    with failpoints.around("libvirt.start", HypervisorError):
        passed.append("start")
    assert passed == ["before libvirt.start", "start", "after libvirt.start"]


def test_what_fails_by_itself_is_not_passed_after() -> None:
    passed: list[str] = []
    failpoints.arm(lambda point, _error: passed.append(point))
    with pytest.raises(KeyError), failpoints.around("libvirt.start", HypervisorError):
        raise KeyError
    assert passed == ["before libvirt.start"]


def test_a_failure_is_of_the_kind_that_the_point_has_and_comes_once() -> None:
    trap = failpoints.armed_by("fail 2 before libvirt.start")
    failpoints.arm(trap)
    with failpoints.around("libvirt.start", HypervisorError):
        pass
    with (
        pytest.raises(HypervisorError, match=r"before libvirt\.start"),
        failpoints.around("libvirt.start", HypervisorError),
    ):
        pytest.fail("it was done")
    with failpoints.around("libvirt.start", HypervisorError):
        pass
    assert isinstance(trap, failpoints.Once)
    assert len(trap.passed) == 5


def test_a_kill_is_sigkill(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))
    failpoints.arm(failpoints.armed_by("kill 1 after x"))
    failpoints.reach("after x", SRIError)
    assert killed == [(os.getpid(), signal.SIGKILL)]


def test_a_hang_ends_when_it_is_released() -> None:
    trap = failpoints.Once("hang", "before x")
    failpoints.arm(trap)
    hanging = threading.Thread(target=failpoints.reach, args=("before x", SRIError))
    hanging.start()
    hanging.join(0.02)
    assert hanging.is_alive()
    trap.release.set()
    hanging.join(10)
    assert not hanging.is_alive()


def test_points_are_recorded(tmp_path: Path) -> None:
    failpoints.arm(failpoints.armed_by(f"record {tmp_path}/a file"))
    with failpoints.around("x y", SRIError):
        pass
    assert (tmp_path / "a file").read_text() == "before x y\nafter x y\n"


@pytest.mark.parametrize("text", ["", "kill", "kill x before y", "burn 1 before y", "record"])
def test_a_text_that_is_no_failpoint_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        failpoints.armed_by(text)


def test_a_work_of_the_store_is_called_after_what_made_it() -> None:
    def work(tx: Transaction) -> None: ...

    assert failpoints.work_name(work) == "test_a_work_of_the_store_is_called_after_what_made_it"
    assert failpoints.work_name(lambda: None) == "test_a_work_of_the_store_is_called_after_what_made_it"
