"""A provider that works for one machine in a process of its own, with a failpoint armed, and what outlives it.

One lane is driven step by step with a clock that jumps, so nothing is waited for. The process comes from a fork server,
so that a SIGKILL is a real one and costs no start of Python. What must be true afterwards does not belong here.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sri_libvirt import app, failpoints, names
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.domain.observed import glance, read
from sri_libvirt.errors import NotFound, SRIError, StoreError, Unavailable
from sri_libvirt.hypervisor.base import DiskError, DomainEvent, EventKind, Secret, SecretUsage
from sri_libvirt.hypervisor.fake import FakeConnection, FakeHypervisor
from sri_libvirt.hypervisor.fake_networks import FakeNetwork
from sri_libvirt.images.cache import Cache
from sri_libvirt.images.collecting import Collector
from sri_libvirt.images.fetch import pull
from sri_libvirt.images.fetch.job import Pull, Pulled, Resolve, Resolved
from sri_libvirt.images.fetching import Need, Progress
from sri_libvirt.jobs import Jobs
from sri_libvirt.paths import StatePaths
from sri_libvirt.process import ProcessError
from sri_libvirt.records import GIB, LABEL_NAME, LABEL_NAMESPACE, LABEL_UID, SECOND, MachineClass
from sri_libvirt.server import intents
from sri_libvirt.store import Store
from tests import third_party
from tests.backends import luks
from tests.backends.daemon import wait_until
from tests.contract.loop import MIB, VAST, FakeHost, disk, let_looks_find, locked, settings, spec_of

ID = "6b3ffb4e-8d3c-4f52-9d0a-0d2f3c1f0a01"
LABELS = {LABEL_UID: "uid-1", LABEL_NAMESPACE: "default", LABEL_NAME: "m"}
KEY = b"open, sesame"
IDLE = ((0, 0), (0, 0))
NEVER = 2 * 3600 * SECOND

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__])


class Nearby:
    """What a fetcher does, without a process for each: their starts would be most of what a test takes.

    It begins once the pass of the lane has ended that wants it, so that a flow always passes the same points.
    """

    passed = threading.Event()

    def __init__(self, _cancel: object = None) -> None:
        pass

    def resolve(self, job: Resolve) -> Resolved:
        self.passed.wait()
        with failpoints.around("fetch.resolve", ProcessError):
            return pull.resolve(job)

    def pull(self, job: Pull, progress: Progress, need: Need) -> Pulled:
        self.passed.wait()
        with failpoints.around("fetch.pull", ProcessError):
            return pull.pull(job, progress, need)


@dataclass(frozen=True)
class OnDevice:
    """A wish that needs storage of others; it is told where that is."""

    wish: Callable[[Store, int, Path], object]


Wish = Callable[[Store, int], object] | OnDevice


class Starts:
    """Counts the starts of guests in a file, whoever dies."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_connected(self) -> None:
        pass

    def on_disconnected(self, reason: str) -> None:
        pass

    def on_network(self, name: str) -> None:
        pass

    def on_event(self, event: DomainEvent) -> None:
        if event.kind is EventKind.STARTED:
            with self._path.open("a") as file:
                file.write(f"{event.machine_id}\n")

    def count(self) -> int:
        return len(self._path.read_text().splitlines()) if self._path.exists() else 0


class Patient(FakeHypervisor):
    """Lets slow work begin when the lane's pass has ended: so points are passed in one order."""

    def connect(self) -> FakeConnection:
        if threading.current_thread().name == "job":
            Nearby.passed.wait()
        return super().connect()


class World:
    """What outlives a provider, below one directory, and the time."""

    def __init__(self, root: Path, grace: int = 30 * SECOND, now: int = 1_700_000_000 * SECOND, found: int = 0) -> None:
        root.mkdir(exist_ok=True)
        self.root = root
        self.now = now
        self.grace = grace
        self.found = found
        self.paths = StatePaths(root / "state")
        self.starts = Starts(root / "starts")

    def hypervisor(self) -> FakeHypervisor:
        return Patient(self.root / "fake.json")

    @contextmanager
    def provider(self) -> Iterator[tuple[Store, Callable[[], None]]]:
        """A provider of this world: its store, and a step that lets the machine come to rest."""
        store = Store.open(self.paths, lambda: self.now)
        hypervisor = self.hypervisor()
        wishes = settings(
            self.root,
            shutdown_grace=self.grace,
            file_dir=(device_of(self.root).parent,),
            insecure_registry=tuple(registry_of(self.root).partition("/")[:1]),
        )
        with third_party.installed(self.root / "site"), patch.object(app, "Fetcher", Nearby):
            made = app.Provider(wishes, store, hypervisor=hypervisor, host=FakeHost(), hardware=lambda _: VAST)
        let_looks_find(made, self.found)
        made._cache.tidy()  # as each start does
        ends = [hypervisor.watch(made.events), hypervisor.watch(self.starts)]
        try:
            yield store, lambda: self._rest(made)
        finally:
            for end in ends:
                end()
            store.close()

    def _rest(self, made: app.Provider) -> None:
        """What a lane and the survey do, what fails included, until there is no more to do."""
        survey(made)  # libvirt is reached
        self._lane(made)
        survey(made)  # it was poked if a secret was left

    def _lane(self, made: app.Provider) -> None:
        end = self.now + NEVER
        begun = jobs_of(made)
        while True:
            begun.clear()
            Nearby.passed.clear()
            try:
                wake_at = made.lanes[0].reconcile(ID)
            except SRIError:
                wake_at = self.now + 5 * SECOND
            Nearby.passed.set()
            if begun:
                wait_until(lambda: (made._jobs.counts(), made._pulls.counts()) == IDLE, "the end of slow work")
                continue  # which has woken the machine
            if wake_at is None:
                return
            self.now = max(self.now, wake_at)
            assert self.now < end, "it never comes to rest"


def jobs_of(made: app.Provider) -> list[object]:
    """The slow work that a provider begins from now on, as it comes."""
    begun: list[object] = []

    def note(jobs: Jobs) -> None:
        begin = jobs.begin

        def noted(key: Hashable, *args: Any, **options: Any) -> None:
            begun.append(key)
            begin(key, *args, **options)

        jobs.begin = noted  # type: ignore[method-assign]

    note(made._jobs)
    note(made._pulls)
    return begun


def device_of(root: Path) -> Path:
    """Storage of others that a volume of this world is on."""
    return root / "storage" / "device.raw"


def registry_of(root: Path, kind: str = "kernel") -> str:
    """The reference of an image in a registry that serves while a test runs; "" where there is none. It is a disk with
    a "kernel" and an initramfs, or "layers" with a disk."""
    file = root.parent / "image"
    return f"{file.read_text()}:{kind}" if file.exists() else ""


def survey(made: app.Provider) -> None:
    with suppress(SRIError):
        made.clean_up()


def create(store: Store, now: int, power: pb.Power = pb.POWER_ON) -> None:
    draft = intents.Draft(ID, LABELS, {}, spec_of(disks=("data",), nics=("isolated",), power=power), now, now)
    store.write(lambda tx: intents.create(tx, draft, lambda: MachineClass("c1-m1", 1000, GIB)))


def create_locked(store: Store, now: int) -> None:
    draft = intents.Draft(ID, LABELS, {}, with_locked(spec_of()), now, now)
    store.write(lambda tx: intents.create(tx, draft, lambda: MachineClass("c1-m1", 1000, GIB)))


def with_locked(spec: pb.MachineSpec) -> pb.MachineSpec:
    spec.volumes.append(locked("data"))
    return spec


def connected(name: str, device: Path) -> pb.Volume:
    """An encrypted volume of a driver of our own, which asks for it as slow work."""
    attributes = {"path": str(device), "format": "raw"}
    connection = pb.VolumeConnection(
        driver="file", handle="1", attributes=attributes, encryption_data={"encryptionKey": KEY}
    )
    return pb.Volume(name=name, connection=connection)


@OnDevice
def create_connected(store: Store, now: int, device: Path) -> None:
    spec = spec_of()
    spec.volumes.append(connected("data", device))
    draft = intents.Draft(ID, LABELS, {}, spec, now, now)
    store.write(lambda tx: intents.create(tx, draft, lambda: MachineClass("c1-m1", 1000, GIB)))


@OnDevice
def attach_connected(store: Store, now: int, device: Path) -> None:
    store.write(lambda tx: intents.attach_volume(tx, ID, connected("late", device), now))


def create_addressed(store: Store, now: int) -> None:
    spec = spec_of(disks=("data",))
    spec.network_interfaces.append(addressed("first", "10.0.0.7"))
    draft = intents.Draft(ID, LABELS, {}, spec, now, now)
    store.write(lambda tx: intents.create(tx, draft, lambda: MachineClass("c1-m1", 1000, GIB)))


def addressed(name: str, address: str) -> pb.NetworkInterface:
    return pb.NetworkInterface(name=name, network_id="lan", ips=["2001:db8::7", address])


def attach_addressed(store: Store, now: int) -> None:
    store.write(lambda tx: intents.attach_nic(tx, ID, addressed("late", "10.0.0.8"), now))


def detach_addressed(store: Store, now: int) -> None:
    store.write(lambda tx: intents.detach_nic(tx, ID, "late", now))


def creates(kind: str) -> OnDevice:
    """A machine with an image of a registry."""

    def create_with(store: Store, now: int, device: Path) -> None:
        spec = spec_of(disks=("data",))
        spec.image.image = registry_of(device.parents[1], kind)
        draft = intents.Draft(ID, LABELS, {}, spec, now, now)
        store.write(lambda tx: intents.create(tx, draft, lambda: MachineClass("c1-m1", 1000, GIB)))

    return OnDevice(create_with)


create_fetched = creates("kernel")


@OnDevice
def collect(store: Store, now: int, device: Path) -> None:
    """As `images prune --all` does."""
    paths = StatePaths(device.parents[1] / "state")
    cache = Cache(paths.image_cache, paths.machines, store)
    Collector(cache, 0, 0, lambda: now, lambda: 0).prune(everything=True)


def create_off(store: Store, now: int) -> None:
    create(store, now, pb.POWER_OFF)


def off(store: Store, now: int) -> None:
    store.write(lambda tx: intents.set_power(tx, ID, pb.POWER_OFF, now))


def on(store: Store, now: int) -> None:
    store.write(lambda tx: intents.set_power(tx, ID, pb.POWER_ON, now))


def attach(store: Store, now: int) -> None:
    store.write(lambda tx: intents.attach_volume(tx, ID, disk("late"), now))


def attach_locked(store: Store, now: int) -> None:
    store.write(lambda tx: intents.attach_volume(tx, ID, locked("late"), now))


def detach(store: Store, now: int) -> None:
    store.write(lambda tx: intents.detach_volume(tx, ID, "late", now))


def delete(store: Store, now: int) -> None:
    store.write(lambda tx: intents.delete(tx, ID, now))


def nothing(store: Store, now: int) -> None:
    pass


def io_error(hypervisor: FakeHypervisor) -> None:
    hypervisor.pause(ID, "io error")


def no_space(hypervisor: FakeHypervisor) -> None:
    hypervisor.fail_disk(ID, "vda", DiskError.NO_SPACE, resumes=2)


def save(hypervisor: FakeHypervisor) -> None:
    hypervisor.save(ID)


def fall_asleep(hypervisor: FakeHypervisor) -> None:
    hypervisor.sleep(ID)


def panic(hypervisor: FakeHypervisor) -> None:
    hypervisor.panic(ID, kept=True)


def halt_under_a_hung_qemu(hypervisor: FakeHypervisor) -> None:
    hypervisor.hang_at_end(ID)
    hypervisor.guest_powers_off(ID)


def moved(hypervisor: FakeHypervisor, machine_id: str = ID, to: str = "/backup/snap") -> None:
    domain = hypervisor.connect().snapshot(machine_id)
    assert domain is not None
    (disk,) = (device.source for device in read(domain.live_xml).devices.values() if device.kind == "disk")
    hypervisor.move_disk(machine_id, disk, to)


def leave_secret(hypervisor: FakeHypervisor) -> None:
    """What a provider leaves that is killed between a secret and the call that needs it."""
    connection = hypervisor.connect()
    domain = connection.snapshot(ID)
    assert domain is not None
    uuid = names.secret_uuid(ID, "data", "encryption")
    connection.set_secret(Secret(uuid, SecretUsage.VOLUME, glance(domain.live_xml).instance), b"open sesame")


def stranger(hypervisor: FakeHypervisor, machine_id: str = ID) -> None:
    """The guest gets a device of ours that the store has lost, as by a restored backup."""
    alias = names.alias("volume", "lost", 1)
    hypervisor.connect().attach_device(
        machine_id,
        f"<disk type='file' device='disk'><source file='/lost'/><target dev='vdq'/><alias name='{alias}'/></disk>",
    )


@dataclass(frozen=True)
class Flow:
    """What is asked, what was asked before, and what must be true in the end."""

    name: str
    before: tuple[Wish, ...]
    wish: Wish
    state: str
    starts: int = 0
    disks: int = 1
    files: int = 1
    grace: int = 30 * SECOND
    happens: Callable[[FakeHypervisor], None] | None = None
    reason: str = ""
    network: str | None = None
    """How the libvirt network `lan` forwards, if there is one."""
    held: tuple[str, ...] = ()
    """The addresses that it keeps for NICs in the end."""
    found: int = 0
    """What looks at the backends of plugged volumes find, in bytes."""


FLOWS = {
    flow.name: flow
    for flow in (
        Flow("create", (), create, "RUNNING", starts=1),
        Flow("create-off", (), create_off, "SUSPENDED"),
        Flow("attach", (create,), attach, "RUNNING", disks=2, files=2),
        Flow("attach-off", (create, off), attach, "SUSPENDED", disks=2, files=2),
        Flow("detach", (create, attach), detach, "RUNNING", files=2),  # the data stays until the machine goes
        Flow("power-off", (create,), off, "SUSPENDED"),
        Flow("power-off-at-once", (create,), off, "SUSPENDED", grace=0),
        Flow("power-on", (create, off), on, "RUNNING", starts=1),
        Flow("io-error", (create,), nothing, "RUNNING", happens=io_error),
        Flow("no-space", (create,), nothing, "RUNNING", happens=no_space),
        Flow("grown", (create,), nothing, "RUNNING", found=GIB),
        Flow("asleep", (create,), nothing, "RUNNING", starts=1, happens=fall_asleep),  # libvirt calls it a start
        Flow("panicked", (create,), nothing, "RUNNING", starts=1, happens=panic),
        Flow("halted", (create,), nothing, "SUSPENDED", happens=halt_under_a_hung_qemu, reason="guest-powered-off"),
        Flow("saved", (create,), nothing, "RUNNING", starts=1, happens=save),
        Flow("moved", (create,), off, "SUSPENDED", happens=moved, reason="foreign-disk-source"),
        Flow("stranger", (create,), nothing, "RUNNING", happens=stranger),
        Flow("locked", (create_locked, off), on, "RUNNING", starts=1, files=0),
        Flow("locked-attach", (create,), attach_locked, "RUNNING", disks=2),
        Flow("locked-saved", (create_locked,), nothing, "RUNNING", starts=1, files=0, happens=save),
        Flow("locked-left", (create_locked,), nothing, "RUNNING", files=0, happens=leave_secret),
        Flow("connected", (create_connected, off), on, "RUNNING", starts=1, files=0),
        Flow("connected-attach", (create,), attach_connected, "RUNNING", disks=2),
        Flow("connected-detach", (create, attach_connected), detach, "RUNNING"),
        Flow("connected-delete", (create_connected,), delete, "GONE"),
        Flow("addressed", (), create_addressed, "RUNNING", starts=1, network="nat", held=("10.0.0.7",)),
        Flow("addressed-attach", (create,), attach_addressed, "RUNNING", network="open", held=("10.0.0.8",)),
        Flow("addressed-detach", (create, attach_addressed), detach_addressed, "RUNNING", network="nat"),
        Flow("addressed-delete", (create_addressed,), delete, "GONE", network="nat"),
        Flow("fetched", (), create_fetched, "RUNNING", starts=1, files=4),
        Flow("fetched-delete", (create_fetched,), delete, "GONE"),
        Flow("fetched-layers", (), creates("layers"), "RUNNING", starts=1, files=2),
        Flow("fetched-collected", (create_fetched, delete), collect, "GONE"),
        Flow("fetched-needed", (create_fetched, off), collect, "SUSPENDED", files=4),
        Flow("delete", (create,), delete, "GONE"),
        Flow("delete-off", (create, off), delete, "GONE"),
    )
}


def prepare(root: Path, flow: Flow) -> int:
    """Bring a world to where the flow begins; the time then."""
    if any(isinstance(wish, OnDevice) for wish in (*flow.before, flow.wish)):
        device_of(root).parent.mkdir(parents=True)
        luks.make(device_of(root), MIB, KEY, 1)
    world = World(root, flow.grace)
    if flow.network is not None:
        world.hypervisor().add_network("lan", FakeNetwork(forward=flow.network))
    with world.provider() as (store, rest):
        for wish in flow.before:
            _do(wish, store, world.now, root)
            rest()
            world.now += 100 * SECOND
    if flow.happens:
        flow.happens(world.hypervisor())
    return world.now


def _do(wish: Wish, store: Store, now: int, root: Path) -> None:
    if isinstance(wish, OnDevice):
        wish.wish(store, now, device_of(root))
    else:
        wish(store, now)


def ask(flow: Flow, store: Store, now: int, root: Path) -> None:
    """Ask as the poollet does: what failed once is asked again."""
    for _ in range(2):
        try:
            _do(flow.wish, store, now, root)
        except (StoreError, Unavailable):
            continue
        except NotFound:
            pass  # done before the provider died
        return


def finish(root: Path, flow: Flow, now: int, armed: str = "") -> failpoints.Trap | None:
    """Ask for it and work until nothing is left to do; the trap that was armed."""
    world = World(root, flow.grace, now, flow.found)
    with world.provider() as (store, rest):
        trap = failpoints.armed_by(armed) if armed else None
        failpoints.arm(trap)
        try:
            ask(flow, store, world.now, root)
            rest()
        finally:
            failpoints.arm(None)
    return trap


def finish_elsewhere(root: Path, flow: Flow, now: int, armed: str) -> int | None:
    """`finish` in a process of its own; its exit code, which is -SIGKILL where it was killed."""
    process = _FORKS.Process(target=_quiet, args=(root, flow.name, now, armed))
    process.start()
    process.join(60)
    return process.exitcode


def _quiet(root: Path, name: str, now: int, armed: str) -> None:
    with suppress(OSError):
        sink = os.open(root.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(sink, sys.stdout.fileno())
        os.dup2(sink, sys.stderr.fileno())
    finish(root, FLOWS[name], now, armed)


def restore(snapshot: Path, root: Path) -> None:
    """Make a world what it was, but for its reserve; its paths are absolute, so it has to be the same place."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(snapshot, root, symlinks=True, ignore=shutil.ignore_patterns(StatePaths(root).reserve.name))
