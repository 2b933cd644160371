"""The steady clock: whatever the wall clock does, time goes on at its own pace and never back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from sri_libvirt.clock import Anchor, HostClocks, SteadyClock, of_text
from sri_libvirt.records import SECOND

YEAR = 365 * 86400 * SECOND
T0 = 50 * YEAR

STEP = st.integers(min_value=0, max_value=40 * 86400 * SECOND)
JUMP = st.integers(min_value=-20 * YEAR, max_value=20 * YEAR)


@dataclass
class FakeHost:
    """A host whose wall clock can be set at will."""

    boot: str = "boot-1"
    elapsed: int = 100 * SECOND
    wall: int = T0

    def clocks(self) -> HostClocks:
        return HostClocks(lambda: self.boot, lambda: self.elapsed, lambda: self.wall)

    def passes(self, time: int) -> None:
        self.elapsed += time
        self.wall += time

    def reboots(self, down: int) -> None:
        self.boot, self.elapsed = self.boot + "'", 10 * SECOND
        self.wall += down


def test_it_begins_with_the_wall_clock() -> None:
    host = FakeHost()
    clock = SteadyClock.of(None, lambda: 0, host.clocks())
    assert clock() == clock.wall() == T0
    host.passes(5 * SECOND)
    assert clock() == T0 + 5 * SECOND


@given(st.lists(st.tuples(STEP, JUMP, st.booleans()), max_size=12))
def test_a_wall_clock_that_is_set_moves_nothing_within_a_boot(steps: list[tuple[int, int, bool]]) -> None:
    host = FakeHost()
    clock = SteadyClock.of(None, lambda: 0, host.clocks())
    true = clock()
    for passed, jump, restarted in steps:
        host.passes(passed)
        host.wall += jump
        true += passed
        if restarted:
            clock = SteadyClock.of(of_text(clock.anchor.text()), lambda: 0, host.clocks())
        assert clock() == true


@given(st.lists(st.tuples(STEP, JUMP, STEP), min_size=1, max_size=8))
def test_it_never_goes_back_over_reboots(steps: list[tuple[int, int, int]]) -> None:
    host = FakeHost()
    clock = SteadyClock.of(None, lambda: 0, host.clocks())
    for passed, jump, down in steps:
        host.passes(passed)
        before = clock()
        host.reboots(down)
        host.wall += jump
        clock = SteadyClock.of(clock.anchor, partial(int, before), host.clocks())
        assert clock() == max(before, host.wall)


def test_a_reboot_counts_as_long_as_the_wall_clock_says() -> None:
    host = FakeHost()
    clock = SteadyClock.of(None, lambda: 0, host.clocks())
    host.reboots(3600 * SECOND)
    assert SteadyClock.of(clock.anchor, lambda: T0, host.clocks())() == T0 + 3600 * SECOND


def test_a_boot_that_is_younger_than_its_anchor_is_another_one() -> None:
    host = FakeHost()
    anchor = SteadyClock.of(None, lambda: 0, host.clocks()).anchor
    host.elapsed -= 50 * SECOND
    assert SteadyClock.of(anchor, lambda: T0 + 7, host.clocks())() == T0 + 7


def test_times_of_a_store_without_an_anchor_are_never_in_the_future() -> None:
    assert SteadyClock.of(None, lambda: T0 + 10 * YEAR, FakeHost().clocks())() == T0 + 10 * YEAR


def test_people_are_told_the_time_by_the_clock_as_it_is_now() -> None:
    host = FakeHost(wall=T0 - 10 * YEAR)
    clock = SteadyClock.of(None, lambda: 0, host.clocks())
    at = clock()
    host.passes(60 * SECOND)
    host.wall += 10 * YEAR
    assert clock.to_wall(at) == T0
    assert clock.of_wall(T0) == at
    assert (clock.to_wall(0), clock.of_wall(0)) == (0, 0)


def test_a_clock_that_is_slewed_is_not_told_of() -> None:
    host = FakeHost()
    clock = SteadyClock.of(None, lambda: 0, host.clocks())
    host.wall += SECOND // 2
    assert clock.to_wall(clock()) == clock()


def test_the_anchor_is_kept_as_text() -> None:
    anchor = Anchor("b", 1, 2)
    assert json.loads(anchor.text()) == {"boot_id": "b", "boottime": 1, "steady": 2}
    assert of_text(anchor.text()) == anchor
    assert of_text(None) is None
