"""What needs no guest: lists, intents, start, idling, memory and a burst of creates, on the fake hypervisor.

The provider is whole and a process of its own; only libvirt is not there. Real guests do not belong here.
"""

from __future__ import annotations

import mmap
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from bench.client import MIB, Provider, machine_request, milliseconds, until
from bench.table import Figure, Report, median, p99
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.capacity import ladder
from sri_libvirt.paths import StatePaths
from sri_libvirt.server import bounds, intents
from sri_libvirt.store import Reader, Store, frames

THOUSAND = 1000
LISTS = 300
WRITES = 200
BURST = 100
STARTS = 5
IDLE_SECONDS = 61.0
"""One periodic resync is always in it (`fake_provider.RESYNC_SECONDS`)."""

AT_REST = 0.03
"""Seconds of CPU in a second, at most, of a provider that has looked at all machines after its start."""


def busy(root: Path, report: Report, *, quick: bool) -> None:
    """Figures of a provider that has something to do. `quick` measures less of each, for a look whether it works."""
    few = 10 if quick else 1
    live = root / "live"
    live.mkdir(exist_ok=True)
    with provider(live) as served:
        _populate(served, THOUSAND // few)
        _lists(served, report, f"list of {THOUSAND // few}", LISTS // few, goal=3, p99_goal=6, peer="37")
        _list_cpu(served, report, LISTS // few)
        _writes(served, report, WRITES // few)
        _burst(served, report, BURST // few)


def start(root: Path, report: Report, *, quick: bool) -> None:
    """Figures of a provider that starts with many live machines."""
    live = _living(root, quick=quick)
    starts = []
    for _ in range(STARTS):
        with provider(live) as served:
            starts.append(served.first_list)
    with provider(live) as served:
        _start(live, served, report, [*starts, served.first_list])
        until("the provider at rest", lambda: _used(served, 1.0) < AT_REST)
        _memory(served, report)


def idle(root: Path, report: Report, *, quick: bool) -> None:
    """Figures of a provider that has nothing to do."""
    live = _living(root, quick=quick)
    with provider(live) as served:
        until("the provider at rest", lambda: _used(served, 1.0) < AT_REST)
        _idle(served, report, IDLE_SECONDS / (10 if quick else 1))


def many(root: Path, report: Report, *, quick: bool) -> None:
    """The list of ten thousand machines."""
    few = 10 if quick else 1
    many = root / "many"
    many.mkdir()
    _seed(many, 10 * THOUSAND // few)
    with provider(many) as served:
        _lists(served, report, f"list of {10 * THOUSAND // few}", LISTS // few // 3, goal=30, peer="341")


@contextmanager
def provider(root: Path, *registries: str) -> Iterator[Provider]:
    """A provider below `root`, ended in order. It asks these registries by plain http."""
    argv = [sys.executable, "-m", "bench.fake_provider", str(root), *registries]
    served = Provider(root, argv, subprocess.Popen)
    try:
        yield served
    finally:
        served.stop()


def _living(root: Path, *, quick: bool) -> Path:
    """Where a provider with many live machines has worked, made if there is none."""
    live = root / "live"
    if not live.exists():
        live.mkdir()
        with provider(live) as served:
            _populate(served, THOUSAND // (10 if quick else 1))
    return live


def _populate(served: Provider, machines: int) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: served.create(), range(machines)))
    until("all guests run", lambda: served.running() == machines, 0.1)


def _seed(root: Path, machines: int) -> None:
    """Machines that are off, put into the store as CreateMachine does: ten thousand starts would take too long.

    CreateMachine would stop before so many (`server/bounds.py`): what is measured is the list.
    """
    bounds.CREATE = 2 * bounds.ANNOTATE
    store = Store.open(StatePaths(root / "state"))
    machine_class = ladder.steps()["c1-m1"]
    works = []
    for number in range(machines):
        asked = machine_request(pb.POWER_OFF).machine
        machine_id = f"00000000-0000-4000-8000-{number:012x}"
        draft = intents.Draft(machine_id, dict(asked.metadata.labels), {}, asked.spec, time.time_ns(), time.time_ns())
        works.append(store.submit(lambda tx, draft=draft: intents.create(tx, draft, lambda: machine_class)))  # type: ignore[misc]
    for work in works:
        work.result()
    store.close()


@contextmanager
def _working_loop(served: Provider) -> Iterator[None]:
    """The loop has something to do meanwhile: one machine after the other is switched off and on."""
    ending = threading.Event()
    some = served.machines()[:50]
    ids, on = [machine.metadata.id for machine in some], some[0].spec.power

    def toggle() -> None:
        for number in count():
            power = pb.POWER_OFF if number // len(ids) % 2 else pb.POWER_ON
            served.power(ids[number % len(ids)], power)
            if ending.wait(0.05):
                return

    thread = threading.Thread(target=toggle)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()
        for machine_id in ids:
            served.power(machine_id, on)


def _lists(
    served: Provider, report: Report, name: str, lists: int, *, goal: float, p99_goal: float | None = None, peer: str
) -> None:
    size = len(served.listing())
    machines = len(served.machines())
    with _working_loop(served):
        times = [milliseconds(served.listing) for _ in range(lists)]
    with Reader.open(StatePaths(served.root / "state")) as reader:
        rebuilt = [milliseconds(lambda: _rebuilt(reader)) for _ in range(3)]
    parsing = milliseconds(served.machines) - median(times)
    report.figures.append(
        Figure(
            name=name,
            unit="ms",
            value=median(times),
            goal=goal,
            peer=f"{peer} ms",
            p99=p99(times),
            p99_goal=p99_goal,
            alternative="ms reading SQLite and building it each time",
            alternative_value=median(rebuilt),
            note=f"{machines} machines of {size // machines} bytes, twenty power changes a second meanwhile; "
            f"until the reply's bytes are here, parsing them takes this client {max(parsing, 0):.1f} ms more",
        )
    )


def _rebuilt(reader: Reader) -> bytes:
    reply = pb.ListMachinesResponse(machines=[frames.message(machine) for machine in reader.machines()])
    return bytes(reply.SerializeToString())


def _list_cpu(served: Provider, report: Report, lists: int) -> None:
    def used(act: object, times: int) -> float:
        begun = served.cpu()
        for _ in range(times):
            act()  # type: ignore[operator]
        return (served.cpu() - begun) * 1000 / times

    version = used(lambda: served.stub.Version(pb.VersionRequest()), lists * 3)
    cost = used(served.listing, lists * 3)
    report.figures.append(
        Figure(
            name="server CPU of a list",
            unit="ms",
            value=cost,
            goal=2,
            peer="42 ms",
            alternative="ms for Version, which sends nothing",
            alternative_value=version,
            note=f"{len(served.machines())} machines, at rest, averaged over {lists * 3}",
        )
    )


def _writes(served: Provider, report: Report, times: int) -> None:
    alone = _bare_commits(served.root, times)
    for name, act in _intents(served, times).items():
        report.figures.append(
            Figure(
                name=name,
                unit="ms",
                value=median(act),
                goal=5,
                p99=p99(act),
                p99_goal=20,
                peer="1.7 to 3.4 ms, no fsync",
                alternative="ms for one synced SQLite commit on that disk",
                alternative_value=median(alone),
                note=f"{len(served.machines())} machines in the store; the loop works on each change meanwhile",
            )
        )


def _intents(served: Provider, times: int) -> dict[str, list[float]]:
    ids = [machine.metadata.id for machine in served.machines()[:times]]
    requests = [machine_request() for _ in range(times)]
    made: list[str] = []
    more = pb.Volume(name="more", empty_disk=pb.EmptyDisk(size_bytes=MIB))
    figures = {
        "CreateMachine": [milliseconds(lambda r=r: made.append(served.create(r))) for r in requests],  # type: ignore[misc]
        "AttachVolume": [milliseconds(lambda i=i: served.attach(i, more)) for i in ids],  # type: ignore[misc]
        "DetachVolume": [milliseconds(lambda i=i: served.detach(i, "more")) for i in ids],  # type: ignore[misc]
        "UpdateMachinePower": [milliseconds(lambda i=i: served.power(i, pb.POWER_OFF)) for i in ids],  # type: ignore[misc]
    }
    for machine_id in ids:
        served.power(machine_id, pb.POWER_ON)
    for machine_id in made:
        served.delete(machine_id)
    until("the loop at rest", lambda: len(served.machines()) == served.running(), 0.1)
    return figures


def _bare_commits(root: Path, times: int) -> list[float]:
    path = root / "commits.sqlite"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE t (x)")
    data = os.urandom(1000)
    taken = [milliseconds(lambda: connection.execute("INSERT INTO t VALUES (?)", (data,))) for _ in range(times)]
    connection.close()
    return taken


def _burst(served: Provider, report: Report, creates: int) -> None:
    before = served.running()
    requests = [machine_request() for _ in range(creates)]
    begun = time.perf_counter()
    futures = [served.stub.CreateMachine.future(request) for request in requests]
    ids = [future.result().machine.metadata.id for future in futures]
    replies = (time.perf_counter() - begun) * 1000
    until("all of the burst run", lambda: served.running() == before + creates, 0.05)
    settled = time.perf_counter() - begun - replies / 1000
    again = [machine_request() for _ in range(creates)]
    begun = time.perf_counter()
    ids += [served.create(request) for request in again]
    alone = (time.perf_counter() - begun) * 1000
    report.figures.append(
        Figure(
            name=f"{creates} creates at once, replies",
            unit="ms",
            value=replies,
            goal=208,
            peer="87 to 208 ms, then 68 wake-ups lost",
            alternative="ms for as many one after the other",
            alternative_value=alone,
            note=f"none lost: all {creates} run, the last {settled:.1f} s after the replies",
        )
    )
    for machine_id in ids:
        served.delete(machine_id)
    until("the burst gone", lambda: served.running() == len(served.machines()) == before, 0.1)


def _used(served: Provider, seconds: float) -> float:
    """Seconds of CPU that the provider uses within so many seconds."""
    before = served.cpu()
    time.sleep(seconds)
    return served.cpu() - before


def _start(root: Path, served: Provider, report: Report, starts: list[float]) -> None:
    bare = [
        milliseconds(lambda: subprocess.run([sys.executable, "-c", "import grpc, libvirt, lxml.etree"], check=True))
        for _ in range(3)
    ]
    report.figures.append(
        Figure(
            name="process start to first list",
            unit="s",
            value=median(starts),
            goal=1,
            peer="1.5 s",
            alternative="s for Python with grpc, libvirt and lxml alone",
            alternative_value=median(bare) / 1000,
            p99=max(starts),
            note=f"median of {len(starts)}; {len(served.machines())} live machines; the store's file is "
            f"{StatePaths(root / 'state').database.stat().st_size / (1 << 20):.1f} MiB",
        )
    )


def _memory(served: Provider, report: Report) -> None:
    bare = "import grpc, libvirt, lxml.etree, pathlib; print(pathlib.Path('/proc/self/statm').read_text())"
    pages = subprocess.run([sys.executable, "-c", bare], check=True, capture_output=True, text=True).stdout.split()[1]
    report.figures.append(
        Figure(
            name="memory",
            unit="MiB",
            value=served.usage.memory_info().rss / (1 << 20),
            goal=80,
            peer="53 MiB",
            alternative="MiB for Python with grpc, libvirt and lxml alone",
            alternative_value=int(pages) * mmap.PAGESIZE / (1 << 20),
            note=f"resident, {len(served.machines())} machines; the fake's domains, packed, are in it: about 3 MiB",
        )
    )


def _idle(served: Provider, report: Report, seconds: float) -> None:
    def used(poll: bool) -> float:
        begun, cpu = time.monotonic(), served.cpu()
        while time.monotonic() < begun + seconds:
            if poll:
                served.listing()
            time.sleep(1)
        return (served.cpu() - cpu) / (time.monotonic() - begun) * 100

    unpolled, polled = used(poll=False), used(poll=True)
    report.figures.append(
        Figure(
            name="idle CPU, polled each second",
            unit="% of a core",
            value=polled,
            goal=0.5,
            peer="1.3 %, unpolled",
            alternative="% unpolled",
            alternative_value=unpolled,
            note=f"{len(served.machines())} live machines, over {seconds:.0f} s; a resync and all else that is done "
            f"now and then is {'once in each' if seconds >= IDLE_SECONDS else 'not in them'}; in earnest it comes "
            "every five minutes",
        )
    )
