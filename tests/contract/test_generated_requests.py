"""10,000 generated requests over a real socket while the loop acts on them, on the fake hypervisor and plain files.

Every answer is one that the contract knows, whatever was asked; what was accepted comes true; and nothing is left
behind by what was deleted.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from structlog.testing import capture_logs

from sri_libvirt import qcow2
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import BackingFile, DiskSource
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.hypervisor.fake_networks import FakeNetwork
from sri_libvirt.paths import MachinePaths
from sri_libvirt.server import intents
from sri_libvirt.volumes.empty_disk import EmptyDisks
from sri_libvirt.volumes.registry import VolumeRegistry
from tests.contract.conftest import Provider
from tests.contract.loop import Loop, serving_loop, until
from tests.contract.refusal import refused
from tests.contract.requests import Generator

REQUESTS = 10_000
CLIENTS = 8
KNOWN = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNAVAILABLE,
}
ALL_METHODS = {method.name for method in pb.DESCRIPTOR.services_by_name["MachineRuntime"].methods}


class EveryNetwork(dict[str, FakeNetwork]):
    """Whatever network is asked for is there and runs, and takes whatever address it is asked for."""

    def get(self, name: str, default: object = None) -> FakeNetwork:
        return self.setdefault(name, FakeNetwork(own=[]))


class Connections:
    """A volume driver for the connections that the generator makes; their backend is a file of the machine."""

    name = "test"

    def supports(self, volume: pb.Volume) -> bool:
        return volume.HasField("connection") and volume.connection.driver == self.name

    def validate(self, volume: pb.Volume) -> None:
        pass

    def handle(self, machine_id: str, volume: pb.Volume) -> str:
        return f"test/{machine_id}/{volume.name}"  # the generator gives the same handle to many

    def prepare(self, machine_id: str, volume: pb.Volume, paths: MachinePaths) -> DiskSource:
        path = self._path(volume, paths)
        path.touch()
        return DiskSource(handle=self.handle(machine_id, volume), path=str(path), format="raw", size=512)

    def release(self, machine_id: str, volume: pb.Volume, paths: MachinePaths, *, final: bool) -> None:
        self._path(volume, paths).unlink(missing_ok=True)

    def _path(self, volume: pb.Volume, paths: MachinePaths) -> Path:
        return paths.root / f"test-{volume.name.encode().hex()[:40]}.raw"


def make_plain(path: Path, size: int, base: BackingFile | None = None) -> Path:
    """`qcow2.make_unfinished` without qemu-img, which takes 20 ms."""
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps([size, base.path if base else "", base.format if base else "", False]))
    return unfinished


def inspect_plain(path: Path) -> qcow2.Info:
    """`qcow2.inspect` of what `make_plain` made."""
    return qcow2.Info(*json.loads(path.read_text()))


@pytest.fixture
async def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Loop]:
    monkeypatch.setattr(qcow2, "make_unfinished", make_plain)
    monkeypatch.setattr(qcow2, "inspect", inspect_plain)
    monkeypatch.setattr(VolumeRegistry, "load", lambda **_: VolumeRegistry([EmptyDisks(), Connections()]))
    images = tmp_path / "images"
    images.mkdir()
    (images / "tiny.raw").write_bytes(bytes(512))
    (images / "tiny.raw").chmod(0o444)
    classes = tmp_path / "classes.yaml"
    classes.write_text("classes:\n  - {name: small, cpu: '1', memory: 1Gi}\n")
    hypervisor = FakeHypervisor()
    hypervisor.networks = EveryNetwork()
    async with serving_loop(tmp_path, hypervisor, machine_classes=classes) as loop:
        yield loop


async def send(loop: Loop, generator: Generator) -> tuple[str, grpc.StatusCode, str]:
    """Send the next request."""
    method, request = generator.request()
    call = loop.channel.unary_unary(f"/machine.v1alpha1.MachineRuntime/{method}", None, None)
    try:
        reply = await call(request)
    except grpc.aio.AioRpcError as error:
        return method, error.code(), error.details() or ""
    if method == "CreateMachine":
        generator.learn(pb.CreateMachineResponse.FromString(reply).machine.metadata.id)
    return method, grpc.StatusCode.OK, ""


def unsettled(loop: Loop) -> list[str]:
    """Machines that are not what they should be."""
    waiting = []
    for frame in loop.store.frames():
        machine = pb.Machine.FromString(frame)
        wanted = pb.MACHINE_RUNNING if machine.spec.power == pb.POWER_ON else pb.MACHINE_SUSPENDED
        looked_at = machine.status.observed_generation == machine.metadata.generation
        if machine.metadata.deleted_at or not looked_at or machine.status.state != wanted:
            waiting.append(machine.metadata.id)
    return waiting


def without_domain(loop: Loop) -> set[str]:
    """Machines that are not defined yet: of one that is off nothing else tells that there is more to do."""
    return set(loop.store.machine_ids()) - set(loop.hypervisor.connect().domain_ids())


def check_devices(loop: Loop, machine: pb.Machine) -> None:
    """The rows of a machine are those of its spec, and no two devices are at one place."""
    stored = loop.stored(machine.metadata.id)
    wanted = {(row.kind, row.name) for row in stored.attachments if row.wanted and row.kind in ("volume", "nic")}
    listed = {("volume", each.name) for each in machine.spec.volumes}
    assert wanted == listed | {("nic", each.name) for each in machine.spec.network_interfaces}
    targets = [row.target for row in stored.attachments if row.wanted and row.target]
    assert len(targets) == len(set(targets))
    ports = [row.port for row in stored.attachments if row.port]
    assert len(ports) == len(set(ports))
    assert [each.name for each in machine.status.volumes] == [each.name for each in machine.spec.volumes]


@pytest.mark.timeout(300)
async def test_no_request_meets_a_bug_and_all_that_is_accepted_comes_true(loop: Loop, tmp_path: Path) -> None:
    generator = Generator(20240109, str(tmp_path / "images" / "tiny.raw"))
    answers: Counter[tuple[str, grpc.StatusCode]] = Counter()

    async def client(requests: int) -> None:
        for _ in range(requests):
            method, code, words = await send(loop, generator)
            answers[method, code] += 1
            assert code in KNOWN, (method, code, words)
            assert code is grpc.StatusCode.OK or words, (method, code)

    with capture_logs() as logs:
        await asyncio.gather(*(client(REQUESTS // CLIENTS) for _ in range(CLIENTS)))
        await until("rest", lambda: not unsettled(loop) and without_domain(loop) == set(), loop.explain)
    assert sum(answers.values()) == REQUESTS
    accepted = Counter({method: count for (method, code), count in answers.items() if code is grpc.StatusCode.OK})
    assert accepted.total() > REQUESTS / 3
    assert set(accepted) == ALL_METHODS
    assert {code for _, code in answers} == KNOWN
    done = Counter(line["action"] for line in logs if line["event"] == "action done")
    assert {"Start", "PressButton", "Undefine", "Forget"} <= set(done)
    assert done["Forget"] > 100
    assert not [line for line in logs if line["log_level"] in ("error", "critical")]
    assert not [line for line in logs if line["event"] in ("no fixed point", "action failed", "pass failed")]

    machines = await loop.machines()
    assert len(machines) > 10
    for machine in machines:
        check_devices(loop, machine)
    domains = set(loop.hypervisor.connect().domain_ids())
    assert domains == {machine.metadata.id for machine in machines}
    for machine in machines:
        await loop.delete(machine.metadata.id)
    await until("end of all", lambda: not loop.store.machine_ids(), loop.explain)
    assert loop.left_over() == ([], [])


async def test_a_bug_in_a_handler_is_internal_and_logged(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await provider.create()

    def broken(*_: object) -> bool:
        raise KeyError("a secret of the program")

    monkeypatch.setattr(intents, "delete", broken)
    with capture_logs() as logs:
        async with refused(grpc.StatusCode.INTERNAL, "internal error, see the log"):
            await provider.stub.DeleteMachine(pb.DeleteMachineRequest(machine_id=made.metadata.id))
    (line,) = [line for line in logs if line["log_level"] == "error"]
    assert isinstance(line["exc_info"], KeyError)
    assert line["exc_info"].__traceback__ is not None
    assert line["method"] == "DeleteMachine"
    assert await provider.machines() == [made]
