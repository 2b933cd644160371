"""`sri-libvirt top`: what the guests of this host use at the moment."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import click

from sri_libvirt.cli import output as out
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.cli.reading import open_store
from sri_libvirt.cli.top.sampling import Rates, Sample, Sampler
from sri_libvirt.config import Settings
from sri_libvirt.errors import HypervisorError
from sri_libvirt.records import Machine
from sri_libvirt.resources import byte_words
from sri_libvirt.views import show

SECONDS = 2.0
OLD = 3
"""Of how many intervals a sample is called old."""

HEADINGS = ("NAME", "STATE", "CPU", "STEAL", "MEMORY", "OF", "READ/s", "WRITE/s", "RECV/s", "SENT/s", "ID")
SORTS: Mapping[str, Callable[[Machine, Rates], Any]] = {
    "cpu": lambda machine, rates: -(cpu_share(machine, rates) or 0),
    "steal": lambda _, rates: -(rates.steal or 0),
    "memory": lambda _, rates: -(rates.resident or 0),
    "disk": lambda _, rates: -((rates.read or 0) + (rates.written or 0)),
    "network": lambda _, rates: -((rates.received or 0) + (rates.sent or 0)),
    "name": lambda machine, _: show.name(machine),
}
KEYS = {name[0]: name for name in SORTS} | {"n": "network", "a": "name"}


@click.command()
@click.option("-d", "--delay", type=click.FloatRange(min=0.2), default=SECONDS, help="Seconds between two looks.")
@click.option("-b", "--batch", is_flag=True, help="Print table after table, for a pipe; else the screen is drawn anew.")
@click.option("-n", "--times", type=click.IntRange(min=1), help="So many, then end.")
@click.option("--sort", type=click.Choice(tuple(SORTS)), default="cpu", help="What comes first has most of it.")
@settings_options("state_dir", "libvirt_uri")
@out.form("table", "json")
def top(*, delay: float, batch: bool, times: int | None, sort: str, settings: Settings, output: str) -> None:
    """Show what the guests of this host use: CPU (100 % is what its class has), memory, disks and network.

    STEAL is how long vCPUs have waited for a CPU of the host. On a terminal the keys c, s, m, d, n and a sort by CPU,
    steal, memory, disk, network and name, and q ends it. Figures that are old, as while libvirt hangs, are called so.
    """
    sampler = Sampler(_reader(settings), delay)
    sampler.start()
    if not batch and output == "table" and sys.stdout.isatty() and sys.stdin.isatty():
        from sri_libvirt.cli.top.screen import watch

        watch(lambda order: _table(settings, sampler.latest(), order, delay), delay, sort, times, KEYS)
        return
    sampler.wait(delay * OLD)  # the first has no rates yet
    for number in range(times or sys.maxsize):
        sampler.wait(delay * OLD)
        _print(settings, sampler.latest(), sort, delay, output, first=not number)


def _reader(settings: Settings) -> Callable[[], Any]:
    from sri_libvirt.hypervisor import libvirt as hypervisors  # libvirt takes a while to load

    hypervisor = hypervisors.LibvirtHypervisor(settings.libvirt_uri)
    return hypervisor.statistics()


def _machines(settings: Settings) -> list[Machine]:
    with open_store(settings) as reader:
        return reader.readable()[0]


def _sorted(settings: Settings, sample: Sample, sort: str) -> list[tuple[Machine, Rates]]:
    rows = [(machine, sample.rates.get(machine.id, Rates())) for machine in _machines(settings)]
    return sorted(rows, key=lambda row: SORTS[sort](*row))


def _print(settings: Settings, sample: Sample, sort: str, delay: float, output: str, *, first: bool) -> None:
    if sample.age is None and sample.problem:
        raise HypervisorError(sample.problem)
    if output == "json":
        machines = [_data(*row) for row in _sorted(settings, sample, sort)]
        age = None if sample.age is None else round(sample.age, 2)
        out.data({"age_seconds": age, "problem": sample.problem or None, "machines": machines}, "json")
    else:
        if not first:
            out.say()
        headings, rows, note = _table(settings, sample, sort, delay)
        if note:
            out.say(note)
        out.table(headings, rows)
    out.flush()


def _table(
    settings: Settings, sample: Sample, sort: str, delay: float
) -> tuple[tuple[str, ...], list[tuple[str, ...]], str]:
    """Headings, rows, and what is to be said of all of them."""
    rows = [_cells(*row) for row in _sorted(settings, sample, sort)]
    note = ""
    if sample.problem:
        note = f"no newer figures: {sample.problem}"
    elif sample.age is None or sample.age > OLD * delay:
        old = "there are no figures yet" if sample.age is None else f"these figures are {sample.age:.0f} s old"
        note = f"libvirt does not answer: {old}"
    return HEADINGS, rows, note


def cpu_share(machine: Machine, rates: Rates) -> float | None:
    """The part of what its class has, 1.0 for all of it."""
    return None if rates.cpu is None else rates.cpu * 1000 / machine.machine_class.cpu_millis


def _cells(machine: Machine, rates: Rates) -> tuple[str, ...]:
    share = cpu_share(machine, rates)
    return (
        show.name(machine),
        show.state(machine),
        _percent(share),
        _percent(rates.steal),
        "-" if rates.resident is None else byte_words(rates.resident),
        byte_words(machine.machine_class.memory_bytes),
        *(_bytes(each) for each in (rates.read, rates.written, rates.received, rates.sent)),
        machine.id,
    )


def _data(machine: Machine, rates: Rates) -> dict[str, Any]:
    return {
        "id": machine.id,
        "name": show.name(machine),
        "state": show.state(machine),
        "cpu_share": cpu_share(machine, rates),
        "cpus": rates.cpu,
        "steal_cpus": rates.steal,
        "resident_bytes": rates.resident,
        "memory_bytes": machine.machine_class.memory_bytes,
        "disk_read_bytes_per_second": rates.read,
        "disk_written_bytes_per_second": rates.written,
        "network_received_bytes_per_second": rates.received,
        "network_sent_bytes_per_second": rates.sent,
    }


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share * 100:.0f} %"


def _bytes(rate: float | None) -> str:
    return "-" if rate is None else byte_words(int(rate))
