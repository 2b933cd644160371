"""`cordon`, `drain` and `uncordon` beside a working provider, and without one for the next."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.hypervisor.fake import FakeHypervisor
from tests.contract.loop import Loop, serving_loop
from tests.contract.refusal import refused
from tests.contract.test_store_cli import Cli


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


async def quantity(loop: Loop) -> int:
    reply: pb.StatusResponse = await loop.stub.Status(pb.StatusRequest())
    return next(each.quantity for each in reply.machine_class_status if each.machine_class.name == "c1-m1")


@pytest.mark.rule("R-G6-3")
async def test_a_drain_beside_a_working_provider(tmp_path: Path, cli: Cli) -> None:
    hypervisor = FakeHypervisor()
    async with serving_loop(tmp_path, hypervisor) as loop:
        machine_id = await loop.created()
        assert await cli.run("cordon", "--reason", "a new disk") == (0, "cordoned: no new machines are taken\n")
        assert await quantity(loop) == 1
        async with refused(grpc.StatusCode.UNAVAILABLE, "this host is cordoned (a new disk) and takes no new machines"):
            await loop.create()
        status, text = await cli.run("drain", "--shutdown", "--wait", "1m")
        assert (status, text.splitlines()[-1]) == (0, "no guest runs")
        await loop.state(machine_id, "SUSPENDED")
    assert (await cli.run("uncordon"))[0] == 0
    async with serving_loop(tmp_path, hypervisor) as loop:
        await loop.state(machine_id, "RUNNING")
        await loop.create()


async def test_without_a_provider_the_next_one_is_told(tmp_path: Path, cli: Cli) -> None:
    status, text = await cli.run("cordon")
    assert (status, "there is no state directory" in text) == (1, True)
    async with serving_loop(tmp_path, FakeHypervisor()):
        pass
    assert (await cli.run("cordon"))[0] == 0
    async with serving_loop(tmp_path, FakeHypervisor()) as loop:
        assert await quantity(loop) == 0
        async with refused(grpc.StatusCode.UNAVAILABLE, "this host is cordoned and takes no new machines"):
            await loop.create()
