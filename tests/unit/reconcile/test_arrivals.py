"""Links of the host that come: who is woken, and may be tried again at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from sri_libvirt.reconcile.arrivals import Arrivals
from sri_libvirt.store.store import Store
from tests.unit.reconcile.world import ID, T0, machine, nic_row, volume_row


@dataclass
class Host:
    up: set[str] = field(default_factory=lambda: {"lo"})
    woken: list[str] = field(default_factory=list)


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def arrivals(store: Store, host: Host) -> Arrivals:
    found = Arrivals(store, lambda: frozenset(host.up), host.woken.append)
    found.begin()
    return found


def put(store: Store, problem: str, *, wanted: bool = True, kind: str = "nic") -> None:
    row = nic_row("eth", wanted=wanted) if kind == "nic" else volume_row("eth", wanted=wanted)
    store.write(lambda tx: tx.insert(machine(row)))
    if problem:
        store.write(lambda tx: tx.set_backing(ID, row.key, None, problem, problem_at=T0))


@pytest.mark.parametrize(
    ("kind", "problem", "wanted", "wakes"),
    [
        ("nic", "there is no bridge", True, True),
        ("nic", "", True, False),
        ("nic", "there is no bridge", False, False),
        ("volume", "there is no image", True, False),
    ],
)
def test_who_waits_for_a_link_is_woken_when_one_comes(
    store: Store, host: Host, arrivals: Arrivals, kind: str, problem: str, wanted: bool, wakes: bool
) -> None:
    put(store, problem, wanted=wanted, kind=kind)
    host.up.add("br0")
    arrivals.look()
    assert host.woken == ([ID] if wakes else [])
    record = store.machine(ID)
    assert record is not None
    row = record.attachments[0]
    assert row.problem == problem
    assert row.problem_at == (T0 if problem and not wakes else 0), "and may be tried at once"


def test_what_goes_or_stays_wakes_nobody_and_what_comes_back_does(store: Store, host: Host, arrivals: Arrivals) -> None:
    put(store, "there is no bridge")
    arrivals.look()
    host.up.remove("lo")
    arrivals.look()
    assert host.woken == []
    host.up.add("lo")
    arrivals.look()
    assert host.woken == [ID]
