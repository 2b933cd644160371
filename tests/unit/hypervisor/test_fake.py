"""What only the fake can do: fail on demand, hang, and survive in a file."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from sri_libvirt.errors import HypervisorError
from sri_libvirt.hypervisor.base import DomainState
from sri_libvirt.hypervisor.fake import FakeHypervisor

ID = "6a1f7b0e-7d5a-4c56-9a6e-2f6f4f4f0001"
XML = f"<domain><uuid>{ID}</uuid></domain>"


def test_fail_next_fails_once_each() -> None:
    hypervisor = FakeHypervisor()
    connection = hypervisor.connect()
    connection.define(XML)
    hypervisor.fail_next("start", HypervisorError("first"), HypervisorError("second"))
    for words in ("first", "second"):
        with pytest.raises(HypervisorError, match=words):
            connection.start(ID)
    connection.start(ID)
    snapshot = connection.snapshot(ID)
    assert snapshot is not None
    assert snapshot.state is DomainState.RUNNING


def test_a_hung_call_does_not_hang_the_others() -> None:
    hypervisor = FakeHypervisor()
    hypervisor.connect().define(XML)
    release = hypervisor.hang("start")
    started = threading.Thread(target=lambda: hypervisor.connect().start(ID))
    started.start()
    snapshot = hypervisor.connect().snapshot(ID)
    assert snapshot is not None
    assert not snapshot.active
    release()
    started.join(10)
    assert not started.is_alive()
    after = hypervisor.connect().snapshot(ID)
    assert after is not None
    assert after.active


def test_domains_survive_in_the_file(tmp_path: Path) -> None:
    state = tmp_path / "libvirt.json"
    first = FakeHypervisor(state)
    first.networks["net"] = True
    connection = first.connect()
    connection.define(XML)
    connection.start(ID)
    before = connection.snapshot(ID)
    second = FakeHypervisor(state).connect()
    assert second.snapshot(ID) == before
    assert second.network_active("net") is True
