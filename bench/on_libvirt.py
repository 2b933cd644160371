"""What needs guests: how much the provider adds to the bare calls of libvirt, on real QEMU in a private libvirtd.

Guests have no image: their firmware runs, which is enough to be started, seen and ended. Hot-plug needs a guest that
answers: the tests' tiny one. What needs no guest does not belong here.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import libvirt

from bench.client import Provider, machine_request, until
from bench.table import Figure, Report, median
from sri_libvirt import names
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.hypervisor.base import DomainEvent, EventKind
from sri_libvirt.hypervisor.libvirt import LibvirtHypervisor
from tests import guest
from tests.e2e.libvirtd import PrivateLibvirt

ROUNDS = 9
PLUGS = 9
ASK_EVERY = 0.002
"""Seconds between two questions; without a pause they take the CPU from what is asked about."""


@dataclass
class Watch:
    """When this process heard of which event, in seconds of the monotonic clock."""

    heard: dict[tuple[str, EventKind, str], float] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def on_connected(self) -> None:
        pass

    def on_disconnected(self, reason: str) -> None:
        raise RuntimeError(f"libvirt was lost: {reason}")

    def on_network(self, name: str) -> None:
        pass

    def on_event(self, event: DomainEvent) -> None:
        now = time.perf_counter()
        alias = event.detail if event.kind in (EventKind.DEVICE_ADDED, EventKind.DEVICE_REMOVED) else ""
        with self.changed:
            self.heard[event.machine_id, event.kind, alias] = now
            self.changed.notify_all()

    def wait(self, machine_id: str, kind: EventKind, alias: str = "") -> float:
        """When the event came that comes next, or came since it was forgotten."""
        with self.changed:
            if not self.changed.wait_for(lambda: (machine_id, kind, alias) in self.heard, 60):
                raise RuntimeError(f"no event {kind} {alias} of {machine_id}")
            return self.heard.pop((machine_id, kind, alias))

    def forget(self) -> None:
        with self.changed:
            self.heard.clear()


@dataclass
class Times:
    """Milliseconds of each round."""

    create: list[float] = field(default_factory=list)
    bare_start: list[float] = field(default_factory=list)
    seen: list[float] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    delete: list[float] = field(default_factory=list)
    bare_end: list[float] = field(default_factory=list)


@dataclass
class World:
    """A provider on a private libvirt, a connection beside it, and what is heard there."""

    served: Provider
    connection: libvirt.virConnect
    watch: Watch

    def shown(self, machine_id: str, state: str) -> float:
        """When the list showed a state, asked for without a pause."""
        until(f"{state} of {machine_id}", lambda: self.served.state(machine_id) == state, ASK_EVERY)
        return time.perf_counter()


def measure(report: Report, *, quick: bool) -> None:
    """All figures on real QEMU."""
    with PrivateLibvirt() as private, _world(private) as world:
        times = Times()
        for _ in range(2 if quick else ROUNDS):
            _round(world, times)
        _report_life(report, times, _actions(world.served))
        try:
            _plug(world, report, 2 if quick else PLUGS)
        except RuntimeError as error:  # what was waited for in vain; the other figures stand
            report.missing["attach and detach"] = str(error)


@contextmanager
def _world(private: PrivateLibvirt) -> Iterator[World]:
    root = private.directory("bench")
    images = root / "images"
    images.mkdir(mode=0o755)
    command = [
        sys.executable, "-m", "sri_libvirt", "serve", "--address", f"unix://{root}/sri.sock", "--state-dir",
        str(root / "state"), "--image-dir", str(images), "--domain-type", "qemu", "--log-format", "json",
        "--shutdown-grace", "100ms", "--detach-settle", "0s",
        "--cpu-overcommit", "100", "--disk-overcommit", "1000", "--reserved-memory", "0",
    ]  # fmt: skip
    served = Provider(root, command, private.popen)
    watch = Watch()
    stop = LibvirtHypervisor(private.uri).watch(watch)
    connection = libvirt.open(private.uri)
    try:
        yield World(served, connection, watch)
    finally:
        connection.close()
        stop()
        served.stop()
        private.remove_domains()


def _round(world: World, times: Times) -> None:
    """One machine's life, with the bare calls for the same XML in the middle of it."""
    served, watch = world.served, world.watch
    watch.forget()
    begun = time.perf_counter()
    machine_id = served.create()
    started = watch.wait(machine_id, EventKind.STARTED)
    times.create.append((started - begun) * 1000)
    times.seen.append((world.shown(machine_id, "RUNNING") - started) * 1000)
    times.asked.append(_milliseconds(lambda: served.state(machine_id)))
    xml = world.connection.lookupByUUIDString(machine_id).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    served.power(machine_id, pb.POWER_OFF)
    stopped = watch.wait(machine_id, EventKind.STOPPED)
    times.seen.append((world.shown(machine_id, "SUSPENDED") - stopped) * 1000)
    _bare(world, xml.replace(machine_id, other := str(uuid.uuid4())), other, times)
    served.power(machine_id, pb.POWER_ON)
    started = watch.wait(machine_id, EventKind.STARTED)
    times.seen.append((world.shown(machine_id, "RUNNING") - started) * 1000)
    served.delete(machine_id)
    stopped = watch.wait(machine_id, EventKind.STOPPED)
    times.delete.append((world.shown(machine_id, "GONE") - stopped) * 1000)


def _bare(world: World, xml: str, machine_id: str, times: Times) -> None:
    """Define and start, destroy and undefine, without a provider; in a directory as the provider makes one."""
    directory = world.served.root / "state" / "machines" / machine_id
    directory.mkdir(mode=0o711)
    begun = time.perf_counter()
    domain = world.connection.defineXML(xml)
    domain.create()
    times.bare_start.append((world.watch.wait(machine_id, EventKind.STARTED) - begun) * 1000)
    domain.destroy()
    stopped = world.watch.wait(machine_id, EventKind.STOPPED)
    domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
    shutil.rmtree(directory)
    times.bare_end.append((time.perf_counter() - stopped) * 1000)


def _actions(served: Provider) -> str:
    """The medians of the loop's actions so far, by its own log."""
    taken: defaultdict[str, list[float]] = defaultdict(list)
    for line in (served.root / "provider.log").read_text().splitlines():
        entry = json.loads(line) if line.startswith("{") else {}
        if entry.get("event") == "action done":
            taken[entry["action"]].append(entry["seconds"] * 1000)
    return ", ".join(f"{action} {median(times):.0f} ms" for action, times in taken.items())


def _report_life(report: Report, times: Times, actions: str) -> None:
    bare = median(times.bare_start)
    report.figures += [
        Figure(
            name="create to STARTED, over the bare calls",
            unit="ms more",
            value=median(times.create) - bare,
            goal=min(25.0, bare * 0.05),
            peer="1.05 to 1.16 times",
            alternative="ms for bare define and start of the same XML",
            alternative_value=bare,
            on="libvirt",
            note=f"{median(times.create):.0f} ms, {median(times.create) / bare:.3f} times; medians of "
            f"{len(times.create)}, in turn with the bare calls; the loop's actions: {actions}",
        ),
        Figure(
            name="libvirt's event to its state in the list",
            unit="ms",
            value=median(times.seen),
            goal=10,
            peer="13 ms",
            p99=max(times.seen),
            alternative="ms for asking alone",
            alternative_value=median(times.asked),
            on="libvirt",
            note=f"{len(times.seen)} starts and stops, each asked for every {ASK_EVERY * 1000:.0f} ms",
        ),
        Figure(
            name="delete: STOPPED to gone from the list",
            unit="ms",
            value=median(times.delete),
            goal=50,
            peer="66 to 111 s",
            alternative="ms for bare undefine and removing the directory",
            alternative_value=median(times.bare_end),
            on="libvirt",
            note=f"medians of {len(times.delete)}",
        ),
    ]


def _plug(world: World, report: Report, plugs: int) -> None:
    """A disk into a guest that answers, and out again: through the provider, and with the bare calls."""
    served, watch = world.served, world.watch
    machine_id = _boot(world)
    served.attach(machine_id, "stays", "oda")  # a guest that loses its last disk keeps it plugged for a while
    until("the first disk", lambda: _volumes(served, machine_id).get("stays") == pb.VOLUME_ATTACHED)
    domain = world.connection.lookupByUUIDString(machine_id)
    ours: tuple[list[float], list[float]] = [], []
    bare: tuple[list[float], list[float]] = [], []
    for number in range(plugs):
        name = f"disk{number}"
        begun = time.perf_counter()
        served.attach(machine_id, name, "odb")
        until("the disk attached", lambda: _volumes(served, machine_id).get(name) == pb.VOLUME_ATTACHED, ASK_EVERY)  # noqa: B023
        ours[0].append((time.perf_counter() - begun) * 1000)
        alias = names.alias("volume", name, 1)
        xml = _disk(domain, alias)
        watch.forget()
        begun = time.perf_counter()
        served.detach(machine_id, name)
        ours[1].append((watch.wait(machine_id, EventKind.DEVICE_REMOVED, alias) - begun) * 1000)
        _bare_plug(world, domain, xml, alias, bare)
    for name, mine, raw, goal, peer in (
        ("attach to ATTACHED, over the bare call", ours[0], bare[0], 10.0, "+ 18 ms"),
        ("detach to gone from the guest, over the bare call", ours[1], bare[1], 15.0, "+ 22 ms"),
    ):
        report.figures.append(
            Figure(
                name=name,
                unit="ms more",
                value=median(mine) - median(raw),
                goal=goal,
                peer=peer,
                alternative="ms for the bare call with the same XML",
                alternative_value=median(raw),
                on="libvirt",
                note=f"{median(mine):.0f} ms; medians of {len(mine)}, settle time 0, a guest that answers",
            )
        )
    served.delete(machine_id)
    until("the guest gone", lambda: served.find(machine_id) is None, 0.05)


def _boot(world: World) -> str:
    """The tiny guest, up."""
    served = world.served
    image = served.root / "images" / "tiny.raw"
    shutil.copyfile(guest.image(), image)
    image.chmod(0o444)
    request = machine_request()
    request.machine.spec.image.image = f"file://{image}"
    machine_id = served.create(request)
    console = served.root / "state" / "machines" / machine_id / "console.log"
    until("the guest up", lambda: console.exists() and b"tiny: up" in console.read_bytes(), 0.1)
    return machine_id


def _volumes(served: Provider, machine_id: str) -> dict[str, int]:
    machine = served.find(machine_id)
    return {volume.name: volume.state for volume in machine.status.volumes} if machine else {}


def _disk(domain: libvirt.virDomain, alias: str) -> str:
    """The live XML of the disk with this alias."""
    xml: str = domain.XMLDesc(0)
    disks = ["<disk" + part.partition("</disk>")[0] + "</disk>" for part in xml.split("<disk")[1:]]
    return next(each for each in disks if alias in each)


def _bare_plug(
    world: World, domain: libvirt.virDomain, xml: str, alias: str, times: tuple[list[float], list[float]]
) -> None:
    machine_id = domain.UUIDString()
    other = alias.replace("ua-vol-", "ua-bare-")
    begun = time.perf_counter()
    domain.attachDeviceFlags(xml.replace(alias, other), libvirt.VIR_DOMAIN_AFFECT_LIVE)
    times[0].append((time.perf_counter() - begun) * 1000)
    world.watch.forget()
    begun = time.perf_counter()
    domain.detachDeviceAlias(other, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    times[1].append((world.watch.wait(machine_id, EventKind.DEVICE_REMOVED, other) - begun) * 1000)


def _milliseconds(act: Callable[[], object]) -> float:
    begun = time.perf_counter()
    act()
    return (time.perf_counter() - begun) * 1000
