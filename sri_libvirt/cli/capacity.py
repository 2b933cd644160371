"""`sri-libvirt capacity`: what this host is, what it can sell, and what limits that."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from sri_libvirt.cli import output as out
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.config import Settings
from sri_libvirt.errors import NotFound

if TYPE_CHECKING:
    from rich.console import Console

    from sri_libvirt.cli.report.facts import Report

WATCH_SECONDS = 2.0
PIPE_WIDTH = 120
"""Columns where there is no terminal."""


@click.command()
@click.option("--explain", "explained", metavar="CLASS", help="Show the arithmetic behind a class's numbers.")
@click.option(
    "--watch",
    "seconds",
    type=click.FloatRange(min=0.1),
    is_flag=False,
    flag_value=WATCH_SECONDS,
    default=None,
    metavar="[SECONDS]",
    help=f"Draw the picture anew, every {WATCH_SECONDS:g} seconds or so often, until Ctrl-C.",
)
@click.option(
    "--by", type=click.Choice(["machine"]), help="Show who has what: machines, and domains that are not ours."
)
@settings_options(
    *("state_dir", "machine_classes", "reserved_memory", "reserved_cpus", "cpu_overcommit", "disk_overcommit"),
    *("max_machines", "domain_type", "sysfs", "procfs"),
)
@out.form("picture", "json", "yaml", "prometheus")
def capacity(explained: str | None, seconds: float | None, by: str | None, settings: Settings, output: str) -> None:
    """Show what this host is, what it can sell and what limits that; reads only, with or without the daemon.

    With --sysfs and --procfs of another machine's saved tree it shows that machine as an empty host. When the store, or
    its file system, cannot be read, what can be sold is unknown: shown so, null in data, and the status is 1.
    """
    if by:
        if output == "prometheus" or explained is not None or seconds is not None:
            raise click.UsageError("--by goes with -o json and yaml alone")
        _by_machine(settings, output)
        return
    from sri_libvirt.cli.report import facts  # who only asks who has what waits for no look at the hardware

    if output != "picture" and (explained is not None or seconds is not None):
        raise click.UsageError("--explain and --watch are for people: they go without -o")
    if seconds is not None:
        if explained is not None:
            raise click.UsageError("give either --explain or --watch")
        watch(lambda: facts.gather(settings, names=True), console(), _every(seconds))
        return
    report = facts.gather(settings, names=output == "picture" and explained is None)
    if report.note:
        out.warn(report.note)
    if explained is not None:
        if not report.unknown:
            _explain(report, explained)
    elif output == "picture":
        from sri_libvirt.cli.report.picture import picture

        console().print(picture(report))
    else:
        _data(report, output)
    if report.unknown:
        raise click.ClickException(report.unknown)


def _by_machine(settings: Settings, output: str) -> None:
    from sri_libvirt.cli.reading import open_store  # machines are no small thing to load
    from sri_libvirt.cli.report import shares
    from sri_libvirt.views.shares import data, gather

    with open_store(settings) as reader:
        found = data(gather(reader))
    if output == "picture":
        out.table(shares.HEADINGS, shares.rows(found))
    else:
        out.data(found, output)


def _data(report: Report, output: str) -> None:
    from sri_libvirt.cli.report.document import document

    found: dict[str, Any] = document(report)
    if output != "prometheus":
        out.data(found, output)
        return
    from sri_libvirt.cli.report import prometheus

    out.document(prometheus.text(found))


def _explain(report: Report, name: str) -> None:
    lines = report.explain(name)
    if lines is None:
        known = ", ".join(offer.machine_class.name for offer in report.offers)
        raise NotFound(f"there is no class {name!r}; known: {known}")
    for line in lines:
        out.say(line)


def console() -> Console:
    """Where a picture goes; words that the terminal cannot show are no reason to fail."""
    from rich.console import Console

    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")
    found = Console(highlight=False, markup=False, emoji=False)
    if not found.is_terminal:
        found.width = PIPE_WIDTH
    return found


def watch(look: Callable[[], Report], where: Console, ticks: Iterable[None]) -> None:
    """Draw a picture, and anew with each tick, until there are no more of them or Ctrl-C or SIGTERM comes."""
    from rich.live import Live

    from sri_libvirt.cli.report.picture import picture

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if not where.is_terminal:
            where.print(picture(look()))
            for _ in ticks:
                where.print(picture(look()))
            return
        with Live(picture(look()), console=where, auto_refresh=False, vertical_overflow="crop") as live:
            for _ in ticks:
                live.update(picture(look()), refresh=True)
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGTERM, before)


def _every(seconds: float) -> Iterator[None]:
    while True:
        time.sleep(seconds)
        yield
