"""The composition root: builds every object of a provider, starts them in order and stops them in the reverse order.

Order matters: the lock of the state directory before anything else, the store before the socket, the socket before
libvirt is asked for anything (the poollet gives up on a provider that does not answer) but whether an empty store may
begin. Nothing else belongs here: a rule in this file is in the wrong place.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import platform
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from sri_libvirt import __version__, effective, failpoints, names, process, statedir
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.capacity import ladder
from sri_libvirt.capacity.budget import Budget, Hardware, Reserves, budget, of_inventory
from sri_libvirt.capacity.deliverable import Lack
from sri_libvirt.capacity.devices import DeviceClaims
from sri_libvirt.capacity.pool import Pool
from sri_libvirt.capacity.pulls import PullRoom
from sri_libvirt.config import DEFAULT, OPTIONS, Settings, failpoint, service_manager
from sri_libvirt.console.entrance import Entrance
from sri_libvirt.console.place import Place
from sri_libvirt.console.tls import certificate
from sri_libvirt.domain.compiler import DomainCompiler
from sri_libvirt.errors import ConfigError, Unavailable
from sri_libvirt.host import inventory, kvm, link, live, places, space, storage
from sri_libvirt.host.boot import Host
from sri_libvirt.host.oom import OutOfMemory
from sri_libvirt.hypervisor.base import Hypervisor
from sri_libvirt.hypervisor.libvirt import LibvirtHypervisor
from sri_libvirt.images.cache import Cache
from sri_libvirt.images.collecting import Collector
from sri_libvirt.images.commands import ImageCommands
from sri_libvirt.images.fetching import Fetcher
from sri_libvirt.images.pulling import Pulling
from sri_libvirt.images.registry import ImageAccess
from sri_libvirt.images.rules import Rules
from sri_libvirt.jobs import Jobs
from sri_libvirt.looks import Looks
from sri_libvirt.metrics import Metrics
from sri_libvirt.nics.registry import LinkAccess
from sri_libvirt.nics.reserving import Reserving
from sri_libvirt.notify import NOBODY, Check, Heart, ServiceManager
from sri_libvirt.paths import StatePaths
from sri_libvirt.reconcile.arrivals import Arrivals
from sri_libvirt.reconcile.beginning import Beginning
from sri_libvirt.reconcile.boots import Boots
from sri_libvirt.reconcile.diskio import DiskIo
from sri_libvirt.reconcile.edits import Edits
from sri_libvirt.reconcile.elsewhere import Elsewhere
from sri_libvirt.reconcile.firstbyte import FirstBytes
from sri_libvirt.reconcile.growth import Growth, Rescan
from sri_libvirt.reconcile.lane import Loop
from sri_libvirt.reconcile.observe import HostSigns, Observer
from sri_libvirt.reconcile.orphans import Census, Orphans, sweep
from sri_libvirt.reconcile.perform import Performer
from sri_libvirt.reconcile.plugins import PluginTables
from sri_libvirt.reconcile.queue import WakeQueue
from sri_libvirt.reconcile.reservations import Reservations
from sri_libvirt.reconcile.secrets import Leftovers, Lending, Loans
from sri_libvirt.reconcile.sources import EventSource, Resync, wake_all
from sri_libvirt.reconcile.survey import Neighbours, Survey
from sri_libvirt.reconcile.view import Policy
from sri_libvirt.reconcile.virtualisation import Virtualisation
from sri_libvirt.reconcile.watchdog import Watchdog
from sri_libvirt.records import SECOND, Event, MachineClass
from sri_libvirt.resources import Claim
from sri_libvirt.server.admin import CommandSocket
from sri_libvirt.server.confirming import Confirmation
from sri_libvirt.server.cordon import CordonKeeper
from sri_libvirt.server.listener import Listener
from sri_libvirt.server.service import MachineRuntime, handlers
from sri_libvirt.store.automatic import AutomaticBackups
from sri_libvirt.store.reader import Reader
from sri_libvirt.store.store import Store
from sri_libvirt.traces import Traces
from sri_libvirt.views.machines import QUESTIONS, Views
from sri_libvirt.volumes import empty_disk
from sri_libvirt.volumes.probe import probe
from sri_libvirt.volumes.probing import Probing
from sri_libvirt.volumes.registry import HostAccess

log = structlog.get_logger(__name__)

RESYNC_SECONDS = 300.0
"""How long a start or stop whose event was lost can go unnoticed; what no state tells, twelve times as long."""

VOLUME_SECONDS = 300.0
"""How often the backends of volumes in use are looked at: so late at most does a guest see that one has grown."""

SWITCH_SECONDS = 0.0005
"""How long a busy thread keeps Python's lock from others: at the default of 5 ms an RPC, which changes threads twice,
takes 10 ms more while lanes compute."""

ASK_SECONDS = 5.0
"""How long a start waits for what libvirt says of an empty store; it serves then all the same, but refuses."""

READERS = 4
"""Views of machines that are made at a time for who may not read the store: more would take RPCs' share of Python's
lock. One may wait for libvirt."""

STOP_SECONDS = 10.0
"""How long running RPCs and lanes may take to end; a lane that is stuck in a call is left behind."""


def check_architecture(name: str) -> None:
    """Refuse a host whose guests would be of an architecture that no profile is made for. Raises ConfigError."""
    if name not in ("x86_64", "amd64"):
        raise ConfigError(f"this host is {name}; only x86_64 is supported yet")


class Provider:
    """One provider on an open store. `hypervisor`, `host` and `hardware` are replaced by tests; `manager` is told how
    it is."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        *,
        hypervisor: Hypervisor | None = None,
        host: HostSigns | None = None,
        hardware: Callable[[StatePaths], Hardware] | None = None,
        manager: ServiceManager = NOBODY,
    ) -> None:
        clock = store.clock
        self.store = store
        self.metrics = Metrics()
        self.queue = WakeQueue(clock, self._is_to_go)
        self._settings = settings
        self._hypervisor = hypervisor or LibvirtHypervisor(settings.libvirt_uri, devpts=settings.devpts)
        self._stack = ExitStack()
        self._manager = manager
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._is_reached = False
        self._heart = Heart(manager, self._signs_of_life())
        paths = StatePaths(settings.state_dir)
        host = host or Host()
        wake_everybody = partial(wake_all, store, self.queue)
        self._virtualisation = Virtualisation(settings, store, kvm.probe, clock, changed=wake_everybody)
        wake = partial(self.queue.wake, asked=True)
        looks, self._jobs, self._cancel = Looks(), Jobs(wake), process.Cancel()
        ask = partial(probe, deadline=settings.probe_timeout / SECOND, cancel=self._cancel)
        probing = Probing(self._jobs, ask, clock, wake, self.metrics.probe)
        self._volumes_waiting = probing.waiting
        access = HostAccess.of(
            settings,
            store.instance,
            self._virtualisation.libvirt_version,
            looks,
            probing,
            self._virtualisation.qemu_user,
        )
        self._paths = paths
        cache = self._cache = Cache(paths.image_cache, paths.machines, store)
        self._hardware = hardware or partial(read_hardware, sysfs=settings.sysfs, procfs=settings.procfs)
        self._hardware_is_live = hardware is None and live.is_own(settings.sysfs, settings.procfs)
        self.cordon = CordonKeeper(store, clock, wake_everybody)
        self.beginning = Beginning(store, paths.root, self._hypervisor.connect, self._tell)
        found = self._hardware(paths)
        self.pool = Pool(self._classes(found), self._budget(found), self._closed)
        available = partial(space.available, paths.image_cache)
        collector = Collector(cache, settings.image_keep, settings.image_min_free, clock, available, self._measure)
        room = PullRoom(self.pool, store.usage, self._measure, available, collector.evict, cache.held)
        self._pulls = Jobs(wake, settings.image_pulls)
        pulling = Pulling(
            cache,
            Fetcher(self._cancel),
            Rules.of(settings),
            room,
            questions=self._jobs,
            pulls=self._pulls,
            clock=clock,
            machine=platform.machine(),
            count=self.metrics.pull,
        )
        images = ImageAccess(
            settings.image_dirs, (paths.image_cache,), looks, cache, pulling, self._virtualisation.qemu_user
        )
        reserving = Reserving(self._jobs, self._hypervisor.connect, clock)
        links = LinkAccess(
            self._hypervisor.taps,
            reserving,
            settings.network_map,
            settings.sysfs,
            self._virtualisation.libvirt_version,
            settings.allow_user_net,
        )
        plugins = PluginTables(images, access, links)
        self._devices = DeviceClaims(self.pool, plugins.claims_of)
        self._confirmation = Confirmation(store, clock, self.queue.wake)
        place = Place(
            settings.streaming_address,
            lambda machine_id: paths.machine(machine_id).console_log,
            settings.base_url,
            settings.console_takeover,
            certificate(settings.streaming_cert, settings.streaming_key),
        )
        self._entrance = Entrance(
            place,
            self._hypervisor.console,
            lambda machine_id: store.machine(machine_id) is not None,
            self._note,
            clock,
            self.metrics,
        )
        self.traces = Traces(clock)
        self._first_bytes = FirstBytes(lambda machine_id: paths.machine(machine_id).console_log, self.traces)
        runtime = MachineRuntime(
            store,
            self.pool,
            self._devices,
            plugins,
            self._gate,
            wake,
            clock,
            self._confirmation.listed,
            self._entrance.url,
        )
        self.listener = Listener(
            settings.address,
            handlers(runtime, self.metrics.rpc, lambda: self.beginning.words, self.traces.add),
            socket_mode=settings.socket_mode,
            socket_group=settings.socket_group,
            insecure_tcp=settings.insecure_tcp,
        )
        compiler = DomainCompiler(store.instance, settings.template_dir, settings.schema_dir)
        for each in self.pool.classes.values():
            compiler.check(each)
        loans = Loans()
        performer = Performer(
            store=store,
            paths=paths,
            plugins=plugins,
            compiler=compiler,
            choose_profile=self._virtualisation.choose_profile,
            boot_id=host.boot_id,
            clock=clock,
            take=self._devices.take,
            give_back=self._devices.give_back,
            wake=self.queue.wake,
            not_open_elsewhere=Elsewhere(store, paths.machines).check,
            lend=Lending(store.instance, loans, plugins.secrets_of, lambda: self._survey.poke()).lend,
            settle=DiskIo(looks, settings.procfs).settle,
            vhost_net=link.has_vhost_net,
            listen=self._first_bytes.of,
        )
        self._arrivals = Arrivals(store, partial(link.up, settings.sysfs), self.queue.wake)
        policy = Policy(
            handle_of=plugins.handle_of,
            start_blocked=self._virtualisation.start_blocked,
            busy_until=plugins.busy_until,
            size_of=plugins.size_of,
            cold_only=plugins.cold_only,
            unresolved=plugins.unresolved,
            is_lost=plugins.is_lost,
            shutdown_grace=settings.shutdown_grace,
            detach_settle=settings.detach_settle,
            detach_hold=settings.detach_hold,
            restart_after_guest_poweroff=settings.on_guest_poweroff == "restart",
            drained_since=self.cordon.drained_since,
            ports=settings.pcie_ports,
        )
        memory = OutOfMemory(proc=settings.procfs)
        self._boots = Boots(store, host.boot_id, clock)
        observer = Observer(
            store.instance,
            host,
            self._virtualisation.refresh,
            clock.of_wall,
            lambda machine_id, since: memory.killed(machine_id, (clock() - since) / SECOND),
            partial(link.joined, settings.sysfs),
            ended=self._boots.ended,
            ask=plugins.look,
            failed=lambda machine_id: self.events.failed_disks(machine_id),
            edits=Edits(compiler, paths).found,
        )
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
            traces=self.traces,
        )
        self._watchdog = Watchdog(loop, settings.lanes)
        self.lanes = self._watchdog.lanes
        shown = Looks()
        self.metrics.left_behind(
            lanes=self._watchdog.late,
            programs=process.left_behind,
            looks=lambda: looks.late() + shown.late(),
        )
        neighbours = Neighbours(store, self._hypervisor.connect, self.pool.set_neighbours)
        self.pool.set_neighbours(neighbours.remembered())
        self.clean_up = partial(Leftovers(store.instance, loans).clean_up, self._hypervisor.connect)
        offered = partial(self._virtualisation.survey, self._hypervisor.connect)
        self._survey = Survey(
            [
                collector.collect,
                self._measure,
                self._virtualisation.look_again,
                self.clean_up,
                offered,
                self._weigh_classes,
                neighbours.look,
                Reservations(store, self._hypervisor.connect, reserving.missed, self.queue.wake).look,
            ],
            RESYNC_SECONDS,
        )
        self.events = EventSource(store, self.queue, clock, self._reachable, self._survey.poke)
        self._resync = Resync(store, self.queue, self._hypervisor.connect, RESYNC_SECONDS)
        self._growth = Growth(store, plugins, VOLUME_SECONDS)
        rescan = Rescan(store, plugins, clock)
        orphans = Orphans(store, paths, self._hypervisor.connect, loans)
        self._census = Census(orphans, self.metrics.orphans, RESYNC_SECONDS)
        self._backups = AutomaticBackups(paths, settings.backup_period, settings.backups, clock)
        of_images = ImageCommands(cache, store, pulling, collector, clock).table()
        told: dict[str, Callable[[Mapping[str, Any]], Any]] = {
            "volumes": rescan.glance,
            "spans": lambda arguments: [asdict(span) for span in self.traces.of(str(arguments["machine"]))],
            "images": of_images["images"],
        }
        self.admin = CommandSocket(
            paths.admin_socket,
            {
                "sweep": partial(sweep, orphans),
                "confirm": self._confirmation.command,
                "rescan": rescan.rescan,
                **told,
                **of_images,
                **{name: partial(self.cordon.command, name) for name in ("cordon", "uncordon", "drain")},
            },
            store.follow,
        )
        reader = Reader(paths.database)
        self._stack.callback(reader.close)
        views = Views(reader, settings, lambda name, arguments: told[name](arguments), self._hypervisor.connect, shown)
        self.reading = CommandSocket(
            paths.reading_socket,
            {question: partial(views.answer, question) for question in QUESTIONS},
            store.follow,
            mode=settings.socket_mode,
            group=settings.socket_group,
            workers=READERS,
            told=False,
        )

    async def start(self) -> None:
        """Serve, then watch libvirt and start working. Raises ConfigError when the address cannot be had."""
        sys.setswitchinterval(SWITCH_SECONDS)
        self.metrics.follow(
            queue_depth=self.queue.depth,
            machines=self._machines_by_state,
            store_full=self.store.full,
            unconfirmed=self._confirmation.count,
            volumes_waiting=self._volumes_waiting,
            image_bytes=self._cache.held,
        )
        if self._settings.metrics_address:
            self._stack.callback(self.metrics.serve(self._settings.metrics_address))
        await asyncio.to_thread(self.adopt)
        await asyncio.to_thread(self._cache.tidy)
        await asyncio.to_thread(self._confirmation.begin)
        self.beginning.start()
        self._stack.callback(self.beginning.stop)
        await asyncio.to_thread(self.beginning.asked.wait, ASK_SECONDS)
        self._tell()
        await self.listener.start()
        await self.admin.start()
        await self.reading.start()
        self._manager.ready(self._status())
        self._event_loop = asyncio.get_running_loop()
        self._heart.start()
        await asyncio.to_thread(self._virtualisation.probe)
        self._boots.start()
        self._stack.callback(self._boots.stop)
        self._first_bytes.start()
        self._stack.callback(self._first_bytes.stop)
        self._watchdog.start()
        self._stack.callback(self._watchdog.stop)
        self._survey.start()
        self._stack.callback(self._survey.stop)
        if self._hardware_is_live:
            await asyncio.to_thread(self._arrivals.begin)
            self._stack.callback(await asyncio.to_thread(live.follow, self._survey.poke, self._arrivals.look))
            self._survey.poke()  # for what came since it was read
        self._stack.callback(self._hypervisor.watch(self.events))
        self._resync.start()
        self._stack.callback(self._resync.stop)
        self._growth.start()
        self._stack.callback(self._growth.stop)
        self._census.start()
        self._stack.callback(self._census.stop)
        if self._settings.backup_period:
            self._backups.start()
            self._stack.callback(self._backups.stop)
        wake_all(self.store, self.queue)

    def adopt(self) -> None:
        """Let machines of an older version claim what they have."""

        def kept(machine_id: str) -> Sequence[Claim]:
            return empty_disk.claims_of_files(self._paths.machine(machine_id))

        if count := self.store.write(lambda tx: self._devices.adopt(tx, kept)):
            log.info("machines of an older version claim what they have", machines=count)

    async def stop(self) -> None:
        """Let RPCs and the machines in hand finish, within bounds. Guests are not touched. Also after half a start."""
        self._manager.stopping()
        self._heart.stop()
        await asyncio.gather(self.listener.stop(STOP_SECONDS), self._entrance.stop())
        await asyncio.gather(self.admin.stop(STOP_SECONDS), self.reading.stop(STOP_SECONDS))
        self.queue.close()
        await asyncio.to_thread(self._stop_threads)

    def _stop_threads(self) -> None:
        self._cancel.cancel()
        self._stack.close()
        end = time.monotonic() + STOP_SECONDS
        self._jobs.stop(STOP_SECONDS)
        self._pulls.stop(max(0.0, end - time.monotonic()))
        for lane in self.lanes:
            if lane.ident is None:
                continue  # the start failed before it
            lane.join(max(0.0, end - time.monotonic()))
            if lane.is_alive():
                log.warning("a lane is stuck in a call and left behind", lane=lane.name)

    def _measure(self) -> None:
        self.pool.set_budget(self._budget(self._hardware(self._paths)))

    def _weigh_classes(self) -> None:
        lacking = {each.name: self._virtualisation.lacks_firmware(each) for each in self.pool.classes.values()}
        self.pool.set_lacks({name: Lack("firmware", words) for name, words in lacking.items() if words})

    def _classes(self, found: Hardware) -> Mapping[str, MachineClass]:
        """Those of the operator's file, or the ladder as it was at the first run."""
        if path := self._settings.machine_classes:
            from sri_libvirt.capacity import classes  # YAML is slow to import

            return classes.load(path)
        total = found.total
        return self.store.write(lambda tx: ladder.freeze(tx, ladder.steps(total.cpus, total.memory_bytes)))

    def _budget(self, found: Hardware) -> Budget:
        settings = self._settings
        reserves = Reserves(
            memory_bytes=settings.reserved_memory,
            cpu_millis=settings.reserved_cpus,
            cpu_overcommit=settings.cpu_overcommit,
            disk_overcommit=settings.disk_overcommit,
            machines=settings.max_machines,
        )
        return budget(found, reserves)

    def _closed(self) -> str:
        """Why no new machine is taken; "" when they are."""
        if self.beginning.refused:
            return self.beginning.refused
        try:
            self._virtualisation.gate()
        except Unavailable as error:
            return str(error)
        return self.cordon.state.words

    def _note(self, machine_id: str, event: Event) -> None:
        """Keep an event in a machine's timeline."""
        self.store.submit(lambda tx: tx.add_event(machine_id, event), synced=False)

    def _gate(self) -> None:
        if because := self._closed():
            raise Unavailable(because)

    def _reachable(self, reachable: bool) -> None:
        self._is_reached = reachable
        self.listener.set_hypervisor_reachable(reachable)
        self.metrics.hypervisor_reachable(reachable)
        self._tell()

    def _tell(self) -> None:
        """Tell all who watch whether the store is the right one, and the service manager, once we serve, how we are."""
        doubted = bool(self.beginning.words)
        self.listener.set_serves(not doubted)
        self.metrics.store_doubted(doubted)
        if self._event_loop is not None:
            self._manager.status(self._status())

    def _status(self) -> str:
        if self.beginning.words:
            return f"refusing all of machines: {self.beginning.words}"
        return f"serving; libvirt is {'reached' if self._is_reached else 'not reached'}"

    def _signs_of_life(self) -> Mapping[str, Check]:
        """The parts without which a provider is of no use. libvirt is none of them: a restart would not mend it."""

        def turned() -> str:
            assert self._event_loop is not None
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._event_loop).result()
            return ""

        def stored() -> str:
            self.store.write(lambda _: None)
            return self.store.misplaced()

        return {
            "rpcs": turned,
            "store": stored,
            "lanes": lambda: self._watchdog.problem(time.monotonic()),
        }

    def _is_to_go(self, machine_id: str) -> bool:
        return self.store.is_to_go(machine_id, drained=bool(self.cordon.drained_since()))

    def _machines_by_state(self) -> Mapping[str, int]:
        return Counter(pb.MachineState.Name(state) for state, _ in self.store.states().values())


def read_hardware(paths: StatePaths, *, sysfs: Path = inventory.SYSFS, procfs: Path = inventory.PROCFS) -> Hardware:
    """The host of these roots as it is now. Raises ConfigError when its CPUs, memory or file system are not told."""
    found = of_inventory(inventory.read(sysfs, procfs))
    if not found.total.cpus or not found.total.memory_bytes:
        raise ConfigError(f"--sysfs {sysfs}, --procfs {procfs}: they show no CPU or no memory of this host")
    try:
        disk = space.space(paths.root, paths.machines)
    except OSError as error:
        raise ConfigError(f"--state-dir {paths.root}: its file system cannot be measured: {error.strerror}") from error
    return replace(found, disk_bytes=disk.total_bytes, disk_others_bytes=disk.others_bytes)


async def _serve(settings: Settings, store: Store, *, beside: bool = False) -> None:
    provider = Provider(settings, store, manager=ServiceManager(*service_manager(os.getpid())))
    if beside:
        provider.beginning.beside()
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


def _introduce(paths: StatePaths, settings: Settings) -> None:
    """Say who this is and what it runs with: in the log, and to the commands."""
    chosen = {
        option.name: option.written(getattr(settings, option.name))
        for option in OPTIONS
        if settings.sources[option.name] != DEFAULT
    }
    log.info("sri-libvirt begins", version=__version__, pid=os.getpid(), settings=chosen)
    try:
        effective.keep(paths, settings, time.time_ns())
    except OSError as error:  # as on a full file system, which only a daemon that runs can make room on
        log.warning("commands will not know the settings", path=str(paths.settings), error=error.strerror)


def serve(settings: Settings, *, new_store: bool = False) -> None:
    """Run a provider until SIGTERM or SIGINT. Raises ConfigError or StoreError when it cannot start.

    `new_store` lets an empty store begin beside the domains of another one.
    """
    faulthandler.enable()  # systemd's watchdog ends a process by SIGABRT: the log says then where it was stuck
    if harm := failpoint():
        log.warning("a failpoint is armed: this provider harms itself", failpoint=harm)
        failpoints.arm(failpoints.armed_by(harm))
    check_architecture(platform.machine().lower())
    places.check_names(settings)
    paths = StatePaths(settings.state_dir)
    statedir.prepare(paths)
    with statedir.lock(paths), ExitStack() as stack:
        _introduce(paths, settings)
        places.check(settings, storage.mounts(settings.procfs))
        store = Store.open(paths)
        stack.callback(store.close)
        log.info(
            "the store is open",
            state_dir=str(paths.root),
            instance=store.instance,
            initiator=names.initiator(store.instance),
            machines=len(store.machine_ids()),
        )
        asyncio.run(_serve(settings, store, beside=new_store))
