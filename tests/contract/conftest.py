"""The RPCs over a real socket: a store, the service and a listener in this process, and a client beside them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.api.machine.v1alpha1.api_pb2_grpc import MachineRuntimeStub
from sri_libvirt.capacity.budget import Hardware, Reserves, budget
from sri_libvirt.capacity.devices import DeviceClaims
from sri_libvirt.capacity.pool import Pool
from sri_libvirt.errors import InvalidSpec, Unavailable
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import GIB, LABEL_NAME, LABEL_NAMESPACE, LABEL_UID, Attachment, MachineClass
from sri_libvirt.resources import Claim
from sri_libvirt.server.listener import Listener
from sri_libvirt.server.service import MachineRuntime, handlers
from sri_libvirt.store import Store
from sri_libvirt.volumes.empty_disk import EmptyDisks
from tests.contract.loop import VAST

CLASSES = {
    "small": MachineClass("small", 1000, 1 * GIB),
    "large": MachineClass("large", 4000, 8 * GIB),
}


class Drivers:
    """The drivers that a provider might have: what they refuse is told with a path relative to the field."""

    def check_volume(self, volume: pb.Volume) -> None:
        if volume.HasField("connection") and volume.connection.driver not in ("ceph", "test"):
            raise InvalidSpec("connection.driver", "there is no such driver; supported: ceph, test")

    def check_nic(self, nic: pb.NetworkInterface) -> None:
        if "://" in nic.network_id and not nic.network_id.startswith("network://"):
            raise InvalidSpec("network_id", "no driver takes it; supported: network://NAME, isolated")

    def check_image(self, image: str) -> None:
        if not image.startswith(("/", "file://")):
            raise InvalidSpec("", "no driver takes it; supported: an absolute path, file://PATH")

    def mac_asked(self, nic: pb.NetworkInterface) -> str:
        return ""


@dataclass
class Provider:
    """A served store, its client, and what was told to the rest of the provider."""

    paths: StatePaths
    store: Store
    listener: Listener
    channel: grpc.aio.Channel
    stub: Any
    woken: list[str] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)
    gate: Callable[[], None] = lambda: None

    async def machines(self, machine_id: str = "", labels: dict[str, str] | None = None) -> list[pb.Machine]:
        request = pb.ListMachinesRequest()
        if machine_id or labels is not None:
            request.filter.CopyFrom(pb.MachineFilter(id=machine_id, label_selector=labels or {}))
        return list((await self.stub.ListMachines(request)).machines)

    async def machine(self, machine_id: str) -> pb.Machine:
        (found,) = await self.machines(machine_id)
        return found

    async def create(self, machine: pb.Machine | None = None) -> pb.Machine:
        reply: pb.CreateMachineResponse = await self.stub.CreateMachine(
            pb.CreateMachineRequest(machine=machine or small())
        )
        return reply.machine

    async def raw(self, method: str, request: bytes) -> bytes:
        """Call a method with bytes that may be no message."""
        call = self.channel.unary_unary(f"/machine.v1alpha1.MachineRuntime/{method}", None, None)
        reply: bytes = await call(request)
        return reply

    def finish(self, machine_id: str) -> None:
        """What the loop does at the end of a deletion."""
        self.store.write(lambda tx: tx.forget(machine_id))


def small(uid: str = "", **spec: object) -> pb.Machine:
    """A machine of class `small`, with the poollet's labels if it has a uid."""
    machine = pb.Machine(spec=pb.MachineSpec(**{"class": "small", **spec}))  # type: ignore[arg-type]
    if uid:
        machine.metadata.labels.update({LABEL_UID: uid, LABEL_NAMESPACE: "default", LABEL_NAME: f"name-{uid}"})
    return machine


def claims_of(row: Attachment) -> Sequence[Claim]:
    """As the provider's drivers have it: only empty disks take something."""
    volume = row.volume() if row.kind == "volume" else pb.Volume()
    return EmptyDisks().claims(volume) if volume.HasField("empty_disk") else ()


def closed_by(provider: Provider) -> str:
    """What the gate says to a new machine."""
    try:
        provider.gate()
    except Unavailable as error:
        return str(error)
    return ""


@asynccontextmanager
async def serving(root: Path, hardware: Hardware = VAST) -> AsyncIterator[Provider]:
    """A provider on a state directory; stopped in the order of the real one."""
    paths = StatePaths(root / "state")
    store = Store.open(paths, time.time_ns)
    woken: list[str] = []
    calls: list[tuple[str, str]] = []
    gates: list[Provider] = []
    pool = Pool(CLASSES, budget(hardware, Reserves()), lambda: closed_by(gates[0]))
    runtime = MachineRuntime(
        store,
        pool,
        DeviceClaims(pool, claims_of),
        Drivers(),
        lambda: gates[0].gate(),
        woken.append,
        store.clock,
    )
    service = handlers(runtime, lambda method, code, _seconds: calls.append((method, code)))
    listener = Listener(f"unix://{root}/sri.sock", service)
    await listener.start()
    async with grpc.aio.insecure_channel(listener.address) as channel:
        stub = MachineRuntimeStub(channel)  # generated
        provider = Provider(paths, store, listener, channel, stub, woken, calls)
        gates.append(provider)
        yield provider
    await listener.stop(grace=1)
    await asyncio.to_thread(store.close)


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[Provider]:
    async with serving(tmp_path) as provider:
        yield provider
