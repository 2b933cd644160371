"""What only the fake can do: fail on demand, hang, and survive in a file."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from sri_libvirt.errors import HypervisorError
from sri_libvirt.hypervisor.base import DiskError, DomainState, EventKind, Secret, SecretUsage
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.hypervisor.fake_networks import FakeNetwork
from tests.contract.hypervisor.suite import Recorder

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
    first.networks["net"] = FakeNetwork()
    connection = first.connect()
    connection.define(XML)
    connection.start(ID)
    before = connection.snapshot(ID)
    second = FakeHypervisor(state).connect()
    assert second.snapshot(ID) == before
    assert second.network("net") == first.connect().network("net")


def test_a_secret_survives_in_the_file_without_its_value(tmp_path: Path) -> None:
    state = tmp_path / "libvirt.json"
    first = FakeHypervisor(state)
    secret = Secret("5ec", SecretUsage.CEPH, "instance")
    first.connect().set_secret(secret, b"planted")
    assert b"planted" not in state.read_bytes()
    assert "planted" not in repr(secret)
    second = FakeHypervisor(state)
    assert second.connect().secret_ids() == {"5ec": "instance"}
    second.set_reachable(False)
    assert FakeHypervisor(state).connect().secret_ids() == {}


def test_it_tells_which_value_a_disk_was_opened_with() -> None:
    hypervisor = FakeHypervisor()
    connection = hypervisor.connect()
    disk = "<disk><auth username='u'><secret type='iscsi' uuid='5ec'/></auth></disk>"
    connection.define(f"<domain><uuid>{ID}</uuid><devices>{disk}</devices></domain>")
    connection.set_secret(Secret("5ec", SecretUsage.ISCSI, "instance"), b"first")
    connection.set_secret(Secret("5ec", SecretUsage.ISCSI, "instance"), b"second")
    connection.start(ID)
    assert hypervisor.opened_with == {"5ec": b"second"}


def test_a_disk_that_fails_pauses_its_guest_again_until_it_is_mended(tmp_path: Path) -> None:
    hypervisor, recorder = FakeHypervisor(tmp_path / "state"), Recorder()
    hypervisor.watch(recorder)
    connection = hypervisor.connect()
    disk = "<disk><target dev='vda'/><alias name='ua-vol-a-1'/></disk>"
    connection.define(f"<domain><uuid>{ID}</uuid><devices>{disk}</devices></domain>")
    connection.start(ID)
    hypervisor.fail_disk(ID, "vdz")
    assert connection.disk_errors(ID) == {}, "it has no such disk"
    hypervisor.fail_disk(ID, "vda", DiskError.NO_SPACE)
    connection.resume(ID)
    assert recorder.details(ID, EventKind.NO_SPACE) == [(EventKind.NO_SPACE, "ua-vol-a-1")] * 2
    assert FakeHypervisor(tmp_path / "state").connect().disk_errors(ID) == {"vda": DiskError.NO_SPACE}
    hypervisor.mend_disks(ID)
    connection.resume(ID)
    snapshot = connection.snapshot(ID)
    assert snapshot is not None
    assert snapshot.state is DomainState.RUNNING
    hypervisor.fail_disk(ID, "vda")
    assert recorder.details(ID, EventKind.IO_ERROR) == [(EventKind.IO_ERROR, "ua-vol-a-1")]
    assert connection.disk_errors(ID) == {"vda": DiskError.NO_SPACE}, "the first one, as QEMU has it"
    connection.destroy(ID)
    connection.start(ID)
    assert connection.disk_errors(ID) == {}
