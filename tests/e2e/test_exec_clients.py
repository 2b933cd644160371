"""A real guest's shell by clients that nobody here wrote, all the way: API server, poollet, provider, libvirt."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import kubernetes
import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.records import LABEL_NAME, LABEL_NAMESPACE
from tests.e2e.provider import Provider, spec, wait_for
from tests.poollet.exec import ApiServer
from tests.terminal import kubectl
from tests.terminal.kubectl import Kubectl
from tests.terminal.person import Person

pytestmark = pytest.mark.e2e

has_kubectl = pytest.mark.skipif(kubectl.version() is None, reason="kubectl is not installed")
ways = pytest.mark.parametrize("way", kubectl.ways())


@pytest.fixture
async def machine_id(provider: Provider, tiny_image: Path) -> str:
    """A machine, `default/m`, whose guest has a shell."""
    provider.start("--firmware", "bios")
    made: str = provider.create(spec(image=tiny_image)).metadata.id
    await asyncio.to_thread(provider.wait_console, made, "tiny: up")
    return made


@pytest.fixture
async def server(provider: Provider, relay: str) -> AsyncIterator[ApiServer]:
    def asked(namespace: str, name: str) -> str:
        labels = {LABEL_NAMESPACE: namespace, LABEL_NAME: name}
        request = pb.ListMachinesRequest(filter=pb.MachineFilter(label_selector=labels))
        (machine,) = provider.stub.ListMachines(request, timeout=10).machines
        found: str = provider.stub.Exec(pb.ExecRequest(machine_id=machine.metadata.id), timeout=10).url
        return found

    async with ApiServer(lambda *words: asyncio.to_thread(asked, *words), relay) as there:
        yield there


def sessions(provider: Provider, machine_id: str) -> list[str]:
    return [event.reason for event in provider.events(machine_id) if event.kind == "console"]


@has_kubectl
@ways
async def test_kubectl_at_a_terminal(
    provider: Provider, server: ApiServer, machine_id: str, way: str, tmp_path: Path
) -> None:
    client = Kubectl(server.url, way, tmp_path)
    person = Person(client.exec("m", "-i", "-t"), client.env)
    try:
        await asyncio.to_thread(_has_a_shell, person)
        person.type("poweroff -f\r")
        assert await asyncio.to_thread(person.status) == 0
    finally:
        person.close()
    wait_for("its end", lambda: sessions(provider, machine_id) == ["opened", "closed"])


def _has_a_shell(person: Person) -> None:
    person.type("echo tiny-$((3+4))\r")
    person.expect("tiny-7")
    person.resize(50, 132)  # of which a serial line knows nothing
    person.type("echo slee''ps; sleep 1000\r")
    person.expect("sleeps")
    person.insist("\x03", "tiny# ")  # which is the guest's
    person.type("echo after-$((1+1))\r")
    person.expect("after-2")


@has_kubectl
@ways
async def test_kubectl_in_a_pipe(
    provider: Provider, server: ApiServer, machine_id: str, way: str, tmp_path: Path
) -> None:
    client = Kubectl(server.url, way, tmp_path)
    done = await asyncio.to_thread(
        subprocess.run, client.exec("m", "-i"), input=b"echo tiny-$((3+4)); poweroff -f\n", capture_output=True,
        timeout=120, env={"PATH": "/usr/bin:/bin", **client.env}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"tiny-7" in done.stdout
    wait_for("its end", lambda: sessions(provider, machine_id) == ["opened", "closed"])


async def test_the_python_client(provider: Provider, server: ApiServer, machine_id: str) -> None:
    api = kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(kubernetes.client.Configuration(host=server.url)))

    def talk() -> str:
        session = kubernetes.stream.stream(
            api.connect_get_namespaced_pod_exec, "m", "default", command=["console"],
            stdin=True, stdout=True, stderr=True, tty=True, _preload_content=False,
        )  # fmt: skip
        session.write_stdin("echo tiny-$((3+4)); poweroff -f\n")
        session.run_forever(60)
        assert session.returncode == 0
        read: str = session.read_all()
        return read

    assert "tiny-7" in await asyncio.to_thread(talk)
    wait_for("its end", lambda: sessions(provider, machine_id) == ["opened", "closed"])
