"""The watcher never ends silently, whatever its connection, a callback or its listener does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import libvirt
import pytest

from sri_libvirt.errors import Unreachable
from sri_libvirt.hypervisor import events
from sri_libvirt.hypervisor.base import DomainEvent, EventKind
from sri_libvirt.hypervisor.events import Watcher
from tests.contract.hypervisor.suite import Recorder


class Domain:
    def UUIDString(self) -> str:  # noqa: N802 (libvirt's name)
        return "some-id"


class Wire:
    """A virConnect as far as the watcher uses it."""

    def __init__(self) -> None:
        self.alive = True
        self.closed = False
        self.network_callback: Callable[..., None] | None = None
        self.network_error: libvirt.libvirtError | None = None
        self.callbacks: dict[int, Callable[..., None]] = {}
        self.close_callback: Callable[..., None] | None = None

    def registerCloseCallback(self, callback: Callable[..., None], _: Any) -> None:  # noqa: N802
        self.close_callback = callback

    def unregisterCloseCallback(self) -> None:  # noqa: N802
        self.close_callback = None

    def domainEventRegisterAny(self, _dom: Any, event: int, callback: Callable[..., None], _: Any) -> int:  # noqa: N802
        self.callbacks[event] = callback
        return event

    def domainEventDeregisterAny(self, number: int) -> None:  # noqa: N802
        del self.callbacks[number]

    def networkEventRegisterAny(self, _net: Any, _event: int, callback: Callable[..., None], _: Any) -> int:  # noqa: N802
        if self.network_error:
            raise self.network_error
        self.network_callback = callback
        return 0

    def networkEventDeregisterAny(self, _number: int) -> None:  # noqa: N802
        self.network_callback = None

    def isAlive(self) -> bool:  # noqa: N802
        return self.alive

    def close(self) -> None:
        self.closed = True

    def emit(self, event: int, *details: Any) -> None:
        self.callbacks[event](self, Domain(), *details, None)


class Line:
    """Connects to one wire after the other; None stands for a failure."""

    def __init__(self, *wires: Wire | Exception) -> None:
        self.wires = list(wires)

    def __call__(self) -> Wire:
        wire = self.wires.pop(0)
        if isinstance(wire, Exception):
            raise wire
        return wire


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "BACK_OFF_SECONDS", (0.001,))
    monkeypatch.setattr(events, "LOOK_SECONDS", 0.005)


@pytest.fixture
def watch() -> Iterator[Callable[..., Recorder]]:
    stops: list[Callable[[], None]] = []

    def start(line: Line, recorder: Recorder | None = None) -> Recorder:
        recorder = recorder or Recorder()
        watcher = Watcher(line, recorder)
        stops.append(watcher.stop)
        watcher.start()
        return recorder

    yield start
    for stop in stops:
        stop()


def test_events_in_our_words(watch: Callable[..., Recorder]) -> None:
    wire = Wire()
    recorder = watch(Line(wire))
    recorder.wait(lambda: recorder.connected, "connection")
    lifecycle = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE
    wire.emit(lifecycle, libvirt.VIR_DOMAIN_EVENT_SHUTDOWN, libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_HOST)
    wire.emit(lifecycle, libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STARTED_BOOTED)
    wire.emit(lifecycle, 99, 0)  # of a newer libvirt
    wire.emit(libvirt.VIR_DOMAIN_EVENT_ID_REBOOT)
    io_error, paused = libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON, libvirt.VIR_DOMAIN_EVENT_IO_ERROR_PAUSE
    wire.emit(io_error, "/disk", "ua-vol-1", paused, "")
    wire.emit(io_error, "/disk", "ua-vol-2", paused, "enospc")
    for told_to_the_guest in (libvirt.VIR_DOMAIN_EVENT_IO_ERROR_NONE, libvirt.VIR_DOMAIN_EVENT_IO_ERROR_REPORT):
        wire.emit(io_error, "/disk", "ua-vol-1", told_to_the_guest, "enospc")
    wire.emit(libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, "vda", 4, 0)
    wire.emit(libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, "ua-vol-1")
    wire.emit(libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, "ua-vol-1")
    assert recorder.events == [
        DomainEvent("some-id", EventKind.SHUTDOWN, "host"),
        DomainEvent("some-id", EventKind.STARTED),
        DomainEvent("some-id", EventKind.REBOOT),
        DomainEvent("some-id", EventKind.IO_ERROR, "ua-vol-1"),
        DomainEvent("some-id", EventKind.NO_SPACE, "ua-vol-2"),
        DomainEvent("some-id", EventKind.BLOCK_JOB),
        DomainEvent("some-id", EventKind.DEVICE_ADDED, "ua-vol-1"),
        DomainEvent("some-id", EventKind.DEVICE_REMOVED, "ua-vol-1"),
    ]


class Network:
    def name(self) -> str:
        return "lan"


def test_a_network_that_comes_or_goes(watch: Callable[..., Recorder]) -> None:
    wire = Wire()
    recorder = watch(Line(wire))
    recorder.wait(lambda: recorder.connected, "connection")
    assert wire.network_callback is not None
    wire.network_callback(wire, Network(), libvirt.VIR_NETWORK_EVENT_STARTED, 0, None)
    assert recorder.networks == ["lan"]


def test_domains_are_watched_where_networks_cannot_be(watch: Callable[..., Recorder]) -> None:
    wire = Wire()
    wire.network_error = libvirt.libvirtError("virtnetworkd is away")
    recorder = watch(Line(wire))
    recorder.wait(lambda: recorder.connected, "connection")
    wire.emit(libvirt.VIR_DOMAIN_EVENT_ID_REBOOT)
    assert recorder.events
    assert recorder.disconnected == []


def test_a_close_callback_brings_a_new_connection(watch: Callable[..., Recorder]) -> None:
    first, second = Wire(), Wire()
    recorder = watch(Line(first, second))
    recorder.wait(lambda: recorder.connected == 1, "connection")
    assert first.close_callback is not None
    first.close_callback(first, libvirt.VIR_CONNECT_CLOSE_REASON_KEEPALIVE, None)
    recorder.wait(lambda: recorder.connected == 2, "reconnect")
    assert recorder.disconnected == ["libvirt did not answer keepalive messages"]
    assert first.closed
    assert not first.callbacks
    assert second.callbacks


def test_a_connection_that_dies_without_a_word_is_noticed(watch: Callable[..., Recorder]) -> None:
    first = Wire()
    recorder = watch(Line(first, Wire()))
    recorder.wait(lambda: recorder.connected == 1, "connection")
    first.alive = False
    recorder.wait(lambda: recorder.connected == 2, "reconnect")


def test_a_libvirt_that_is_absent_is_told_once_and_tried_again(watch: Callable[..., Recorder]) -> None:
    recorder = watch(Line(Unreachable("no socket"), Unreachable("no socket"), RuntimeError("a bug"), Wire()))
    recorder.wait(lambda: recorder.connected == 1, "connection")
    assert recorder.disconnected == ["no socket"]


def test_a_listener_that_raises_is_told_the_next_event(watch: Callable[..., Recorder]) -> None:
    class Raising(Recorder):
        def on_event(self, event: DomainEvent) -> None:
            super().on_event(event)
            raise RuntimeError("a bug")

    wire = Wire()
    recorder = watch(Line(wire), Raising())
    recorder.wait(lambda: recorder.connected, "connection")
    wire.emit(libvirt.VIR_DOMAIN_EVENT_ID_REBOOT)
    wire.emit(libvirt.VIR_DOMAIN_EVENT_ID_REBOOT)
    assert len(recorder.events) == 2


def test_an_event_that_cannot_be_read_does_not_reach_libvirts_thread(watch: Callable[..., Recorder]) -> None:
    wire = Wire()
    recorder = watch(Line(wire))
    recorder.wait(lambda: recorder.connected, "connection")
    wire.callbacks[libvirt.VIR_DOMAIN_EVENT_ID_REBOOT](wire, "no domain", None)
    wire.emit(libvirt.VIR_DOMAIN_EVENT_ID_REBOOT)
    assert len(recorder.events) == 1


def test_after_stop_nothing_is_told() -> None:
    wire, recorder = Wire(), Recorder()
    watcher = Watcher(Line(wire), recorder)
    watcher.start()
    recorder.wait(lambda: recorder.connected, "connection")
    emit = wire.callbacks[libvirt.VIR_DOMAIN_EVENT_ID_REBOOT]
    watcher.stop()
    emit(wire, Domain(), None)
    assert recorder.events == []
    assert recorder.disconnected == []
    assert wire.closed
