"""The calls of a lane: what is under way, when it is late, and that nothing follows a late one."""

from __future__ import annotations

import time

import pytest

from sri_libvirt.errors import Unreachable
from sri_libvirt.hypervisor.fake import FakeHypervisor
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


@pytest.mark.parametrize(("name", "seconds"), [("start", 120), ("snapshot", 30), ("a new call", 30)])
def test_a_call_is_late_at_its_deadline_and_given_up_once(name: str, seconds: int) -> None:
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
