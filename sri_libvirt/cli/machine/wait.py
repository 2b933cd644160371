"""`sri-libvirt machine wait`: until a machine is as a script needs it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import click

from sri_libvirt import statedir
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.cli.find import find, find_gone, open_store
from sri_libvirt.cli.machine.following import changes
from sri_libvirt.cli.machine.why import sentences
from sri_libvirt.cli.options import Duration
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.config import Settings
from sri_libvirt.errors import FailedPrecondition, NotFound
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import SECOND, Machine
from sri_libvirt.store import Reader

Met = Callable[[Machine], bool]


class Condition(click.ParamType):  # type: ignore[type-arg]  # generic in click's types only
    """What a machine is waited for to be."""

    name = "running|off|gone|attached=NAME"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        word, equals, name = str(value).partition("=")
        if (word in ("running", "off", "gone") and not equals) or (word == "attached" and name):
            return word, name
        raise click.BadParameter(f"{value!r} is not running, off, gone or attached=NAME", ctx, param)


@click.command()
@click.argument("machine")
@click.option("--for", "wanted", type=Condition(), required=True, help="What to wait for.")
@click.option("--timeout", type=Duration(), help="How long, as 90s; for ever by default.")
@settings_options("state_dir")
def wait(machine: str, *, wanted: tuple[str, str], timeout: int | None, settings: Settings) -> None:
    """Wait until a machine runs, is off, is gone, or has a volume or network interface attached.

    The status is 0 once it is so, and 1 when the time is over, or when it cannot become so any more: then why is said.
    """
    seconds = None if timeout is None else timeout / SECOND
    with open_store(settings) as reader:
        try:
            machine_id = find(reader, machine).id
        except NotFound:
            if find_gone(reader, machine) is None:
                raise
            if wanted[0] == "gone":
                return
            raise FailedPrecondition("the machine is gone") from None
        if _is_met(reader, machine_id, wanted):
            return
        _wait(reader, machine_id, wanted, settings, seconds)


def _wait(reader: Reader, machine_id: str, wanted: tuple[str, str], settings: Settings, seconds: float | None) -> None:
    done, problem = threading.Event(), list[BaseException]()

    def follow() -> None:
        try:
            for changed in changes(StatePaths(settings.state_dir)):
                if (changed is None or machine_id in changed) and _is_met(reader, machine_id, wanted):
                    break
        except BaseException as error:
            problem.append(error)
        done.set()

    # Of a thread of its own: whatever it waits for, the time is kept.
    threading.Thread(target=follow, name="follow", daemon=True).start()
    if not done.wait(seconds):
        raise FailedPrecondition(f"the time is over. {_why(reader, machine_id, settings)}")
    if problem:
        raise problem[0]


def _is_met(reader: Reader, machine_id: str, wanted: tuple[str, str]) -> bool:
    """Raises FailedPrecondition of a machine that cannot become so any more."""
    machine = reader.machine(machine_id)
    word, name = wanted
    if machine is None:
        if word == "gone":
            return True
        raise FailedPrecondition("the machine is gone")
    if word == "gone":
        return False
    if machine.deleted_at:
        raise FailedPrecondition("the machine is being deleted")
    if machine.observed_generation < machine.generation:
        return False  # nobody has looked at its latest change
    if word == "running":
        return machine.status.state == pb.MACHINE_RUNNING
    if word == "off":
        return machine.status.state == pb.MACHINE_SUSPENDED
    return _is_attached(machine, name)


def _is_attached(machine: Machine, name: str) -> bool:
    wanted = [row for row in machine.attachments if row.wanted and row.name == name and row.kind in ("volume", "nic")]
    if not wanted:
        raise FailedPrecondition(f"the machine has no volume or network interface {name!r}")
    attached = {("volume", each.name) for each in machine.status.volumes if each.state == pb.VOLUME_ATTACHED}
    interfaces = machine.status.network_interfaces
    attached |= {("nic", each.name) for each in interfaces if each.state == pb.NETWORK_INTERFACE_ATTACHED}
    return all((row.kind, row.name) in attached for row in wanted)


def _why(reader: Reader, machine_id: str, settings: Settings) -> str:
    machine = reader.machine(machine_id)
    if machine is None:
        return "The machine is gone."
    running = statedir.is_held(StatePaths(settings.state_dir))
    return " ".join(line.strip() for line in sentences(machine, None, running, reader.clock()()))
