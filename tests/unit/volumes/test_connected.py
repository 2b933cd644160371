"""What all drivers of connected volumes have in common, by one of them; the contract tests run on each."""

from __future__ import annotations

import pytest

from sri_libvirt.errors import NotReady
from sri_libvirt.paths import MachinePaths
from sri_libvirt.volumes.base import Found
from sri_libvirt.volumes.ceph import CephVolumes
from tests.connected import MACHINE, SIZE, StubAsking, volume, waits
from tests.unit.volumes.test_ceph import ceph

KEY = ("volume", MACHINE, "data")


def test_it_is_chosen_by_the_word_of_its_connection() -> None:
    assert CephVolumes().supports(ceph())
    assert not CephVolumes().supports(volume("nbd", {}))
    assert not CephVolumes().supports(volume("Ceph", {}))


def test_what_is_only_planned_is_never_prepared(paths: MachinePaths) -> None:
    waits(CephVolumes(), ceph(), paths, "only plans")
    CephVolumes().release(MACHINE, ceph(), paths, final=True)
    assert CephVolumes().busy_until(MACHINE, ceph()) is None
    assert CephVolumes().size_of(MACHINE, ceph()) == 0


def test_a_backend_that_does_not_answer(paths: MachinePaths) -> None:
    asking = StubAsking(NotReady("the monitors do not answer", "Look at them.", "backend-silent"), busy=77)
    driver = CephVolumes(asking)
    assert driver.busy_until(MACHINE, ceph()) is None
    error = waits(driver, ceph(), paths, "the monitors do not answer")
    assert (error.advice, error.code) == ("Look at them.", "backend-silent")
    assert driver.busy_until(MACHINE, ceph()) == 77


def test_a_look_at_what_a_guest_has_open(paths: MachinePaths) -> None:
    asking = StubAsking()
    driver = CephVolumes(asking)
    driver.prepare(MACHINE, ceph(), paths)
    assert driver.size_of(MACHINE, ceph()) == 0, "only a look tells how a plugged volume is by now"
    asking.answer = Found(2 * SIZE)
    assert driver.look(MACHINE, ceph(), 77) == Found(2 * SIZE)
    assert asking.since == 77
    assert driver.look(MACHINE, ceph()) == Found(2 * SIZE)
    assert driver.size_of(MACHINE, ceph()) == 2 * SIZE
    assert asking.plugged == {KEY}
    assert [each[1:] for each in asking.asked] == [asking.asked[0][1:]] * 3
    asking.answer = NotReady("gone", code="backend-silent")
    with pytest.raises(NotReady, match="gone"):
        driver.look(MACHINE, ceph())


def test_what_a_guest_has_open_is_prepared_though_it_is_in_use(paths: MachinePaths) -> None:
    asking = StubAsking()
    driver = CephVolumes(asking)
    made = driver.prepare_plugged(MACHINE, ceph())
    assert asking.plugged == {KEY}
    assert made == driver.prepare(MACHINE, ceph(), paths)
    asking.answer = NotReady("it is being asked", "Wait.", "under-way")
    with pytest.raises(NotReady, match="it is being asked") as caught:
        driver.prepare_plugged(MACHINE, ceph())
    assert (caught.value.advice, caught.value.code) == ("Wait.", "")


def test_what_was_found_out_is_forgotten_with_the_volume(paths: MachinePaths) -> None:
    asking = StubAsking()
    for final in (False, True):
        CephVolumes(asking).release(MACHINE, ceph(), paths, final=final)
    assert asking.forgotten == [KEY, KEY]


@pytest.mark.parametrize("name", ["other", "data"])
def test_volumes_of_a_machine_are_told_apart(name: str, paths: MachinePaths) -> None:
    asking = StubAsking()
    other = ceph()
    other.name = name
    CephVolumes(asking).prepare(MACHINE, other, paths)
    assert asking.asked[0][1] == ("volume", MACHINE, name)
