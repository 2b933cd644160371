"""`sri-libvirt machine list`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any

import click

from sri_libvirt import statedir
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.cli import output as out
from sri_libvirt.cli import show
from sri_libvirt.cli.find import open_store
from sri_libvirt.cli.machine.following import changes
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.config import Settings
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import Machine, class_name
from sri_libvirt.store import Reader, reserve

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
    with open_store(settings) as reader:
        (machines, damaged), clock = reader.readable(), reader.clock()
    doubted = _warn(StatePaths(settings.state_dir))
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
    if watch:
        _watch(settings, asked, output, machines)


def _watch(settings: Settings, asked: Mapping[str, str | None], output: str, listed: Iterable[Machine]) -> None:
    """A line for each machine that is asked for and is not as it was listed or shown last, also for the last time."""
    headings = WIDE if output == "wide" else HEADINGS
    out.flush()
    shown = {each.id: _row(each, 0, headings, "") for each in listed}
    with open_store(settings) as reader:
        for changed in changes(StatePaths(settings.state_dir)):
            for machine_id in sorted(changed if changed is not None else set(reader.machine_ids()) | set(shown)):
                _show_change(reader, machine_id, asked, headings, shown, bare=output == "name")
            out.flush()


def _show_change(
    reader: Reader,
    machine_id: str,
    asked: Mapping[str, str | None],
    headings: tuple[str, ...],
    shown: dict[str, list[str]],
    *,
    bare: bool,
) -> None:
    machine = reader.machine(machine_id)
    if machine is None:
        if shown.pop(machine_id, None) is not None:
            out.row([machine_id] if bare else [machine_id, "GONE"])
        return
    now = _row(machine, 0, headings, "")  # without its age, which is no change
    if not _fits(machine, asked):
        if machine_id in shown:
            shown[machine_id] = []  # it is shown again when it is as before
    elif shown.get(machine_id) != now:
        out.row([machine_id] if bare else _row(machine, reader.clock().wall(), headings, ""))
        shown[machine_id] = now


def _departed(settings: Settings, asked: Mapping[str, str | None], output: str, *, titled: bool) -> None:
    with open_store(settings) as reader:
        departed, clock = reader.departed(), reader.clock()
    wanted = (asked["namespace"], asked["class"])
    found = [
        each
        for each in departed
        if all(word in (None, has) for word, has in zip(wanted, (each.namespace, each.machine_class), strict=True))
    ]
    if output == "name":
        for each in found:
            out.say(each.id)
    elif output in ("json", "yaml"):
        out.data([show.departed(each, clock) for each in found], output)
    else:
        rows = [
            (
                each.id,
                show.full_name(each.namespace, each.name),
                each.machine_class,
                show.timestamp(clock.to_wall(each.gone_at)) or "",
                show.ended(each.run),
            )
            for each in found
        ]
        out.table(("ID", "NAME", "CLASS", "GONE", "LAST GUEST"), rows, titled=titled)


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
