"""A whole provider on the fake hypervisor, in this process: its socket, its lanes, and a client beside them.

`serving_loop` gives a `Loop`; stopping and opening it again on the same directory is a restart of the provider. What
machines must do does not belong here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sri_libvirt import app, config, statedir
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.api.machine.v1alpha1.api_pb2_grpc import MachineRuntimeStub
from sri_libvirt.capacity.budget import Hardware, Resources
from sri_libvirt.clock import HostClocks
from sri_libvirt.config import Settings
from sri_libvirt.domain.observed import ObservedDomain, read
from sri_libvirt.hypervisor.base import DomainEvent, EventKind
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.paths import StatePaths
from sri_libvirt.reconcile.plugins import PluginTables
from sri_libvirt.records import LABEL_NAME, LABEL_NAMESPACE, LABEL_UID, Machine, set_class_name
from sri_libvirt.store import Store
from sri_libvirt.volumes.base import VolumeDriver

PATIENCE = 30.0
"""Seconds that something may take on a busy machine."""

POLL = 0.01
VAST = Hardware(Resources(cpus=100_000, memory_bytes=1 << 50), disk_bytes=1 << 60)
"""A host that no test fills."""

MIB = 1 << 20


@dataclass
class FakeHost:
    """See `reconcile.observe.HostSigns`."""

    boot: str = "boot-1"
    going_down: bool | None = False

    def boot_id(self) -> str:
        return self.boot

    def stopping(self) -> bool | None:
        return self.going_down


@dataclass
class Witness:
    """Sees all events of the hypervisor, whoever else listens."""

    events: list[DomainEvent] = field(default_factory=list)

    def on_connected(self) -> None:
        pass

    def on_disconnected(self, reason: str) -> None:
        pass

    def on_network(self, name: str) -> None:
        pass

    def on_event(self, event: DomainEvent) -> None:
        self.events.append(event)

    def starts(self, machine_id: str) -> int:
        """How often a guest was started."""
        return sum(event.kind is EventKind.STARTED and event.machine_id == machine_id for event in self.events)


def settings(root: Path, **changes: object) -> Settings:
    """Settings of a provider below `root`, without a look at this host's own."""
    flags = {
        "address": f"unix://{root}/sri.sock",
        "state_dir": root / "state",
        "image_dir": (root / "images",),
        "domain_type": "qemu",
        "firmware": "bios",
        "streaming_address": "127.0.0.1:0",
        "shutdown_grace": config.duration("1s"),
        **changes,
    }
    return config.load(flags, environ={}, default_file=root / "none.toml")


@dataclass
class Loop:
    """A provider that works, its client, and everything that it works on."""

    provider: app.Provider
    hypervisor: FakeHypervisor
    host: FakeHost
    paths: StatePaths
    channel: grpc.aio.Channel
    stub: Any

    @property
    def store(self) -> Store:
        return self.provider.store

    async def machines(self) -> list[pb.Machine]:
        return list((await self.stub.ListMachines(pb.ListMachinesRequest())).machines)

    async def find(self, machine_id: str) -> pb.Machine | None:
        request = pb.ListMachinesRequest(filter=pb.MachineFilter(id=machine_id))
        found = (await self.stub.ListMachines(request)).machines
        return found[0] if found else None

    async def machine(self, machine_id: str) -> pb.Machine:
        found = await self.find(machine_id)
        assert found is not None
        return found

    async def create(self, spec: pb.MachineSpec | None = None, uid: str = "") -> str:
        machine = pb.Machine(spec=spec or spec_of())
        if uid:
            machine.metadata.labels.update({LABEL_UID: uid, LABEL_NAMESPACE: "default", LABEL_NAME: uid})
        reply = await self.stub.CreateMachine(pb.CreateMachineRequest(machine=machine))
        return str(reply.machine.metadata.id)

    async def created(self, spec: pb.MachineSpec | None = None) -> str:
        """A machine that runs."""
        machine_id = await self.create(spec)
        await self.state(machine_id, "RUNNING")
        return machine_id

    async def power(self, machine_id: str, power: pb.Power) -> None:
        await self.stub.UpdateMachinePower(pb.UpdateMachinePowerRequest(machine_id=machine_id, power=power))

    async def off(self, machine_id: str) -> None:
        """Power it off and wait for that."""
        await self.power(machine_id, pb.POWER_OFF)
        await self.state(machine_id, "SUSPENDED")

    async def on(self, machine_id: str) -> None:
        """Power it on and wait for that."""
        await self.power(machine_id, pb.POWER_ON)
        await self.state(machine_id, "RUNNING")

    async def delete(self, machine_id: str) -> None:
        await self.stub.DeleteMachine(pb.DeleteMachineRequest(machine_id=machine_id))

    async def gone(self, machine_id: str) -> None:
        """Wait until it is listed no more."""
        await self._until(machine_id, f"{machine_id} gone", lambda machine: machine is None)

    async def state(self, machine_id: str, state: str) -> None:
        """Wait until it is in a state, as of its latest generation."""
        number = pb.MachineState.Value(f"MACHINE_{state}")

        def reached(machine: pb.Machine | None) -> bool:
            if machine is None or machine.status.state != number:
                return False
            return bool(machine.status.observed_generation == machine.metadata.generation)

        await self._until(machine_id, f"state {state}", reached)

    async def observed(self, machine_id: str) -> pb.Machine:
        """Wait until its latest generation was looked at, and return it."""

        def looked(machine: pb.Machine | None) -> bool:
            return machine is not None and machine.status.observed_generation == machine.metadata.generation

        await self._until(machine_id, "its latest generation looked at", looked)
        return await self.machine(machine_id)

    async def reason(self, machine_id: str, code: str) -> str:
        """Wait until a reason is given for it; its message."""
        await until(f"reason {code} of {machine_id}", lambda: code in self.codes(machine_id), self.explain)
        return next(reason.message for reason in self.stored(machine_id).reasons if reason.code == code)

    def codes(self, machine_id: str) -> list[str]:
        machine = self.store.machine(machine_id)
        return [reason.code for reason in machine.reasons] if machine else []

    def stored(self, machine_id: str) -> Machine:
        found = self.store.machine(machine_id)
        assert found is not None
        return found

    def told(self, machine_id: str) -> list[tuple[str, str]]:
        """Kind and reason of its events."""
        events = self.store.events(machine_id)
        return [(event.kind, event.reason) for event in events for _ in range(event.count)]

    def persistent(self, machine_id: str) -> ObservedDomain:
        """What its persistent XML says."""
        snapshot = self.hypervisor.connect().snapshot(machine_id)
        assert snapshot is not None
        return read(snapshot.persistent_xml)

    def live(self, machine_id: str) -> ObservedDomain:
        """What its live XML says; of a guest that is off, nothing."""
        snapshot = self.hypervisor.connect().snapshot(machine_id)
        assert snapshot is not None
        return read(snapshot.live_xml or "<domain/>")

    def left_over(self) -> tuple[list[str], list[str]]:
        """Directories of machines and domains."""
        return sorted(path.name for path in self.paths.machines.iterdir()), self.hypervisor.connect().domain_ids()

    async def health(self, service: str) -> str:
        stub = health_pb2_grpc.HealthStub(self.channel)
        reply = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))

    def explain(self) -> str:
        """All that is known of every machine, for a test that waits in vain."""
        lines = []
        for machine_id in self.store.machine_ids():
            machine = self.store.machine(machine_id)
            if machine is not None:
                lines.append(f"{machine_id}: {machine.status} {machine.reasons} {machine.run}")
                lines += [f"  {event.kind} {event.reason}: {event.message}" for event in self.store.events(machine_id)]
        return "\n".join(lines)

    async def _until(self, machine_id: str, what: str, condition: Callable[[pb.Machine | None], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition(await self.find(machine_id)):
            assert time.monotonic() < end, f"no {what} within {PATIENCE:g} s\n{self.explain()}"
            await asyncio.sleep(POLL)


async def until(what: str, condition: Callable[[], object], explain: Callable[[], str] = str) -> None:
    """Wait on a condition."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"no {what} within {PATIENCE:g} s\n{explain()}"
        await asyncio.sleep(POLL)


def let_looks_find(provider: app.Provider, size: int) -> None:
    """Let empty disks be volumes whose backends have been looked at, and which have so many bytes by now."""
    (driver,) = (each for each in drivers(provider) if each.name == "empty_disk")
    driver.size_of = lambda _machine_id, _volume: size  # type: ignore[attr-defined]


def drivers(provider: app.Provider) -> Sequence[VolumeDriver]:
    """The volume drivers of a provider."""
    plugins = provider.lanes[0]._loop.performer.plugins
    assert isinstance(plugins, PluginTables)
    return plugins._volumes.drivers


@asynccontextmanager
async def serving_loop(
    root: Path,
    hypervisor: FakeHypervisor,
    host: FakeHost | None = None,
    clock: Callable[[], int] | HostClocks = time.time_ns,
    hardware: Hardware = VAST,
    **changes: Any,
) -> AsyncIterator[Loop]:
    """A provider on a state directory, stopped in order at the end; its guests stay."""
    wishes = settings(root, **changes)
    paths = StatePaths(wishes.state_dir)
    statedir.prepare(paths)
    host = host or FakeHost()
    with statedir.lock(paths):
        store = Store.open(paths, host=clock) if isinstance(clock, HostClocks) else Store.open(paths, clock)
        provider = app.Provider(wishes, store, hypervisor=hypervisor, host=host, hardware=lambda _: hardware)
        try:
            await provider.start()
            async with grpc.aio.insecure_channel(provider.listener.address) as channel:
                stub = MachineRuntimeStub(channel)
                yield Loop(provider, hypervisor, host, paths, channel, stub)
        finally:
            await provider.stop()
            await asyncio.to_thread(store.close)


def spec_of(
    *, power: pb.Power = pb.POWER_ON, disks: tuple[str, ...] = (), nics: tuple[str, ...] = ()
) -> pb.MachineSpec:
    """A small machine: disks by name, network interfaces by network_id."""
    spec = pb.MachineSpec(power=power)
    set_class_name(spec, "c1-m1")
    for name in disks:
        spec.volumes.append(disk(name))
    for network in nics:
        spec.network_interfaces.add(name=f"nic-{network}", network_id=network)
    return spec


def disk(name: str) -> pb.Volume:
    """An empty disk of 1 MiB."""
    return pb.Volume(name=name, empty_disk=pb.EmptyDisk(size_bytes=MIB))


def locked(name: str, key: bytes = b"open sesame", path: str = "/backend/locked.raw") -> pb.Volume:
    """A volume that a secret opens, of the third party's driver; the fake hypervisor does not look for the file."""
    attributes = {"path": path, "size": str(MIB)}
    connection = pb.VolumeConnection(
        driver="example-locked", handle=name, attributes=attributes, encryption_data={"key": key}
    )
    return pb.Volume(name=name, connection=connection)
