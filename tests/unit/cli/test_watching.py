"""`machine list --watch`: a line for each change of what is asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.cli import output as out
from sri_libvirt.cli.machine import listing
from sri_libvirt.records import Run
from sri_libvirt.store import Store
from tests.unit.cli.conftest import DB, WEB, Cli


def put(store: Store, machine_id: str, state: pb.MachineState) -> None:
    status = pb.MachineStatus(state=state)
    store.write(lambda tx: tx.record_pass(machine_id, status=status, run=Run(), reasons=(), observed_generation=1))


def test_who_asks_for_some_hears_of_them_alone(cli: Cli, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def changes() -> Iterator[frozenset[str] | None]:
        yield None  # nothing is otherwise than it was listed
        put(store, WEB, pb.MACHINE_SUSPENDED)
        yield frozenset({WEB})
        put(store, WEB, pb.MACHINE_RUNNING)
        yield frozenset({WEB})
        yield frozenset({WEB})
        store.write(lambda tx: tx.forget(DB))
        yield frozenset({DB})
        store.write(lambda tx: tx.forget(WEB))
        yield frozenset({WEB})

    put(store, WEB, pb.MACHINE_RUNNING)
    monkeypatch.setattr(listing, "follow", lambda _ask, _paths, act: [act(each) for each in changes()])
    lines = cli("machine", "list", "--watch", "--state", "RUNNING", "--no-headers").out.splitlines()
    assert [line.split()[0] for line in lines] == [WEB, WEB, WEB]
    assert [" RUNNING " in line for line in lines] == [True, True, False]
    assert lines[-1].endswith("GONE")


def test_what_happens_between_the_list_and_the_first_word_is_told(
    cli: Cli, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = out.flush

    def changed() -> None:
        flush()
        put(store, DB, pb.MACHINE_SUSPENDED)
        monkeypatch.setattr(out, "flush", flush)

    monkeypatch.setattr(out, "flush", changed)
    monkeypatch.setattr(listing, "follow", lambda _ask, _paths, act: act(None))
    lines = cli("machine", "list", "--watch", "--no-headers").out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == [DB]
    assert " SUSPENDED " in lines[2]
