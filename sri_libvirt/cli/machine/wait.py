"""`sri-libvirt machine wait`: until a machine is as a script needs it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from sri_libvirt.cli.machine.following import follow
from sri_libvirt.cli.machine.why import sentences
from sri_libvirt.cli.options import Duration
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.cli.reading import Ask, reading
from sri_libvirt.config import Settings
from sri_libvirt.errors import FailedPrecondition, NotFound, SRIError
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import SECOND

T = TypeVar("T")

WHY_SECONDS = 2.0
"""How long the provider may take, when the time is over, to say why it is."""


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
        try:
            _within(seconds, lambda: _until(ask, machine, wanted, settings))
        except TimeoutError:
            raise FailedPrecondition(f"the time is over. {_why(ask, machine)}") from None


def _within(seconds: float | None, work: Callable[[], T]) -> T:
    """What work returns or raises; TimeoutError if that takes longer, whatever it waits for."""
    done, outcome = threading.Event(), list[Callable[[], T]]()

    def go() -> None:
        try:
            result = work()
        except BaseException as error:
            failure = error

            def fail() -> T:
                raise failure

            outcome.append(fail)
        else:
            outcome.append(lambda: result)
        done.set()

    threading.Thread(target=go, name="wait", daemon=True).start()
    if not done.wait(seconds):
        raise TimeoutError
    return outcome[0]()


def _until(ask: Ask, machine: str, wanted: tuple[str, str], settings: Settings) -> None:
    machine_id = ask("find", machine=machine)["id"]
    if not _is_met(ask, machine_id, wanted):

        def act(changed: frozenset[str] | None) -> bool:
            return not ((changed is None or machine_id in changed) and _is_met(ask, machine_id, wanted))

        follow(ask, StatePaths(settings.state_dir), act)


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


def _why(ask: Ask, machine: str) -> str:
    try:
        found = _within(WHY_SECONDS, lambda: ask("why", machine=machine))
    except NotFound:
        return "The machine is gone."
    except TimeoutError:
        return "The provider does not answer."
    except SRIError as error:
        return f"Why is not known: {error}"
    return " ".join(line.strip() for line in sentences({**found, "latest": None}, time.time_ns()))
