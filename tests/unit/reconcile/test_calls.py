"""The calls of a lane: what is under way, when it is late, and that nothing follows a late one."""

from __future__ import annotations

import time

import pytest

from sri_libvirt.errors import Unreachable
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.reconcile import calls as calls_module
from sri_libvirt.reconcile.calls import Calls, watched
from sri_libvirt.records import SECOND

LIMIT = 120 * SECOND
held: list[tuple[str, str]]


@pytest.fixture(autouse=True)
def nothing_held() -> None:
    global held
    held = []


def hold(machine_id: str, call: str) -> None:
    held.append((machine_id, call))


@pytest.mark.parametrize(
    ("name", "seconds"), [("start", 120), ("snapshot", 45), ("a new call", 45), ("press_power_button", 7.5)]
)
def test_a_call_is_late_at_its_deadline_and_given_up_once(name: str, seconds: float) -> None:
    calls = Calls(LIMIT)
    calls.of_machine("m")
    with calls.making(name):
        begun = time.monotonic()
        assert calls.give_up(begun + seconds - 1, hold) is None
        assert calls.given_up is None
        late = calls.give_up(begun + seconds, hold)
        assert late is not None
        assert (late.name, late.machine_id) == (name, "m")
        assert calls.give_up(begun + 2 * seconds, hold) is None
    assert calls.given_up == late
    assert held == [("m", name)]


def test_libvirt_refuses_a_usual_call_well_before_it_is_given_up() -> None:
    """It waits 30 s for a domain that another call holds (QEMU_JOB_WAIT_TIME); by default ours is clearly longer."""
    usual = LIMIT / SECOND * calls_module.SHARES["usual"]
    assert usual >= 30 * 1.25


def test_an_action_is_late_at_its_deadline_whatever_it_does() -> None:
    calls = Calls(LIMIT)
    calls.of_machine("m")
    with calls.acting("PrepareDevice"):
        begun = time.monotonic()
        assert not calls.in_hypervisor
        with calls.making("network"):
            assert calls.in_hypervisor
        assert calls.give_up(begun + 149, hold) is None
        assert calls.give_up(begun + 150, hold) is not None
    assert held == [("m", "PrepareDevice")]


def test_a_call_within_an_action_is_late_before_it() -> None:
    calls = Calls(LIMIT)
    calls.of_machine("m")
    with calls.acting("Define"), calls.making("define"):
        assert calls.give_up(time.monotonic() + 3600, hold) is not None
    assert held == [("m", "define")]


def test_between_calls_nothing_is_late() -> None:
    calls = Calls(LIMIT)
    assert calls.give_up(time.monotonic() + 3600, hold) is None
    with calls.making("start"):
        pass
    assert calls.give_up(time.monotonic() + 3600, hold) is None
    assert held == []


def test_a_lane_that_is_given_up_asks_no_more() -> None:
    calls = Calls(LIMIT)
    hypervisor = FakeHypervisor()
    connection = watched(hypervisor.connect(), calls.making)
    assert connection.domain_ids() == []
    with calls.making("define"):
        assert calls.give_up(time.monotonic() + 3600, hold)
    with pytest.raises(Unreachable, match="its define was too late"):
        connection.domain_ids()
    connection.close()


def test_a_call_that_fails_is_over() -> None:
    calls = Calls(LIMIT)
    connection = watched(FakeHypervisor().connect(), calls.making)
    with pytest.raises(Exception, match="no uuid"):
        connection.define("<domain/>")
    assert calls.give_up(time.monotonic() + 3600, hold) is None
