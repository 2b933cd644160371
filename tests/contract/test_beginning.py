"""An empty store beside the guests of another one, as below a disk that is not mounted: nothing is told of machines."""

from __future__ import annotations

import asyncio
import threading
import uuid
from pathlib import Path
from typing import Any

import grpc
import pytest

from sri_libvirt import app, failpoints, names
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import ConfigError
from sri_libvirt.hypervisor.fake import FakeConnection, FakeHypervisor
from sri_libvirt.reconcile import beginning
from tests.contract.loop import Loop, serving_loop, spec_of, until
from tests.contract.refusal import refused
from tests.contract.test_store_cli import Cli

ID = str(uuid.uuid4())


def requests() -> dict[str, Any]:
    """One request of each method that tells or changes something of machines."""
    volume, nic = pb.Volume(name="a", empty_disk={}), pb.NetworkInterface(name="a")
    return {
        "ListMachines": pb.ListMachinesRequest(),
        "CreateMachine": pb.CreateMachineRequest(machine=pb.Machine(spec=spec_of())),
        "DeleteMachine": pb.DeleteMachineRequest(machine_id=ID),
        "UpdateMachineAnnotations": pb.UpdateMachineAnnotationsRequest(machine_id=ID),
        "UpdateMachinePower": pb.UpdateMachinePowerRequest(machine_id=ID),
        "AttachVolume": pb.AttachVolumeRequest(machine_id=ID, volume=volume),
        "DetachVolume": pb.DetachVolumeRequest(machine_id=ID, name="a"),
        "AttachNetworkInterface": pb.AttachNetworkInterfaceRequest(machine_id=ID, network_interface=nic),
        "DetachNetworkInterface": pb.DetachNetworkInterfaceRequest(machine_id=ID, name="a"),
        "Exec": pb.ExecRequest(machine_id=ID),
    }


async def refuses(loop: Loop, words: str) -> pb.StatusResponse:
    """All RPCs that are about machines are refused, with these words; what Status says."""
    assert len(requests()) + 2 == len(pb.DESCRIPTOR.services_by_name["MachineRuntime"].methods)
    for method, request in requests().items():
        async with refused(grpc.StatusCode.UNAVAILABLE, words):
            await getattr(loop.stub, method)(request)
    assert (await loop.stub.Version(pb.VersionRequest())).runtime_name == "sri-libvirt"
    assert await loop.health("") == "NOT_SERVING"
    assert words in loop.provider._status()
    assert loop.provider.metrics.registry.get_sample_value("sri_libvirt_store_doubted") == 1
    status: pb.StatusResponse = await loop.stub.Status(pb.StatusRequest())
    return status


def quantities(status: pb.StatusResponse) -> set[int]:
    return {each.quantity for each in status.machine_class_status}


async def serves(loop: Loop) -> None:
    assert await loop.machines() == []
    assert await loop.health("") == "SERVING"
    assert loop.provider.metrics.registry.get_sample_value("sri_libvirt_store_doubted") == 0
    await loop.created()


async def test_a_disk_that_was_not_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beginning, "PERIOD", 0.05)
    hypervisor, state, aside, cli = FakeHypervisor(), tmp_path / "state", tmp_path / "aside", Cli(tmp_path)
    async with serving_loop(tmp_path, hypervisor) as loop:
        machine_id = await loop.created()
    state.rename(aside)
    async with serving_loop(tmp_path, hypervisor) as loop:
        words = f"{state} holds an empty store, but 1 domains of another store have their disks there ({machine_id})"
        assert quantities(await refuses(loop, words)) == {0}
        for argv in (("machine", "list"), ("machine", "why", machine_id), ("capacity", "-o", "json")):
            status, text = await cli.run(*argv)
            assert (status, "holds an empty store" in text) == (1, True), argv
    state.rename(tmp_path / "empty")
    aside.rename(state)
    async with serving_loop(tmp_path, hypervisor) as loop:
        await loop.state(machine_id, "RUNNING")
        assert loop.provider.beginning.words == ""
        assert hypervisor.connect().domain_ids() == [machine_id]


def stranger(hypervisor: FakeHypervisor, disk: Path, mark: str = "another") -> str:
    """A domain with the marks of a store, or with none."""
    made = str(uuid.uuid4())
    marks = f'<m:machine xmlns:m="{names.METADATA_NAMESPACE}" instance="{mark}" id="{made}" run="r"/>' if mark else ""
    hypervisor.connect().define(
        f"<domain type='qemu'><name>{made}</name><uuid>{made}</uuid><metadata>{marks}</metadata>"
        f"<memory>1024</memory><devices><disk><source file='{disk}'/></disk></devices></domain>"
    )
    return made


async def test_a_fresh_host_begins(tmp_path: Path) -> None:
    """Beside a store of another directory, and beside somebody's own guest."""
    hypervisor = FakeHypervisor()
    stranger(hypervisor, tmp_path / "state-of-another/disk.qcow2")
    stranger(hypervisor, tmp_path / "state/images/base.qcow2", mark="")
    async with serving_loop(tmp_path, hypervisor) as loop:
        await serves(loop)


async def test_a_fresh_host_without_libvirt_comes_up_and_begins_once_that_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beginning, "PERIOD", 0.05)
    hypervisor = FakeHypervisor()
    hypervisor.set_reachable(False)
    async with serving_loop(tmp_path, hypervisor) as loop:
        status = await refuses(loop, "this store is empty, and libvirt has not told yet")
        assert max(quantities(status)) > 0, "the poollet asks only hourly"
        hypervisor.set_reachable(True)
        await until("it begins", lambda: not loop.provider.beginning.words)
        await serves(loop)
    hypervisor.set_reachable(False)
    async with serving_loop(tmp_path, hypervisor) as loop:
        assert len(await loop.machines()) == 1, "a store with machines waits for nobody"
        assert loop.provider.beginning.asked.is_set()


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_store_that_fails_at_its_beginning_begins_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr(beginning, "PERIOD", 0.05)
    trap = failpoints.Once("fail", f"{when} store.Beginning._tell")
    failpoints.arm(trap)
    try:
        async with serving_loop(tmp_path, FakeHypervisor()) as loop:
            await until("its beginning", lambda: not loop.provider.beginning.words)
            await loop.created()
    finally:
        failpoints.arm(None)
    assert trap.point in trap.passed


async def test_what_is_in_the_way_may_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beginning, "PERIOD", 0.05)
    hypervisor = FakeHypervisor()
    other = stranger(hypervisor, tmp_path / "state/machines/x/disk.qcow2")
    async with serving_loop(tmp_path, hypervisor) as loop:
        await refuses(loop, other)
        hypervisor.connect().undefine(other)
        await until("it begins", lambda: not loop.provider.beginning.words)
        await serves(loop)


async def test_an_operator_lets_it_begin_once(tmp_path: Path) -> None:
    hypervisor = FakeHypervisor()
    other = stranger(hypervisor, tmp_path / "state/machines/x/disk.qcow2")
    async with serving_loop(tmp_path, hypervisor) as loop:
        await refuses(loop, "start once with --new-store")
        await asyncio.to_thread(loop.provider.beginning.beside)
        await serves(loop)
        with pytest.raises(ConfigError, match=r"--new-store: the store in .* is not new"):
            loop.provider.beginning.beside()
        for machine in await loop.machines():
            await loop.delete(machine.metadata.id)
            await loop.gone(machine.metadata.id)
    async with serving_loop(tmp_path, hypervisor) as loop:
        await serves(loop)
    assert other in hypervisor.connect().domain_ids()


async def test_a_hung_libvirt_delays_a_start_a_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "ASK_SECONDS", 0.1)
    hypervisor, going_on = FakeHypervisor(), threading.Event()
    connect = hypervisor.connect

    def hang() -> FakeConnection:
        if threading.current_thread().name == "beginning":
            assert going_on.wait(60)
        return connect()

    monkeypatch.setattr(hypervisor, "connect", hang)
    async with serving_loop(tmp_path, hypervisor) as loop:
        await refuses(loop, "libvirt has not been asked yet")
        going_on.set()
        await until("it begins", lambda: not loop.provider.beginning.words)
        await serves(loop)


async def test_a_store_that_another_one_was_mounted_over_is_no_sign_of_life(tmp_path: Path) -> None:
    async with serving_loop(tmp_path, FakeHypervisor()) as loop:
        check = loop.provider._signs_of_life()["store"]
        assert await asyncio.to_thread(check) == ""
        (tmp_path / "state").rename(tmp_path / "below")
        assert "was mounted, unmounted or moved" in await asyncio.to_thread(check)
        (tmp_path / "below").rename(tmp_path / "state")
        assert await asyncio.to_thread(check) == ""
