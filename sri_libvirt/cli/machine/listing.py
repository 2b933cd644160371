"""`sri-libvirt machine list`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any

import click

from sri_libvirt import statedir
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.cli.machine import output as out
from sri_libvirt.cli.machine import show
from sri_libvirt.cli.machine.find import open_store
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.config import Settings
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import Machine, class_name
from sri_libvirt.store import reserve

HEADINGS = ("ID", "NAME", "CLASS", "POWER", "STATE", "AGE", "WHY")
WIDE = ("ID", "NAME", "CLASS", "POWER", "STATE", "AGE", "IMAGE", "VOLUMES", "NICS", "WHY")
STATES = tuple(name.removeprefix("MACHINE_") for name in pb.MachineState.DESCRIPTOR.values_by_name)
COLOURS = {"STATE": {"RUNNING": "green", "PENDING": "yellow", "TERMINATED": "red", "?": "red"}}
SORTS: Mapping[str, Callable[[Machine], Any]] = {
    "age": lambda machine: -machine.created_at,  # the youngest first
    "class": lambda machine: class_name(machine.spec),
    "id": lambda machine: machine.id,
    "name": show.name,
    "state": show.state,
}


@click.command("list")
@click.option("--namespace", metavar="NAME", help="Only of this namespace.")
@click.option("--state", type=click.Choice(STATES, case_sensitive=False), help="Only in this state.")
@click.option("--class", "wanted_class", metavar="NAME", help="Only of this class.")
@click.option("--sort", type=click.Choice(tuple(SORTS)), help="In this order; else the oldest comes first.")
@click.option("--no-headers", is_flag=True, help="Tables without their first line.")
@settings_options("state_dir")
@out.form("table", "wide", "name", "json", "yaml")
def list_machines(
    *,
    namespace: str | None,
    state: str | None,
    wanted_class: str | None,
    sort: str | None,
    no_headers: bool,
    settings: Settings,
    output: str,
) -> None:
    """List the machines of this host.

    On a terminal WHY is shortened to fit; `-o name` prints ids alone. A machine whose record cannot be read is listed
    unless only some are asked for. A state with a `?` was so when that could last be written down.
    """
    with open_store(settings) as reader:
        (machines, damaged), clock = reader.readable(), reader.clock()
    doubted = _warn(StatePaths(settings.state_dir))
    asked = {"namespace": namespace, "state": state, "class": wanted_class}
    if any(asked.values()):
        damaged = {}
    machines = [each for each in machines if _fits(each, asked)]
    if sort:
        machines.sort(key=SORTS[sort])
    if output == "name":
        for machine_id in (*(each.id for each in machines), *damaged):
            out.say(machine_id)
    elif output in ("json", "yaml"):
        shown = [show.brief(machine, clock) for machine in machines]
        out.data([*shown, *(show.unreadable(*each) for each in damaged.items())], output)
    else:
        headings, now = WIDE if output == "wide" else HEADINGS, clock.wall()
        rows = [_row(machine, now, headings, "?" if doubted else "") for machine in machines]
        rows += [[{"ID": each, "STATE": "?", "WHY": problem}.get(name, "") for name in headings]
                 for each, problem in damaged.items()]  # fmt: skip
        shorten = "" if output == "wide" else "WHY"
        out.table(headings, rows, shorten=shorten, titled=not no_headers, colours=COLOURS)


def _warn(paths: StatePaths) -> bool:
    """Say what makes the list one of the past; whether machines may be otherwise by now without a record of it."""
    if statedir.is_held(paths) is False:
        out.warn("the provider does not run: this is as it left it")
    if problem := reserve.unwritable(paths.reserve):
        out.warn(f"the file system of {paths.root} is {problem}, so this may be out of date")
    return bool(problem)


def _fits(machine: Machine, asked: Mapping[str, str | None]) -> bool:
    has = {"namespace": machine.namespace, "state": show.state(machine), "class": class_name(machine.spec)}
    return all(wanted is None or has[name] == wanted for name, wanted in asked.items())


def _row(machine: Machine, now: int, headings: tuple[str, ...], mark: str) -> list[str]:
    cells = {
        "ID": machine.id,
        "NAME": show.name(machine),
        "CLASS": class_name(machine.spec),
        "POWER": show.power(machine),
        "STATE": show.state(machine) + mark + (" (deleting)" if machine.deleted_at else ""),
        "AGE": show.ago(machine.created_at, now),
        "IMAGE": machine.spec.image.image or "-",
        "VOLUMES": _attached(machine.status.volumes, pb.VOLUME_ATTACHED, machine.spec.volumes),
        "NICS": _attached(
            machine.status.network_interfaces, pb.NETWORK_INTERFACE_ATTACHED, machine.spec.network_interfaces
        ),
        "WHY": machine.reasons[0].message if machine.reasons else "",
    }
    return [cells[name] for name in headings]


def _attached(there: Iterable[Any], attached: int, wanted: Sized) -> str:
    """How many devices are attached, and of how many."""
    return f"{sum(each.state == attached for each in there)}/{len(wanted)}"
