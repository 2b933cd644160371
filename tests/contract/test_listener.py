"""The socket itself: stale files, modes, a second server, health, reflection, and how it ends."""

from __future__ import annotations

import asyncio
import grp
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import ConfigError
from sri_libvirt.server.listener import Listener, clear_stale
from sri_libvirt.server.service import MachineRuntime, handlers
from tests.contract.conftest import Provider, small

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Silent:
    """A service without methods."""

    def service(self, _details: object) -> None:
        return None


def listener(address: str, **options: Any) -> Listener:
    return Listener(address, Silent(), **options)  # type: ignore[arg-type]


@asynccontextmanager
async def started(address: str, **options: Any) -> AsyncIterator[Listener]:
    made = listener(address, **options)
    await made.start()
    yield made
    await made.stop(grace=1)


async def health(address: str, service: str) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    return int(reply.status)


@pytest.mark.rule("R-H-1")
async def test_mode_and_group_and_removal(tmp_path: Path) -> None:
    path = tmp_path / "s"
    group = grp.getgrgid(os.getgid()).gr_name
    async with started(f"unix://{path}", socket_mode=0o620, socket_group=group) as made:
        found = path.stat()
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o620
        assert found.st_gid == os.getgid()
        assert made.address == f"unix://{path}"
        assert await health(made.address, "") == SERVING
    assert list(tmp_path.iterdir()) == []


async def test_a_group_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such group"):
        listener(f"unix://{tmp_path}/s", socket_group="no-such-group")


@pytest.mark.rule("R-A9-3")
async def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with started(f"unix:{path}") as made:
        assert await health(made.address, "") == SERVING


@pytest.mark.rule("R-A9-3")
async def test_a_live_socket_is_never_taken_over(provider: Provider) -> None:
    with pytest.raises(ConfigError, match="another program serves"):
        await listener(provider.listener.address).start()
    assert await provider.machines() == []


@pytest.mark.rule("R-A9-3")
async def test_what_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="is no socket"):
        await listener(f"unix://{path}").start()
    assert path.read_text() == "precious"
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(ConfigError, match="is no socket"):
        clear_stale(tmp_path / "link")


async def test_stop_leaves_a_socket_of_another(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as other:
        async with started(f"unix://{path}"):
            path.rename(tmp_path / "ours")
            other.bind(str(path))
        assert path.exists()


async def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot listen on"):
        await listener(f"unix://{tmp_path}/no/s").start()


async def test_tcp_on_loopback_and_a_port_in_use() -> None:
    async with started("127.0.0.1:0") as made:
        assert await health(made.address, "") == SERVING
        with pytest.raises(ConfigError, match="cannot listen on"):
            await listener(made.address).start()


@pytest.mark.rule("R-G6-4")
async def test_health_tells_store_and_hypervisor_apart(tmp_path: Path) -> None:
    async with started(f"unix://{tmp_path}/s") as made:
        assert await health(made.address, "") == SERVING
        assert await health(made.address, "libvirt") == NOT_SERVING
        for reachable, status in ((True, SERVING), (False, NOT_SERVING)):
            await asyncio.to_thread(made.set_hypervisor_reachable, reachable)
            async with asyncio.timeout(10):
                while await health(made.address, "libvirt") != status:
                    await asyncio.sleep(0)
            assert await health(made.address, "") == SERVING
        with pytest.raises(grpc.aio.AioRpcError):
            await health(made.address, "unknown")


async def test_a_hypervisor_that_was_there_before_the_start(tmp_path: Path) -> None:
    made = listener(f"unix://{tmp_path}/s")
    made.set_hypervisor_reachable(True)
    await made.start()
    assert await health(made.address, "libvirt") == SERVING
    await made.stop(grace=1)
    made.set_hypervisor_reachable(False)  # events may still come


async def test_reflection_names_the_service_and_its_types(provider: Provider) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(provider.channel)
    asked = reflection_pb2.ServerReflectionRequest
    call = stub.ServerReflectionInfo(
        iter([asked(list_services=""), asked(file_containing_symbol="machine.v1alpha1.MachineRuntime")])
    )
    services, file = [reply async for reply in call]
    assert "machine.v1alpha1.MachineRuntime" in {each.name for each in services.list_services_response.service}
    assert file.file_descriptor_response.file_descriptor_proto


async def test_a_request_larger_than_grpcs_own_limit(provider: Provider) -> None:
    large = small(ignition_data=b"x" * (5 << 20))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await provider.create(large)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # read, and refused by us


async def test_stop_lets_a_running_call_end(tmp_path: Path) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    class Slow(MachineRuntime):
        async def version(self, _request: pb.VersionRequest) -> pb.VersionResponse:
            entered.set()
            await go_on.wait()
            return pb.VersionResponse(runtime_name="slow")

    runtime = Slow.__new__(Slow)
    made = Listener(f"unix://{tmp_path}/s", handlers(runtime))
    await made.start()
    async with grpc.aio.insecure_channel(made.address) as channel:
        call = channel.unary_unary("/machine.v1alpha1.MachineRuntime/Version", None, None)(b"")
        await entered.wait()
        stopping = asyncio.create_task(made.stop(grace=10))
        await asyncio.sleep(0)
        go_on.set()
        assert pb.VersionResponse.FromString(await call).runtime_name == "slow"
        await stopping
    await made.stop(grace=1)
