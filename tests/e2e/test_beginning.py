"""A state directory that is empty, as below a disk that is not mounted, beside a real guest of the store elsewhere."""

from __future__ import annotations

import grpc
import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests.e2e.provider import Provider, spec

pytestmark = pytest.mark.e2e


def test_no_second_guest_is_made_beside_the_one_that_runs(provider: Provider) -> None:
    provider.start()
    machine = provider.create(spec(disks={"data": "oda"}), "once")
    machine_id = machine.metadata.id
    provider.wait_state(machine_id, "MACHINE_RUNNING")
    pid = provider.qemu_pid(machine_id)
    provider.stop()

    away = provider.state.with_name("away")
    provider.state.rename(away)
    provider.start()
    words = f"UNAVAILABLE(.|\n)*holds an empty store, but 1 domains of .*{machine_id}"
    with pytest.raises(grpc.RpcError, match=words):
        provider.machines()
    with pytest.raises(grpc.RpcError, match=words):
        provider.stub.CreateMachine(pb.CreateMachineRequest(machine=machine), timeout=10)
    provider.stop()
    provider.state.rename(provider.state.with_name("empty"))

    away.rename(provider.state)
    provider.start()
    provider.wait_state(machine_id, "MACHINE_RUNNING")
    assert [each.metadata.id for each in provider.machines()] == [machine_id]
    assert provider.qemu_pid(machine_id) == pid
