"""Consoles by clients that nobody here wrote, through the poollet's proxy, on the fake hypervisor."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import kubernetes
import pytest
from kubernetes.stream.ws_client import WSClient

from sri_libvirt.console.entrance import Entrance
from sri_libvirt.console.place import Place
from sri_libvirt.errors import NotFound
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.hypervisor.fake_console import FakeConsole
from sri_libvirt.metrics import Metrics
from tests import terminal
from tests.poollet.exec import ApiServer
from tests.terminal import kubectl
from tests.terminal.kubectl import Kubectl

ID = "11111111-1111-4111-8111-111111111111"
SECONDS = 60.0
OUT = b"".join(b"%08d" % number for number in range(512 * 1024))  # 4 MiB, in which no two places are alike
IN = OUT[: 1 << 20]
SHOWN = ("sri_libvirt_console_bytes_total", {"direction": "shown"})

has_kubectl = pytest.mark.skipif(kubectl.version() is None, reason="kubectl is not installed")
ways = pytest.mark.parametrize("way", kubectl.ways())


@dataclass
class House:
    hypervisor: FakeHypervisor
    entrance: Entrance
    server: ApiServer
    metrics: Metrics

    async def guest(self) -> FakeConsole:
        """The console that somebody has opened."""
        async with asyncio.timeout(SECONDS):
            while ID not in self.hypervisor.consoles:
                await asyncio.sleep(0.01)
        return self.hypervisor.consoles[ID]

    async def shown(self, count: int) -> None:
        """So many bytes have gone to the client's connection."""
        async with asyncio.timeout(SECONDS):
            while (self.metrics.registry.get_sample_value(*SHOWN) or 0) < count:
                await asyncio.sleep(0.001)

    async def free(self) -> None:
        """Nobody has the console any more."""
        listener = self.entrance._server
        assert listener is not None
        async with asyncio.timeout(SECONDS):
            while listener.in_use(ID):
                await asyncio.sleep(0.01)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    hypervisor, metrics = FakeHypervisor(), Metrics()
    connection = hypervisor.connect()
    connection.define(f"<domain><uuid>{ID}</uuid></domain>")
    connection.start(ID)
    place = Place("127.0.0.1:0", lambda _machine: Path("/nonexistent"))
    entrance = Entrance(place, hypervisor.console, lambda _machine: True, lambda *_: None, lambda: 0, metrics)

    async def url(_namespace: str, name: str) -> str:
        if name != "m":
            raise NotFound(f"there is no machine {name}")
        return await entrance.url(ID)

    async with ApiServer(url) as server:
        yield House(hypervisor, entrance, server, metrics)
    await entrance.stop()


async def run(house: House, way: str, home: Path, name: str = "m") -> Process:
    """kubectl with pipes at its ends."""
    client = Kubectl(house.server.url, way, home)
    return await asyncio.create_subprocess_exec(
        *client.exec(name, "-i"), stdin=PIPE, stdout=PIPE, stderr=PIPE, env={**os.environ, **client.env}
    )


async def typed(guest: FakeConsole, text: bytes) -> None:
    async with asyncio.timeout(SECONDS):
        while guest.typed != text:
            await asyncio.sleep(0.01)


async def ended(process: Process) -> tuple[int, str]:
    """The exit status, and what was said of it."""
    assert process.stderr is not None
    async with asyncio.timeout(SECONDS):
        said = await process.stderr.read()
        return await process.wait(), said.decode()


@has_kubectl
@ways
async def test_kubectl_types_and_reads(house: House, way: str, tmp_path: Path) -> None:
    process = await run(house, way, tmp_path)
    assert process.stdin is not None
    assert process.stdout is not None
    guest = await house.guest()
    process.stdin.write(b"uname\n")
    await typed(guest, b"uname\n")
    guest.prints(b"Linux\r\n")
    assert await process.stdout.readexactly(7) == b"Linux\r\n"
    process.stdin.close()  # which ends nothing but what is typed
    guest.prints(b"more\r\n")
    assert await process.stdout.readexactly(6) == b"more\r\n"
    guest.end()
    assert await ended(process) == (0, "")
    assert house.server.tunnels == 1, "no way was tried and refused"


@has_kubectl
@ways
async def test_kubectl_carries_much_both_ways(house: House, way: str, tmp_path: Path) -> None:
    process = await run(house, way, tmp_path)
    assert process.stdin is not None
    assert process.stdout is not None
    guest = await house.guest()
    process.stdin.write(IN)
    await typed(guest, IN)
    step, heard = 64 * 1024, bytearray()
    for begin in range(0, len(OUT), step):
        guest.prints(OUT[begin : begin + step])
        heard += await process.stdout.readexactly(min(step, len(OUT) - begin))
    assert heard == OUT
    guest.end()
    assert (await ended(process))[0] == 0


@has_kubectl
@ways
async def test_kubectl_is_told_why_it_ended(house: House, way: str, tmp_path: Path) -> None:
    process = await run(house, way, tmp_path)
    await house.guest()
    await house.entrance.stop()
    status, said = await ended(process)
    assert status == 1
    assert "the provider stops" in said


@has_kubectl
@ways
async def test_kubectl_is_told_why_it_is_refused(house: House, way: str, tmp_path: Path) -> None:
    first = await run(house, way, tmp_path)
    await house.guest()
    status, said = await ended(await run(house, way, tmp_path))
    assert status == 1
    assert "is in use since" in said
    first.kill()
    await first.wait()
    status, said = await ended(await run(house, way, tmp_path, "other"))
    assert status == 1
    assert "there is no machine other" in said


@has_kubectl
@ways
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_the_console_is_free_when_kubectl_goes(house: House, way: str, number: int, tmp_path: Path) -> None:
    process = await run(house, way, tmp_path)
    guest = await house.guest()
    process.send_signal(number)
    await process.wait()
    await house.free()
    assert guest.ended


@functools.cache
def has_spdy_transport() -> bool:
    """Whether this host has node, and npm's spdy-transport where it finds it."""
    argv = ["node", "-e", "require('spdy-transport')"]
    return shutil.which("node") is not None and subprocess.run(argv, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not has_spdy_transport(), reason="npm's spdy-transport is not installed")
async def test_spdy_transport_which_honours_windows(house: House) -> None:
    url = await house.entrance.url(ID)
    script = Path(terminal.__file__).with_name("spdy_transport.js")
    process = await asyncio.create_subprocess_exec("node", script, url, str(len(OUT)), stdout=PIPE, stderr=PIPE)
    guest = await house.guest()
    async with asyncio.timeout(SECONDS):
        while len(guest.typed) < len(OUT):
            await asyncio.sleep(0.01)
    for begin in range(0, len(OUT), 1 << 16):
        guest.prints(OUT[begin : begin + (1 << 16)])
        await house.shown(begin + (1 << 16))
    guest.end()
    assert await ended(process) == (0, "")
    assert process.stdout is not None
    told = json.loads(await process.stdout.read())
    assert (told["sha256"], told["status"]["status"]) == (hashlib.sha256(OUT).hexdigest(), "Success")


class PythonClient:
    """PyPI's `kubernetes`, whose calls block."""

    def __init__(self, house: House) -> None:
        configuration = kubernetes.client.Configuration(host=house.server.url)
        self._api = kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(configuration))

    async def open(self) -> WSClient:
        return await asyncio.to_thread(
            kubernetes.stream.stream, self._api.connect_get_namespaced_pod_exec, "m", "default", command=["console"],
            stdin=True, stdout=True, stderr=True, tty=True, _preload_content=False,
        )  # fmt: skip


async def test_the_python_client_types_and_reads(house: House) -> None:
    session = await PythonClient(house).open()
    guest = await house.guest()
    await asyncio.to_thread(session.write_stdin, "uname\n")
    await typed(guest, b"uname\n")
    guest.prints(b"Linux\r\n")
    assert await asyncio.to_thread(session.readline_stdout, SECONDS) == "Linux\r"
    guest.end()
    await asyncio.to_thread(session.run_forever, SECONDS)
    assert session.returncode == 0


async def test_the_python_client_carries_much_both_ways(house: House) -> None:
    session = await PythonClient(house).open()
    guest = await house.guest()
    for begin in range(0, len(IN), 1 << 16):
        await asyncio.to_thread(session.write_stdin, IN[begin : begin + (1 << 16)].decode())
    await typed(guest, IN)
    heard = ""
    for begin in range(0, len(OUT), 1 << 16):
        guest.prints(OUT[begin : begin + (1 << 16)])
        while len(heard) < begin + (1 << 16):
            heard += await asyncio.to_thread(session.read_stdout, SECONDS)
    assert heard.encode() == OUT
    with suppress(Exception):
        await asyncio.to_thread(session.close)
    await house.free()
