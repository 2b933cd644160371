"""The composition root: builds every object of a provider, starts them in order and stops them in the reverse order.

Order matters: the lock of the state directory before anything else, the store before the socket, the socket before
libvirt is asked for anything (the poollet gives up on a provider that does not answer). Nothing else belongs here: a
rule in this file is in the wrong place.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import platform
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from sri_libvirt import failpoints
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.capacity import classes as machine_classes
from sri_libvirt.capacity import placement
from sri_libvirt.config import Settings, failpoint
from sri_libvirt.domain.compiler import DomainCompiler
from sri_libvirt.errors import ConfigError
from sri_libvirt.host import cpu, kvm, memory
from sri_libvirt.host.boot import Host
from sri_libvirt.hypervisor.base import Hypervisor
from sri_libvirt.hypervisor.libvirt import LibvirtHypervisor
from sri_libvirt.metrics import Metrics
from sri_libvirt.paths import StatePaths
from sri_libvirt.reconcile.lane import Loop
from sri_libvirt.reconcile.observe import HostSigns, Observer
from sri_libvirt.reconcile.orphans import Census, Orphans, sweep
from sri_libvirt.reconcile.perform import Performer
from sri_libvirt.reconcile.plugins import PluginTables
from sri_libvirt.reconcile.queue import WakeQueue
from sri_libvirt.reconcile.sources import EventSource, Resync, wake_all
from sri_libvirt.reconcile.view import Policy
from sri_libvirt.reconcile.virtualisation import Virtualisation
from sri_libvirt.reconcile.watchdog import Watchdog
from sri_libvirt.records import MachineClass
from sri_libvirt.server.admin import AdminSocket
from sri_libvirt.server.listener import Listener
from sri_libvirt.server.service import MachineRuntime, handlers
from sri_libvirt.store import backup
from sri_libvirt.store.automatic import AutomaticBackups
from sri_libvirt.store.store import Store

log = structlog.get_logger(__name__)

RESYNC_SECONDS = 300.0
"""How long a lost event can go unnoticed. A full look at a thousand machines takes some seconds of a core."""

LOCK_SECONDS = 0.2
"""How long to wait for the lock: `machine why` takes it for some microseconds to see whether a provider runs."""

SWITCH_SECONDS = 0.0005
"""How long a busy thread keeps Python's lock from others: at the default of 5 ms an RPC, which changes threads twice,
takes 10 ms more while lanes compute."""

STOP_SECONDS = 10.0
"""How long running RPCs and lanes may take to end; a lane that is stuck in a call is left behind."""


@contextmanager
def lock(paths: StatePaths) -> Iterator[None]:
    """Be the only provider of this state directory. Raises ConfigError when another is."""
    fd = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not _locked(fd):
            raise ConfigError(f"another provider runs on {paths.root}: stop it, or give this one its own --state-dir")
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(LOCK_SECONDS / 20)
        else:
            return True


def prepare(paths: StatePaths) -> None:
    """Make the state directory. Raises ConfigError when it cannot be written."""
    try:
        paths.prepare()
    except OSError as error:
        raise ConfigError(
            f"--state-dir {paths.root}: {error.strerror}: it must be a directory that root can write"
        ) from None


def check_architecture(name: str) -> None:
    """Refuse a host whose guests would be of an architecture that no profile is made for. Raises ConfigError."""
    if name not in ("x86_64", "amd64"):
        raise ConfigError(f"this host is {name}; only x86_64 is supported yet")


class Provider:
    """One provider on an open store. `hypervisor` and `host` are replaced by tests."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        *,
        hypervisor: Hypervisor | None = None,
        host: HostSigns | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.store = store
        self.metrics = Metrics()
        self.queue = WakeQueue(clock)
        self._settings = settings
        self._hypervisor = hypervisor or LibvirtHypervisor(settings.libvirt_uri)
        self._stack = ExitStack()
        paths = StatePaths(settings.state_dir)
        host = host or Host()
        self._virtualisation = Virtualisation(settings, store, kvm.probe, clock)
        plugins = PluginTables(settings.image_dirs)
        classes = _classes(settings)
        runtime = MachineRuntime(
            store, classes, plugins, _capacity(classes), self._virtualisation.gate, self.queue.wake, clock
        )
        self.listener = Listener(
            settings.address,
            handlers(runtime, self.metrics.rpc),
            socket_mode=settings.socket_mode,
            socket_group=settings.socket_group,
            insecure_tcp=settings.insecure_tcp,
        )
        performer = Performer(
            store=store,
            paths=paths,
            plugins=plugins,
            compiler=DomainCompiler(store.instance, settings.template_dir, settings.schema_dir),
            choose_profile=self._virtualisation.choose_profile,
            boot_id=host.boot_id,
            clock=clock,
        )
        policy = Policy(
            handle_of=plugins.handle_of,
            start_blocked=self._virtualisation.start_blocked,
            shutdown_grace=settings.shutdown_grace,
            detach_settle=settings.detach_settle,
            detach_hold=settings.detach_hold,
            restart_after_guest_poweroff=settings.on_guest_poweroff == "restart",
        )
        observer = Observer(store.instance, host, self._virtualisation.refresh)
        loop = Loop(
            store,
            self.queue,
            self._hypervisor,
            performer,
            observer,
            policy,
            self.metrics,
            clock,
            settings.call_deadline,
        )
        self._watchdog = Watchdog(loop, settings.lanes)
        self.lanes = self._watchdog.lanes
        self.events = EventSource(store, self.queue, clock, self._reachable)
        self._resync = Resync(store, self.queue, RESYNC_SECONDS)
        orphans = Orphans(store, paths, self._hypervisor.connect)
        self._census = Census(orphans, self.metrics.orphans, RESYNC_SECONDS)
        self._backups = AutomaticBackups(paths, settings.backup_period, settings.backups, clock)
        self.admin = AdminSocket(
            paths.admin_socket, {"backup": partial(_backup, paths, clock), "sweep": partial(sweep, orphans)}
        )

    async def start(self) -> None:
        """Serve, then watch libvirt and start working. Raises ConfigError when the address cannot be had."""
        sys.setswitchinterval(SWITCH_SECONDS)
        self.metrics.follow(queue_depth=lambda: len(self.queue), machines=self._machines_by_state)
        if self._settings.metrics_address:
            self._stack.callback(self.metrics.serve(self._settings.metrics_address))
        await self.listener.start()
        await self.admin.start()
        await asyncio.to_thread(self._virtualisation.probe)
        self._watchdog.start()
        self._stack.callback(self._watchdog.stop)
        self._stack.callback(self._hypervisor.watch(self.events))
        self._resync.start()
        self._stack.callback(self._resync.stop)
        self._census.start()
        self._stack.callback(self._census.stop)
        if self._settings.backup_period:
            self._backups.start()
            self._stack.callback(self._backups.stop)
        wake_all(self.store, self.queue)

    async def stop(self) -> None:
        """Let RPCs and the machines in hand finish, within bounds. Guests are not touched. Also after half a start."""
        await self.listener.stop(STOP_SECONDS)
        await self.admin.stop(STOP_SECONDS)
        self.queue.close()
        await asyncio.to_thread(self._stop_threads)

    def _stop_threads(self) -> None:
        self._stack.close()
        end = time.monotonic() + STOP_SECONDS
        for lane in self.lanes:
            if lane.ident is None:
                continue  # the start failed before it
            lane.join(max(0.0, end - time.monotonic()))
            if lane.is_alive():
                log.warning("a lane is stuck in a call and left behind", lane=lane.name)

    def _reachable(self, reachable: bool) -> None:
        self.listener.set_hypervisor_reachable(reachable)
        self.metrics.hypervisor_reachable(reachable)

    def _machines_by_state(self) -> Mapping[str, int]:
        states = (pb.Machine.FromString(frame).status.state for frame in self.store.frames())
        return Counter(pb.MachineState.Name(state) for state in states)


def _classes(settings: Settings) -> Mapping[str, MachineClass]:
    path = settings.machine_classes
    return machine_classes.load(path) if path else machine_classes.built_in()


def _backup(paths: StatePaths, clock: Callable[[], int], arguments: Mapping[str, Any]) -> dict[str, int]:
    """The admin command."""
    return {"machines": backup.backup(paths.database, Path(arguments["file"]), clock()).machines}


def _capacity(classes: Mapping[str, MachineClass]) -> Callable[[], list[pb.MachineClassStatus]]:
    """Quantities by the host's totals, read once: Status answers from memory."""
    cpus, memory_bytes = cpu.online(), memory.total_bytes()
    entries = [
        pb.MachineClassStatus(
            machine_class=pb.MachineClass(
                name=each.name,
                capabilities=pb.MachineClassCapabilities(cpu_millis=each.cpu_millis, memory_bytes=each.memory_bytes),
            ),
            quantity=placement.quantity(each, cpus, memory_bytes),
        )
        for each in classes.values()
    ]
    return lambda: entries


async def _serve(settings: Settings, store: Store) -> None:
    provider = Provider(settings, store)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await provider.start()
        await stop.wait()
        log.info("stopping; guests run on")
    finally:
        await provider.stop()


def serve(settings: Settings) -> None:
    """Run a provider until SIGTERM or SIGINT. Raises ConfigError or StoreError when it cannot start."""
    if harm := failpoint():
        log.warning("a failpoint is armed: this provider harms itself", failpoint=harm)
        failpoints.arm(failpoints.armed_by(harm))
    check_architecture(platform.machine().lower())
    paths = StatePaths(settings.state_dir)
    prepare(paths)
    with lock(paths), ExitStack() as stack:
        store = Store.open(paths, time.time_ns)
        stack.callback(store.close)
        log.info(
            "the store is open", state_dir=str(paths.root), instance=store.instance, machines=len(store.machine_ids())
        )
        asyncio.run(_serve(settings, store))
