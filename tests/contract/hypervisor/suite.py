"""The contract of `sri_libvirt.hypervisor.base`, as tests for any implementation.

A subclass of HypervisorContract has a fixture `world`. Everything is waited for: libvirt's events come when they come.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import IPv4Interface
from typing import Protocol

import pytest

from sri_libvirt.errors import ConsoleHeld, ConsoleLost, HypervisorError, NoConsole, Unreachable
from sri_libvirt.hypervisor import filter_rules
from sri_libvirt.hypervisor.base import (
    Connection,
    Console,
    DiskError,
    DomainEvent,
    DomainSnapshot,
    DomainState,
    EventKind,
    Hypervisor,
    LastWords,
    Secret,
    SecretUsage,
)
from sri_libvirt.hypervisor.networks import Address

DEADLINE = 30.0
INSTANCE, OTHERS = str(uuid.uuid4()), str(uuid.uuid4())
PASSPHRASE = b"open sesame"
NO_SECRET = 66
MAC, OTHER_MAC = "52:54:00:12:34:56", "52:54:00:12:34:57"
FILTERED = """<interface type='network'><source network='here'/><filterref filter='{name}'>
    <parameter name='IPV4' value='10.0.0.7'/><parameter name='IPV6' value='2001:db8::7'/></filterref>
    <model type='virtio'/><alias name='ua-nic-0-1'/>
    <address type='pci' domain='0' bus='1' slot='0' function='0'/></interface>"""
"""A NIC on the network "here", with a filter."""


class World(Protocol):
    """A hypervisor and what happens to it and its guests from outside."""

    @property
    def hypervisor(self) -> Hypervisor: ...

    def domain(
        self, machine_id: str, *, deaf: bool = False, marked: str = "", device: str = "", cramped: bool = False
    ) -> str:
        """XML of a domain whose guest answers its power button, or does not; `marked` is its title.

        It has a disk "sda" of alias "ua-boot", with no room to write more on it if it is `cramped`, and `device`, which
        is XML of another one.
        """

    def with_console(self, machine_id: str) -> str:
        """XML of one whose guest has its serial port at its console: it answers "u" to what is typed, but powers off at
        "q"."""

    def heed(self, machine_id: str, typed: bytes) -> None:
        """The guest does that, where it does not by itself."""

    def wait_until_up(self, machine_id: str) -> None: ...

    def guest_powers_off(self, machine_id: str) -> None: ...

    def kill_qemu(self, machine_id: str) -> None: ...

    def panic(self, machine_id: str) -> None: ...

    def sleep(self, machine_id: str) -> None: ...

    def terminate_qemu(self, machine_id: str) -> None: ...

    def pause(self, machine_id: str) -> None: ...

    def save(self, machine_id: str) -> None: ...

    def stop_libvirt(self) -> None: ...

    def start_libvirt(self) -> None: ...

    def device(self, alias: str, secret: str = "") -> str:
        """XML of a disk with this alias that fits into a domain's free port; with the UUID of a secret it is one that
        PASSPHRASE opens."""

    def reset(self, machine_id: str) -> None: ...

    def write(self, machine_id: str) -> None:
        """The guest writes to its disk."""

    def make_room(self, machine_id: str) -> None:
        """Its disk is cramped no more."""

    def grow_backend(self, alias: str, size: int) -> None:
        """The storage behind a `device` is made larger."""

    def disk_bytes(self, machine_id: str, target: str) -> int:
        """How large QEMU has a disk; no less than its storage is."""

    def make_network(self, name: str, *, kept: bool = False) -> IPv4Interface:
        """Make and start a network that serves DHCP, and return its own address. It is `kept` when it is stopped, or
        not."""

    def stop_network(self, name: str) -> None: ...


class Recorder:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.events: list[DomainEvent] = []
        self.connected = 0
        self.disconnected: list[str] = []
        self.networks: list[str] = []
        self._changed = threading.Condition()

    def on_connected(self) -> None:
        with self._changed:
            self.connected += 1
            self._changed.notify_all()

    def on_disconnected(self, reason: str) -> None:
        with self._changed:
            self.disconnected.append(reason)
            self._changed.notify_all()

    def on_network(self, name: str) -> None:
        with self._changed:
            self.networks.append(name)
            self._changed.notify_all()

    def on_event(self, event: DomainEvent) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait(self, condition: Callable[[], object], what: str) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE), f"no {what}: {self.events}"

    def wait_for(self, machine_id: str, kind: EventKind) -> None:
        self.wait(lambda: any(e.machine_id == machine_id and e.kind is kind for e in self.events), str(kind))

    def details(self, machine_id: str, *kinds: EventKind) -> list[tuple[EventKind, str]]:
        with self._changed:
            return [(e.kind, e.detail) for e in self.events if e.machine_id == machine_id and e.kind in kinds]


class Machine:
    """One domain of a test."""

    def __init__(self, world: World, connection: Connection) -> None:
        self.id = str(uuid.uuid4())
        self.world = world
        self.connection = connection

    def define(self, *, deaf: bool = False, marked: str = "", device: str = "", cramped: bool = False) -> Machine:
        self.connection.define(self.world.domain(self.id, deaf=deaf, marked=marked, device=device, cramped=cramped))
        return self

    def start(self) -> Machine:
        assert self.connection.start(self.id) is False
        self.world.wait_until_up(self.id)
        return self

    def now(self) -> DomainSnapshot:
        snapshot = self.connection.snapshot(self.id)
        assert snapshot is not None
        return snapshot

    def wait_off(self) -> DomainSnapshot:
        end = time.monotonic() + DEADLINE
        while self.now().active:
            assert time.monotonic() < end, f"still {self.now().state}"
            time.sleep(0.02)
        return self.now()


class Seat:
    """Before a machine's console."""

    def __init__(self, world: World, machine: Machine) -> None:
        self._world, self._machine = world, machine
        self._heard = threading.Event()

    def boot(self) -> None:
        """Its guest runs, and answers."""
        self._machine.connection.define(self._world.with_console(self._machine.id))
        assert self._machine.connection.start(self._machine.id) is False
        console, answer = self.sit_down(), b""
        end = time.monotonic() + DEADLINE
        while not answer.endswith(b"u"):  # the firmware may take in what is typed too soon
            assert time.monotonic() < end
            answer = self.says(console, b"?", 0.5)
        console.close()

    def sit_down(self, *, take_over: bool = False) -> Console:
        return self._world.hypervisor.console(self._machine.id, self._heard.set, take_over=take_over)

    def talk(self, console: Console) -> None:
        """The guest answers; also what it has not said before, when it booted."""
        assert b"u" in self.says(console, b"?")

    def end(self, console: Console) -> None:
        """The guest powers off, and that is the console's end."""
        said = self.says(console, b"q")
        while said:
            said = self.hear(console) or b""

    def says(self, console: Console, typed: bytes, seconds: float = DEADLINE) -> bytes:
        """What comes next when this is typed; b"" also when that is nothing in this time."""
        assert console.write(typed) == len(typed)
        self._world.heed(self._machine.id, typed)
        return self.hear(console, seconds) or b""

    def hear(self, console: Console, seconds: float = DEADLINE) -> bytes | None:
        end = time.monotonic() + seconds
        while (found := console.read()) is None:
            if not self._heard.wait(max(0.0, end - time.monotonic())):
                return None
            self._heard.clear()
        return found


def passphrase(instance: str = INSTANCE) -> Secret:
    """A secret of a test's own for a disk of `World.device`."""
    return Secret(str(uuid.uuid4()), SecretUsage.VOLUME, instance)


def refused_for_want_of(secret: Secret, call: Callable[[], object]) -> None:
    """The call is refused as libvirt does, and its words tell no more than the UUID."""
    with pytest.raises(HypervisorError) as refused:
        call()
    assert not isinstance(refused.value, Unreachable)
    assert (refused.value.code, secret.uuid in str(refused.value)) == (NO_SECRET, True)


def reconnect(hypervisor: Hypervisor) -> Connection:
    end = time.monotonic() + DEADLINE
    while True:
        try:
            return hypervisor.connect()
        except Unreachable:
            assert time.monotonic() < end
            time.sleep(0.02)


class HypervisorContract:
    """The tests."""

    @pytest.fixture
    def connection(self, world: World) -> Connection:
        return reconnect(world.hypervisor)

    @pytest.fixture
    def machine(self, world: World, connection: Connection) -> Machine:
        return Machine(world, connection)

    @pytest.fixture
    def watched(self, world: World, connection: Connection) -> Iterator[Recorder]:
        recorder = Recorder()
        stop = world.hypervisor.watch(recorder)
        recorder.wait(lambda: recorder.connected, "connection")
        yield recorder
        stop()

    def test_an_absent_domain_needs_nothing_done(self, machine: Machine) -> None:
        assert machine.connection.snapshot(machine.id) is None
        machine.connection.press_power_button(machine.id)
        machine.connection.destroy(machine.id)
        machine.connection.undefine(machine.id)
        machine.connection.resize_disk(machine.id, "sda", 1 << 30)
        assert machine.connection.disk_errors(machine.id) == {}
        assert machine.connection.last_words(machine.id) == LastWords()
        assert machine.id not in machine.connection.domain_ids()
        assert machine.id not in machine.connection.states()

    @pytest.mark.parametrize("method", ["start", "resume"])
    def test_an_absent_domain_cannot_run(self, machine: Machine, method: str) -> None:
        with pytest.raises(HypervisorError) as refused:
            getattr(machine.connection, method)(machine.id)
        assert not isinstance(refused.value, Unreachable)

    def test_bad_xml_is_refused(self, connection: Connection) -> None:
        with pytest.raises(HypervisorError) as refused:
            connection.define("<domain type='qemu'><name>x</name></domain>")
        assert not isinstance(refused.value, Unreachable)

    def test_define(self, machine: Machine, watched: Recorder) -> None:
        snapshot = machine.define().now()
        assert (snapshot.state, snapshot.active, snapshot.live_xml) == (DomainState.OFF, False, "")
        assert machine.id in snapshot.persistent_xml
        assert not snapshot.managed_save
        assert machine.id in machine.connection.domain_ids()
        assert machine.connection.states()[machine.id] is DomainState.OFF
        watched.wait_for(machine.id, EventKind.DEFINED)

    def test_start_twice(self, machine: Machine, watched: Recorder) -> None:
        machine.define().start()
        machine.connection.start(machine.id)
        snapshot = machine.now()
        assert (snapshot.state, snapshot.reason, snapshot.active) == (DomainState.RUNNING, "booted", True)
        assert machine.connection.states()[machine.id] is DomainState.RUNNING
        watched.wait_for(machine.id, EventKind.STARTED)
        assert len(watched.details(machine.id, EventKind.STARTED)) == 1

    def test_define_leaves_a_running_guest_alone(self, machine: Machine) -> None:
        machine.define(marked="before").start().define(marked="after")
        snapshot = machine.now()
        assert "before" in snapshot.live_xml
        assert "after" not in snapshot.live_xml
        assert "after" in snapshot.persistent_xml

    def test_a_guest_answers_its_power_button(self, machine: Machine, watched: Recorder) -> None:
        machine.define().start()
        machine.connection.press_power_button(machine.id)
        self._ended(machine, watched, "guest", "shutdown", "shutdown")

    def test_a_deaf_guest_does_not(self, machine: Machine, watched: Recorder) -> None:
        machine.define(deaf=True).start()
        machine.connection.press_power_button(machine.id)
        assert machine.now().state is DomainState.RUNNING
        machine.connection.destroy(machine.id)
        self._ended(machine, watched, "host", "destroyed", "destroyed")
        assert machine.connection.last_words(machine.id).terminated_by == "libvirtd"
        machine.connection.press_power_button(machine.id)
        machine.connection.destroy(machine.id)

    def test_a_guest_powers_itself_off(self, machine: Machine, watched: Recorder) -> None:
        machine.define().start()
        machine.world.guest_powers_off(machine.id)
        self._ended(machine, watched, "guest", "shutdown", "shutdown")
        # libvirt itself ends the QEMU of a guest that is off
        assert machine.connection.last_words(machine.id).terminated_by in ("", "libvirtd")

    def test_somebody_terminates_qemu(self, machine: Machine, watched: Recorder) -> None:
        machine.define().start()
        machine.world.terminate_qemu(machine.id)
        self._ended(machine, watched, "host", "shutdown", "shutdown")
        assert machine.connection.last_words(machine.id).terminated_by not in ("", "libvirtd")

    def test_qemu_is_killed(self, machine: Machine, watched: Recorder) -> None:
        machine.define().start()
        machine.world.kill_qemu(machine.id)
        self._ended(machine, watched, "", "failed", "crashed")
        assert machine.connection.last_words(machine.id).terminated_by == ""

    def test_a_guest_panics(self, machine: Machine, watched: Recorder) -> None:
        machine.define().start()
        machine.world.panic(machine.id)
        self._ended(machine, watched, "", "crashed", "crashed")
        # QEMU and libvirt write into one log, each when it likes.
        end = time.monotonic() + DEADLINE
        while machine.connection.last_words(machine.id).terminated_by != "libvirtd":
            assert time.monotonic() < end, "the log does not tell a panic from a kill"
            time.sleep(0.02)

    def test_a_guest_that_sleeps_is_woken(self, machine: Machine, watched: Recorder) -> None:
        machine.define().start()
        machine.connection.wake_up(machine.id)
        assert machine.now().reason == "booted"
        machine.world.sleep(machine.id)
        watched.wait_for(machine.id, EventKind.PMSUSPENDED)
        assert machine.now().state is DomainState.SUSPENDED
        machine.connection.press_power_button(machine.id)
        machine.connection.wake_up(machine.id)
        watched.wait(lambda: machine.now().state is DomainState.RUNNING, "wake-up")

    def test_without_an_agent_nobody_sets_the_clock(self, machine: Machine) -> None:
        machine.define().start()
        assert machine.connection.set_time(machine.id) is False
        assert machine.now().state is DomainState.RUNNING

    def test_last_words_are_of_the_last_run(self, machine: Machine) -> None:
        machine.define().start()
        machine.connection.destroy(machine.id)
        machine.start()
        assert machine.connection.last_words(machine.id) == LastWords()

    def test_paused_and_resumed(self, machine: Machine, watched: Recorder) -> None:
        machine.define().start()
        machine.world.pause(machine.id)
        snapshot = machine.now()
        assert (snapshot.state, snapshot.reason, snapshot.active) == (DomainState.PAUSED, "user", True)
        machine.connection.press_power_button(machine.id)
        machine.connection.resume(machine.id)
        assert machine.now().state is DomainState.RUNNING
        watched.wait_for(machine.id, EventKind.SUSPENDED)
        watched.wait_for(machine.id, EventKind.RESUMED)

    @pytest.mark.parametrize(("force_boot", "reason"), [(False, "restored"), (True, "booted")])
    def test_a_saved_guest(self, machine: Machine, watched: Recorder, force_boot: bool, reason: str) -> None:
        machine.define().start()
        machine.world.save(machine.id)
        assert machine.now().managed_save
        self._ended(machine, watched, "", "saved", "saved")
        assert machine.connection.start(machine.id, force_boot=force_boot) is (not force_boot)
        after = machine.now()
        assert (after.state, after.reason, after.managed_save) == (DomainState.RUNNING, reason, False)

    def test_a_restored_guest_has_the_devices_that_it_was_saved_with(self, world: World, machine: Machine) -> None:
        machine.define().start()
        machine.connection.attach_device(machine.id, world.device("ua-vol-a-1"))
        world.save(machine.id)
        assert machine.connection.start(machine.id) is True
        after = machine.now()
        assert ("ua-vol-a-1" in after.live_xml, "ua-vol-a-1" in after.persistent_xml) == (True, False)

    def test_undefine_drops_a_save(self, machine: Machine) -> None:
        machine.define().start()
        machine.world.save(machine.id)
        machine.connection.undefine(machine.id)
        assert machine.connection.snapshot(machine.id) is None

    def test_undefine(self, machine: Machine, watched: Recorder) -> None:
        machine.define()
        machine.connection.undefine(machine.id)
        assert machine.connection.snapshot(machine.id) is None
        watched.wait_for(machine.id, EventKind.UNDEFINED)

    def test_undefine_of_a_running_guest_makes_it_transient(self, machine: Machine) -> None:
        machine.define().start()
        machine.connection.undefine(machine.id)
        snapshot = machine.now()
        assert (snapshot.persistent_xml, snapshot.active) == ("", True)
        machine.connection.undefine(machine.id)
        machine.connection.destroy(machine.id)
        assert machine.connection.snapshot(machine.id) is None

    def test_a_lost_libvirt_is_unreachable_and_comes_back(self, machine: Machine, watched: Recorder) -> None:
        machine.define().start()
        machine.world.stop_libvirt()
        for _ in range(2):
            with pytest.raises(Unreachable):
                machine.connection.snapshot(machine.id)
        with pytest.raises(Unreachable):
            machine.world.hypervisor.connect()
        watched.wait(lambda: watched.disconnected, "loss")
        machine.world.start_libvirt()
        watched.wait(lambda: watched.connected == 2, "reconnect")
        with pytest.raises(Unreachable):  # once dead, always dead
            machine.connection.snapshot(machine.id)
        machine.connection = reconnect(machine.world.hypervisor)
        assert machine.now().state is DomainState.RUNNING
        machine.connection.destroy(machine.id)
        watched.wait_for(machine.id, EventKind.STOPPED)
        assert len(watched.disconnected) == 1

    @pytest.mark.parametrize("ending", ["shutdown", "destroyed", "crashed"])
    def test_only_the_log_remembers_a_stop_over_a_restart(self, machine: Machine, ending: str) -> None:
        machine.define().start()
        {
            "shutdown": machine.world.guest_powers_off,
            "destroyed": machine.connection.destroy,
            "crashed": machine.world.kill_qemu,
        }[ending](machine.id)
        assert machine.wait_off().reason == ending
        machine.world.stop_libvirt()
        machine.world.start_libvirt()
        machine.connection = reconnect(machine.world.hypervisor)
        assert machine.now().reason == "unknown"
        assert machine.connection.last_words(machine.id).reason == ending

    @pytest.mark.parametrize("ending", ["shutdown", "crashed"])
    def test_a_stop_while_libvirt_is_away(self, machine: Machine, watched: Recorder, ending: str) -> None:
        machine.define().start()
        machine.world.stop_libvirt()
        (machine.world.guest_powers_off if ending == "shutdown" else machine.world.kill_qemu)(machine.id)
        machine.world.start_libvirt()
        machine.connection = reconnect(machine.world.hypervisor)
        assert machine.wait_off().reason == ending
        assert machine.connection.last_words(machine.id).reason == ending
        watched.wait(lambda: watched.connected == 2, "reconnect")
        assert watched.details(machine.id, EventKind.SHUTDOWN) == []

    def test_networks(self, world: World, connection: Connection) -> None:
        assert connection.network("nowhere") is None
        assert connection.leases("nowhere") == frozenset()
        own = world.make_network("here")
        found = connection.network("here")
        assert found is not None
        assert (found.name, found.active, found.forward, found.kept) == ("here", True, "open", None)
        assert [(each.interface, each.serves) for each in found.subnets] == [(own, True)]
        assert connection.leases("here") == frozenset()

    def test_a_network_that_does_not_run(self, world: World, connection: Connection) -> None:
        world.make_network("there", kept=True)
        world.stop_network("there")
        found = connection.network("there")
        assert found is not None
        assert (found.active, found.reservations, found.kept) == (False, frozenset(), frozenset())
        assert connection.leases("there") == frozenset()

    @pytest.mark.parametrize("kept", [False, True])
    def test_reservations(self, world: World, connection: Connection, kept: bool) -> None:
        address = world.make_network("here", kept=kept).ip + 7
        for _ in range(2):
            connection.reserve("here", MAC, address)
        assert _held(connection, "here") == {(MAC, address)}
        with pytest.raises(HypervisorError):
            connection.reserve("here", OTHER_MAC, address)
        connection.unreserve("here", OTHER_MAC, address)
        assert _held(connection, "here") == {(MAC, address)}, "only what is meant goes"
        for _ in range(2):
            connection.unreserve("here", MAC, address)
        assert _held(connection, "here") == set()
        connection.unreserve("nowhere", MAC, address)
        with pytest.raises(HypervisorError):
            connection.reserve("nowhere", MAC, address)

    def test_a_reservation_stays_with_a_network_that_is_kept(self, world: World, connection: Connection) -> None:
        address = world.make_network("here", kept=True).ip + 7
        connection.reserve("here", MAC, address)
        world.stop_network("here")
        found = connection.network("here")
        assert found is not None
        assert not found.active
        assert {(each.client, each.address) for each in found.all_reservations} == {(MAC, address)}
        connection.unreserve("here", MAC, address)
        assert _held(connection, "here") == set()

    @pytest.mark.parametrize("name", filter_rules.NAMES)
    def test_a_filter_is_there_however_often_it_is_asked_for(self, machine: Machine, name: str) -> None:
        machine.world.make_network("here")
        machine.define().start()
        with pytest.raises(HypervisorError):
            machine.connection.attach_device(machine.id, FILTERED.format(name="nowhere"))
        for _ in range(2):
            machine.connection.have_filter(name)
        assert machine.id not in machine.connection.filter_bindings().values()
        machine.connection.attach_device(machine.id, FILTERED.format(name=name))
        assert name in machine.now().live_xml
        assert machine.id in machine.connection.filter_bindings().values()
        machine.connection.destroy(machine.id)
        machine.wait_off()
        assert machine.id not in machine.connection.filter_bindings().values(), "the rules go with the guest"
        machine.connection.drop_filter_binding("nowhere")

    def test_the_offer_is_enough_for_a_machine(self, connection: Connection) -> None:
        offer = connection.offer()
        assert offer.architecture == "x86_64"
        assert offer.machine_type in offer.machine_types
        assert "qemu" in offer.domain_types
        assert {"maximum", "custom"} <= offer.cpu_modes["qemu"]
        assert "qemu64" in offer.cpu_models["qemu"]
        assert offer.emulator
        assert any(not firmware.secure_boot for firmware in offer.firmware)

    def _ended(self, machine: Machine, watched: Recorder, shutdown: str, stopped: str, reason: str) -> None:
        """The three traces of a stop: events, the state's reason, the log."""
        snapshot = machine.wait_off()
        assert (snapshot.state, snapshot.reason) == (DomainState.OFF, reason)
        watched.wait_for(machine.id, EventKind.STOPPED)
        told = watched.details(machine.id, EventKind.SHUTDOWN, EventKind.STOPPED)
        if stopped in ("saved", "crashed"):
            # QEMU 10 may say too that the host shut it down, for libvirt ends it then: the word must tell without that.
            told = [each for each in told if each != (EventKind.SHUTDOWN, "host")]
        before = [(EventKind.SHUTDOWN, shutdown)] if shutdown else []
        assert told == [*before, (EventKind.STOPPED, stopped)], told
        assert machine.connection.last_words(machine.id).reason == reason

    def test_a_console(self, world: World, machine: Machine) -> None:
        seat = Seat(world, machine)
        with pytest.raises(NoConsole):
            seat.sit_down()
        seat.boot()
        console = seat.sit_down()
        seat.talk(console)
        with pytest.raises(ConsoleHeld):
            seat.sit_down()
        other = seat.sit_down(take_over=True)
        with pytest.raises(ConsoleLost):
            seat.hear(console)
        console.close()
        seat.talk(other)
        other.close()
        other.close()
        last = seat.sit_down()
        seat.talk(last)  # who has closed it has given it up
        seat.end(last)
        last.close()
        machine.wait_off()
        with pytest.raises(NoConsole):
            seat.sit_down()

    def test_a_guest_may_end_while_somebody_types(self, world: World, machine: Machine) -> None:
        """What is typed then is lost, and nothing else: libvirt answers on."""
        seat = Seat(world, machine)
        for _ in range(5):
            seat.boot()
            console = seat.sit_down()
            seat.talk(console)
            world.kill_qemu(machine.id)
            end = time.monotonic() + DEADLINE
            with suppress(ConsoleLost):
                while console.write(b"?") and time.monotonic() < end:
                    pass
            assert time.monotonic() < end, "it is typed at a guest that has ended"
            console.close()
            machine.wait_off()

    def test_a_console_is_lost_with_libvirt(self, world: World, machine: Machine) -> None:
        seat = Seat(world, machine)
        seat.boot()
        console = seat.sit_down()
        seat.talk(console)
        world.stop_libvirt()
        try:
            with pytest.raises(ConsoleLost):
                seat.hear(console)
            with pytest.raises(Unreachable):
                seat.sit_down()
        finally:
            world.start_libvirt()
        console.close()
        seat.talk(seat.sit_down())

    def test_a_device_is_plugged_into_the_live_domain_alone(
        self, world: World, machine: Machine, watched: Recorder
    ) -> None:
        machine.define().start()
        machine.connection.attach_device(machine.id, world.device("ua-vol-a-1"))
        watched.wait_for(machine.id, EventKind.DEVICE_ADDED)
        assert watched.details(machine.id, EventKind.DEVICE_ADDED) == [(EventKind.DEVICE_ADDED, "ua-vol-a-1")]
        assert "ua-vol-a-1" in machine.now().live_xml
        assert "ua-vol-a-1" not in machine.now().persistent_xml
        with pytest.raises(HypervisorError):
            machine.connection.attach_device(machine.id, world.device("ua-vol-a-1"))

    def test_an_unplug_that_the_guest_ignores_is_completed_by_its_reset(
        self, world: World, machine: Machine, watched: Recorder
    ) -> None:
        machine.define().start()
        machine.connection.attach_device(machine.id, world.device("ua-vol-a-1"))
        machine.connection.detach_device(machine.id, "ua-vol-a-1")
        machine.connection.detach_device(machine.id, "ua-vol-a-1")
        assert "ua-vol-a-1" in machine.now().live_xml
        world.reset(machine.id)
        watched.wait_for(machine.id, EventKind.DEVICE_REMOVED)
        assert watched.details(machine.id, EventKind.DEVICE_REMOVED) == [(EventKind.DEVICE_REMOVED, "ua-vol-a-1")]
        assert "ua-vol-a-1" not in machine.now().live_xml
        machine.connection.attach_device(machine.id, world.device("ua-vol-a-1"))
        assert "ua-vol-a-1" in machine.now().live_xml

    def test_what_is_not_there_needs_no_unplug_and_takes_no_device(self, world: World, machine: Machine) -> None:
        machine.connection.detach_device(machine.id, "ua-vol-a-1")
        machine.define()
        machine.connection.detach_device(machine.id, "ua-vol-a-1")
        with pytest.raises(HypervisorError):
            machine.connection.attach_device(machine.id, world.device("ua-vol-a-1"))
        machine.start()
        machine.connection.detach_device(machine.id, "ua-vol-a-1")

    def test_a_disk_without_room_pauses_its_guest_until_there_is_some(
        self, world: World, machine: Machine, watched: Recorder
    ) -> None:
        machine.define(cramped=True).start()
        assert machine.connection.disk_errors(machine.id) == {}
        world.write(machine.id)
        for pauses in (1, 2, 3):
            watched.wait(lambda n=pauses: len(watched.details(machine.id, EventKind.SUSPENDED)) == n, "pause")  # type: ignore[misc]
            assert (machine.now().state, machine.now().reason) == (DomainState.PAUSED, "io error")
            assert machine.connection.disk_errors(machine.id) == {"sda": DiskError.NO_SPACE}
            if pauses == 3:
                world.make_room(machine.id)
            machine.connection.resume(machine.id)
        world.wait_until_up(machine.id)
        assert machine.now().state is DomainState.RUNNING
        told = watched.details(machine.id, EventKind.NO_SPACE, EventKind.IO_ERROR)
        assert told == [(EventKind.NO_SPACE, "ua-boot")] * 3

    def test_a_disk_grows_with_its_storage_and_is_never_cut(self, world: World, machine: Machine) -> None:
        machine.define()
        machine.connection.resize_disk(machine.id, "sda", 1 << 30)  # it is off
        machine.start()
        machine.connection.attach_device(machine.id, world.device("ua-vol-a-1"))
        world.grow_backend("ua-vol-a-1", 1 << 20)
        for size in (1 << 20, 1 << 20, (1 << 20) - 512, 512, 0):
            machine.connection.resize_disk(machine.id, "vdb", size)
            assert world.disk_bytes(machine.id, "vdb") == 1 << 20
        with pytest.raises(HypervisorError) as refused:
            machine.connection.resize_disk(machine.id, "vdz", 1 << 20)
        assert not isinstance(refused.value, Unreachable)

    @pytest.mark.parametrize("usage", SecretUsage)
    def test_a_secret_is_known_by_its_mark_until_it_is_dropped(
        self, connection: Connection, usage: SecretUsage
    ) -> None:
        secret = Secret(str(uuid.uuid4()), usage, INSTANCE)
        connection.drop_secret(secret.uuid, INSTANCE)
        for value in (b"one", b"\0\xff another"):
            connection.set_secret(secret, value)
            assert connection.secret_ids()[secret.uuid] == INSTANCE
        connection.drop_secret(secret.uuid, OTHERS)
        assert secret.uuid in connection.secret_ids()
        for _ in range(2):
            connection.drop_secret(secret.uuid, INSTANCE)
            assert secret.uuid not in connection.secret_ids()

    def test_a_secret_of_another_store_is_let_be(self, connection: Connection) -> None:
        theirs = passphrase(OTHERS)
        connection.set_secret(theirs, PASSPHRASE)
        with pytest.raises(HypervisorError) as refused:
            connection.set_secret(Secret(theirs.uuid, theirs.usage, INSTANCE), b"planted")
        assert "planted" not in str(refused.value)
        assert connection.secret_ids()[theirs.uuid] == OTHERS
        connection.drop_secret(theirs.uuid, OTHERS)

    def test_an_empty_secret_is_refused(self, connection: Connection) -> None:
        secret = passphrase()
        with pytest.raises(HypervisorError) as refused:
            connection.set_secret(secret, b"")
        assert not isinstance(refused.value, Unreachable)
        connection.drop_secret(secret.uuid, INSTANCE)

    def test_a_plug_needs_the_secret_and_what_is_plugged_does_not(self, world: World, machine: Machine) -> None:
        secret = passphrase()
        device = world.device("ua-vol-a-1", secret.uuid)
        machine.define().start()
        refused_for_want_of(secret, lambda: machine.connection.attach_device(machine.id, device))
        assert "ua-vol-a-1" not in machine.now().live_xml
        machine.connection.set_secret(secret, b"not this one")
        machine.connection.set_secret(secret, PASSPHRASE)
        machine.connection.attach_device(machine.id, device)
        machine.connection.drop_secret(secret.uuid, INSTANCE)
        world.reset(machine.id)
        assert "ua-vol-a-1" in machine.now().live_xml
        assert machine.now().state is DomainState.RUNNING

    def test_a_start_and_a_restore_need_the_secret(self, world: World, machine: Machine) -> None:
        secret = passphrase()
        machine.define(device=world.device("ua-vol-a-1", secret.uuid))
        refused_for_want_of(secret, lambda: machine.connection.start(machine.id))
        machine.connection.set_secret(secret, PASSPHRASE)
        machine.start()
        machine.connection.drop_secret(secret.uuid, INSTANCE)
        world.save(machine.id)
        refused_for_want_of(secret, lambda: machine.connection.start(machine.id))
        assert machine.now().managed_save
        machine.connection.set_secret(secret, PASSPHRASE)
        assert machine.connection.start(machine.id) is True
        machine.connection.drop_secret(secret.uuid, INSTANCE)

    def test_a_secret_of_another_usage_opens_nothing(self, world: World, machine: Machine) -> None:
        secret = Secret(str(uuid.uuid4()), SecretUsage.CEPH, INSTANCE)
        machine.define().start()
        machine.connection.set_secret(secret, PASSPHRASE)
        with pytest.raises(HypervisorError) as refused:
            machine.connection.attach_device(machine.id, world.device("ua-vol-a-1", secret.uuid))
        assert not isinstance(refused.value, Unreachable)
        machine.connection.drop_secret(secret.uuid, INSTANCE)

    def test_secrets_end_with_the_daemon(self, world: World, connection: Connection) -> None:
        secret = passphrase()
        connection.set_secret(secret, PASSPHRASE)
        world.stop_libvirt()
        world.start_libvirt()
        assert secret.uuid not in reconnect(world.hypervisor).secret_ids()


def _held(connection: Connection, network: str) -> set[tuple[str, Address]]:
    """What a network has reserved, the same wherever it is looked for."""
    found = connection.network(network)
    assert found is not None
    held = {(each.client, each.address) for each in found.all_reservations}
    assert all(found.has(*each) for each in held) or not found.active
    return held
