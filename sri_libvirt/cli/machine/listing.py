"""`sri-libvirt machine list`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.cli import output as out
from sri_libvirt.cli.machine.following import follow
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.cli.reading import Ask, reading
from sri_libvirt.config import Settings
from sri_libvirt.paths import StatePaths
from sri_libvirt.views import show

Listed = Mapping[str, Any]
"""A machine of the list; all but `id` and `reasons` is None of one whose record cannot be read."""

HEADINGS = ("ID", "NAME", "CLASS", "POWER", "STATE", "AGE", "WHY")
WIDE = ("ID", "NAME", "CLASS", "POWER", "STATE", "AGE", "IMAGE", "VOLUMES", "NICS", "WHY")
STATES = tuple(name.removeprefix("MACHINE_") for name in pb.MachineState.DESCRIPTOR.values_by_name)
COLOURS = {"STATE": {"RUNNING": "green", "PENDING": "yellow", "TERMINATED": "red", "?": "red"}}
SORTS: Mapping[str, Callable[[Listed], Any]] = {
    "age": lambda machine: -show.moment(machine["created"]),  # the youngest first
    "class": lambda machine: machine["class"],
    "id": lambda machine: machine["id"],
    "name": lambda machine: _name(machine),
    "state": lambda machine: machine["state"],
}


@click.command("list")
@click.option("--namespace", metavar="NAME", help="Only of this namespace.")
@click.option("--state", type=click.Choice(STATES, case_sensitive=False), help="Only in this state.")
@click.option("--class", "wanted_class", metavar="NAME", help="Only of this class.")
@click.option("--sort", type=click.Choice(tuple(SORTS)), help="In this order; else the oldest comes first.")
@click.option("--no-headers", is_flag=True, help="Tables without their first line.")
@click.option("--gone", is_flag=True, help="Those that are no more, for a week; the latest first.")
@click.option("-w", "--watch", is_flag=True, help="Go on with a line for each change, until Ctrl-C.")
@settings_options("state_dir")
@out.form("table", "wide", "name", "json", "yaml")
def list_machines(
    *,
    namespace: str | None,
    state: str | None,
    wanted_class: str | None,
    sort: str | None,
    no_headers: bool,
    gone: bool,
    watch: bool,
    settings: Settings,
    output: str,
) -> None:
    """List the machines of this host.

    On a terminal WHY is shortened to fit; `-o name` prints ids alone. A machine whose record cannot be read is listed
    unless only some are asked for. A state with a `?` was so when that could last be written down.
    """
    asked = {"namespace": namespace, "state": state, "class": wanted_class}
    if gone:
        if state or sort or watch:
            raise click.UsageError("--gone goes without --state, --sort and --watch")
        _departed(settings, asked, output, titled=not no_headers)
        return
    if watch and output not in ("table", "wide", "name"):
        raise click.UsageError("--watch goes with -o table, wide and name")
    with reading(settings) as ask:
        told = ask("list")
        doubted = _warn(told)
        machines, damaged = _chosen(told["machines"], asked)
        if sort:
            machines.sort(key=SORTS[sort])
        headings = WIDE if output == "wide" else HEADINGS
        if output == "name":
            for each in (*machines, *damaged):
                out.say(each["id"])
        elif output in ("json", "yaml"):
            out.data([*machines, *damaged], output)
        else:
            now = time.time_ns()
            rows = [_row(each, now, headings, "?" if doubted else "") for each in machines]
            rows += [[{"ID": each["id"], "STATE": "?", "WHY": _why(each)}.get(name, "") for name in headings]
                     for each in damaged]  # fmt: skip
            shorten = "" if output == "wide" else "WHY"
            out.table(headings, rows, shorten=shorten, titled=not no_headers, colours=COLOURS)
        if watch:
            out.flush()
            shown = {each["id"]: _row(each, 0, headings, "") for each in machines}
            _watch(ask, settings, asked, shown, headings, bare=output == "name")


def _chosen(machines: Iterable[Listed], asked: Mapping[str, str | None]) -> tuple[list[Listed], list[Listed]]:
    """Those that are asked for, and of all those whose record cannot be read."""
    readable, damaged = list[Listed](), list[Listed]()
    for machine in machines:
        if machine["state"] is None:
            damaged.append(machine)
        elif _fits(machine, asked):
            readable.append(machine)
    return readable, [] if any(asked.values()) else damaged


def _watch(
    ask: Ask,
    settings: Settings,
    asked: Mapping[str, str | None],
    shown: dict[str, list[str]],
    headings: tuple[str, ...],
    *,
    bare: bool,
) -> None:
    """A line for each machine that is asked for and is not as it was listed or shown last, also for the last time."""

    def act(changed: frozenset[str] | None) -> bool:
        told = ask("list", ids=sorted(changed) if changed is not None else None)["machines"]
        for machine in told:
            if machine["state"] is not None:
                _show_change(machine, asked, headings, shown, bare=bare)
        listed = {each["id"] for each in told}
        for machine_id in sorted((set(shown) if changed is None else changed & shown.keys()) - listed):
            del shown[machine_id]
            out.row([machine_id] if bare else [machine_id, "GONE"])
        out.flush()
        return True

    follow(ask, StatePaths(settings.state_dir), act)


def _show_change(
    machine: Listed,
    asked: Mapping[str, str | None],
    headings: tuple[str, ...],
    shown: dict[str, list[str]],
    *,
    bare: bool,
) -> None:
    machine_id = machine["id"]
    now = _row(machine, 0, headings, "")  # without its age, which is no change
    if not _fits(machine, asked):
        if machine_id in shown:
            shown[machine_id] = []  # it is shown again when it is as before
    elif shown.get(machine_id) != now:
        out.row([machine_id] if bare else _row(machine, time.time_ns(), headings, ""))
        shown[machine_id] = now


def _departed(settings: Settings, asked: Mapping[str, str | None], output: str, *, titled: bool) -> None:
    with reading(settings) as ask:
        departed = ask("gone")
    found = [each for each in departed if all(asked[key] in (None, each[key]) for key in ("namespace", "class"))]
    if output == "name":
        for each in found:
            out.say(each["id"])
    elif output in ("json", "yaml"):
        out.data(found, output)
    else:
        rows = [
            (each["id"], _name(each), each["class"] or "", each["gone"] or "", show.ended(each["run"]))
            for each in found
        ]
        out.table(("ID", "NAME", "CLASS", "GONE", "LAST GUEST"), rows, titled=titled)


def _warn(told: Mapping[str, Any]) -> bool:
    """Say what makes the list one of the past; whether machines may be otherwise by now without a record of it."""
    if told["provider_running"] is False:
        out.warn("the provider does not run: this is as it left it")
    problem = told["state_directory_problem"]
    if problem:
        out.warn(f"the file system of {told['state_directory']} is {problem}, so this may be out of date")
    return bool(problem)


def _fits(machine: Listed, asked: Mapping[str, str | None]) -> bool:
    return all(wanted is None or machine[name] == wanted for name, wanted in asked.items())


def _row(machine: Listed, now: int, headings: tuple[str, ...], mark: str) -> list[str]:
    cells = {
        "ID": machine["id"],
        "NAME": _name(machine),
        "CLASS": machine["class"],
        "POWER": machine["power"],
        "STATE": machine["state"] + mark + (" (deleting)" if machine["deleted"] else ""),
        "AGE": show.ago(show.moment(machine["created"]), now),
        "IMAGE": machine["image"] or "-",
        "VOLUMES": _attached(machine["volumes"]),
        "NICS": _attached(machine["network_interfaces"]),
        "WHY": _why(machine),
    }
    return [cells[name] for name in headings]


def _name(machine: Listed) -> str:
    return show.full_name(machine["namespace"], machine["name"])


def _why(machine: Listed) -> str:
    return machine["reasons"][0]["message"] if machine["reasons"] else ""


def _attached(devices: Mapping[str, int]) -> str:
    return f"{devices['attached']}/{devices['wanted']}"
