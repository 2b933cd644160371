"""Machines with more devices than ports: how many can be asked for, and that the others do not notice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import grpc
import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.hypervisor.base import EventKind
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.records import MOST_DEVICES
from tests.contract.conftest import Provider, small
from tests.contract.loop import Loop, Witness, disk, serving_loop, spec_of, until
from tests.contract.refusal import refused

PORTS = 4


def nics(count: int, network: str = "network://nowhere") -> list[pb.NetworkInterface]:
    return [pb.NetworkInterface(name=f"n{index}", network_id=network) for index in range(count)]


def attach(machine_id: str, name: str) -> pb.AttachNetworkInterfaceRequest:
    nic = pb.NetworkInterface(name=name, network_id="isolated")
    return pb.AttachNetworkInterfaceRequest(machine_id=machine_id, network_interface=nic)


@pytest.mark.rule("R-G8-1")
async def test_no_more_devices_than_a_machine_can_ever_have(provider: Provider) -> None:
    full = small(image=pb.ImageSpec(image="/a.raw"), ignition_data=b"#cloud-config\n")
    full.spec.network_interfaces.extend(nics(MOST_DEVICES - 2, "isolated"))
    machine_id = (await provider.create(full)).metadata.id
    volume = pb.AttachVolumeRequest(machine_id=machine_id, volume=disk("v"))
    words = "the machine would have 185 devices with its image and its seed; at most 184 can be"
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, f"network_interface: {words}"):
        await provider.stub.AttachNetworkInterface(attach(machine_id, "more"))
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, f"volume: {words}"):
        await provider.stub.AttachVolume(volume)
    await provider.stub.DetachNetworkInterface(pb.DetachNetworkInterfaceRequest(machine_id=machine_id, name="n0"))
    await provider.stub.AttachVolume(volume)


async def test_nobody_piles_up_devices_that_are_on_their_way_out(provider: Provider) -> None:
    machine_id = (await provider.create()).metadata.id
    for index in range(MOST_DEVICES):  # nothing lets them go here
        await provider.stub.AttachNetworkInterface(attach(machine_id, f"n{index}"))
        await provider.stub.DetachNetworkInterface(
            pb.DetachNetworkInterfaceRequest(machine_id=machine_id, name=f"n{index}")
        )
    async with refused(grpc.StatusCode.UNAVAILABLE, "184 devices of machine"):
        await provider.stub.AttachNetworkInterface(attach(machine_id, "new"))
    await provider.stub.AttachNetworkInterface(attach(machine_id, "n7"))  # it has not gone yet


@pytest.fixture
def hypervisor(tmp_path: Path) -> FakeHypervisor:
    return FakeHypervisor(tmp_path / "fake.json")


@pytest.fixture
def witness(hypervisor: FakeHypervisor) -> Witness:
    witness = Witness()
    hypervisor.watch(witness)
    return witness


@pytest.fixture
async def loop(tmp_path: Path, hypervisor: FakeHypervisor) -> AsyncIterator[Loop]:
    async with serving_loop(tmp_path, hypervisor, pcie_ports=PORTS) as loop:
        yield loop


async def look_again(loop: Loop, machine_id: str, times: int = 5) -> None:
    """Have it looked at, each time to the end."""

    def passes() -> float:
        return loop.provider.metrics.registry.get_sample_value("sri_libvirt_passes_total", {"outcome": "ok"}) or 0

    for _ in range(times):
        end = passes() + 1
        loop.provider.queue.wake(machine_id)
        await until("a pass", partial(lambda end: passes() >= end, end))


async def test_a_machine_that_is_off_with_a_missing_image_and_too_many_disks_is_defined_once(
    loop: Loop, witness: Witness
) -> None:
    spec = spec_of(power=pb.POWER_OFF, disks=tuple(f"d{index}" for index in range(PORTS + 3)))
    spec.image.image = "/nowhere/a.raw"
    machine_id = await loop.create(spec)
    await until("its domain", lambda: loop.hypervisor.connect().snapshot(machine_id))
    await look_again(loop, machine_id)
    defined = [event for event in witness.events if event.kind is EventKind.DEFINED and event.machine_id == machine_id]
    assert len(defined) == 1
    assert loop.codes(machine_id).count("no-port") == 4
    assert "device-not-ready" in loop.codes(machine_id)


async def test_machines_with_all_the_devices_that_a_spec_can_carry_keep_nobody_waiting(loop: Loop) -> None:
    spec = spec_of()
    spec.network_interfaces.extend(nics(MOST_DEVICES))
    large = [await loop.create(spec) for _ in range(4)]
    innocent = await loop.created()
    for machine_id in large:
        await loop.reason(machine_id, "no-port")
        await loop.reason(machine_id, "device-not-ready")
        asked = [row for row in loop.stored(machine_id).attachments if row.problem or row.backing]
        assert {row.port for row in asked} <= set(range(1, PORTS + 1)), "only what has a port is prepared"
        assert loop.codes(machine_id).count("no-port") == MOST_DEVICES - PORTS
    assert loop.codes(innocent) == []
