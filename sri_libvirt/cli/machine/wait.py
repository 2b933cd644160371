"""`sri-libvirt machine wait`: until a machine is as a script needs it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import click

from sri_libvirt.cli.machine.following import changes
from sri_libvirt.cli.machine.why import sentences
from sri_libvirt.cli.options import Duration
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.cli.reading import Ask, reading
from sri_libvirt.config import Settings
from sri_libvirt.errors import FailedPrecondition, SRIError
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import SECOND


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
    with reading(settings) as ask:
        found = ask("find", machine=machine)
        if not _is_met(ask, found["id"], wanted):
            _wait(ask, found["id"], wanted, settings, seconds)


def _wait(ask: Ask, machine_id: str, wanted: tuple[str, str], settings: Settings, seconds: float | None) -> None:
    done, problem = threading.Event(), list[BaseException]()

    def follow() -> None:
        try:
            for changed in changes(StatePaths(settings.state_dir)):
                if (changed is None or machine_id in changed) and _is_met(ask, machine_id, wanted):
                    break
        except BaseException as error:
            problem.append(error)
        done.set()

    # Of a thread of its own: whatever it waits for, the time is kept.
    threading.Thread(target=follow, name="follow", daemon=True).start()
    if not done.wait(seconds):
        raise FailedPrecondition(f"the time is over. {_why(ask, machine_id)}")
    if problem:
        raise problem[0]


def _is_met(ask: Ask, machine_id: str, wanted: tuple[str, str]) -> bool:
    """Raises FailedPrecondition of a machine that cannot become so any more."""
    word, name = wanted
    found = ask("list", ids=[machine_id])["machines"]
    if not found:
        if word == "gone":
            return True
        raise FailedPrecondition("the machine is gone")
    if word == "gone":
        return False
    (machine,) = found
    if machine["deleted"]:
        raise FailedPrecondition("the machine is being deleted")
    if machine["observed_generation"] < machine["generation"]:
        return False  # nobody has looked at its latest change
    if word == "attached":
        return _is_attached(ask("get", machine=machine_id), name)
    return bool(machine["state"] == {"running": "RUNNING", "off": "SUSPENDED"}[word])


def _is_attached(machine: Mapping[str, Any], name: str) -> bool:
    wanted = [each for each in machine["devices"] if each["wanted"] and each["name"] == name]
    wanted = [each for each in wanted if each["kind"] in ("volume", "nic")]
    if not wanted:
        raise FailedPrecondition(f"the machine has no volume or network interface {name!r}")
    return all(each["state"] == "ATTACHED" for each in wanted)


def _why(ask: Ask, machine_id: str) -> str:
    try:
        found = ask("why", machine=machine_id)
    except SRIError:
        return "The machine is gone."
    return " ".join(line.strip() for line in sentences({**found, "latest": None}, time.time_ns()))
