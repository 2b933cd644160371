"""What needs guests: how much the provider adds to the bare calls of libvirt, on real QEMU in a private libvirtd.

Guests have no image: their firmware runs, which is enough to be started, seen and ended. What needs no guest does not
belong here, nor hot-plug (`plugs.py`, `links.py`), nor images (`images.py`), nor consoles
(`consoles.py`).
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass, field

import libvirt

from bench import consoles, images, links, plugs
from bench.client import Provider, milliseconds
from bench.table import Figure, Report, median
from bench.world import ASK_EVERY, World, world
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.hypervisor.base import EventKind
from tests.e2e.libvirtd import PrivateLibvirt

ROUNDS = 9


@dataclass
class Times:
    """Milliseconds of each round."""

    create: list[float] = field(default_factory=list)
    bare_start: list[float] = field(default_factory=list)
    seen: list[float] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    delete: list[float] = field(default_factory=list)
    bare_end: list[float] = field(default_factory=list)


def measure(report: Report, *, quick: bool) -> None:
    """All figures on real QEMU."""
    rounds = 2 if quick else ROUNDS
    with PrivateLibvirt() as private, world(private) as made:
        times = Times()
        for _ in range(rounds):
            _round(made, times)
        _report_life(report, times, _actions(made.served))
        plugs.measure(made, report, rounds)
        links.measure(made, report, rounds)
        consoles.measure(made, report, rounds)
    with PrivateLibvirt() as private:
        images.measure(private, report, rounds)


def _round(world: World, times: Times) -> None:
    """One machine's life, with the bare calls for the same XML in the middle of it."""
    served, watch = world.served, world.watch
    watch.forget()
    begun = time.perf_counter()
    machine_id = served.create()
    started = watch.wait(machine_id, EventKind.STARTED)
    times.create.append((started - begun) * 1000)
    times.seen.append((world.shown(machine_id, "RUNNING") - started) * 1000)
    times.asked.append(milliseconds(lambda: served.state(machine_id)))
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
