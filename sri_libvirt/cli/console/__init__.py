"""`sri-libvirt console`: a guest's serial console at this terminal, or what it has printed so far.

It goes straight to libvirt, whether the daemon runs or not, and changes nothing of the machine.
"""

from __future__ import annotations

import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sri_libvirt.cli import output as out
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.cli.reading import open_store
from sri_libvirt.config import Settings
from sri_libvirt.errors import ConsoleHeld, ConsoleLost, FailedPrecondition, Unreachable
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import Machine
from sri_libvirt.views.find import find

if TYPE_CHECKING:
    from sri_libvirt.hypervisor.base import Hypervisor

LOOK_SECONDS = 0.5
"""How often a machine that is waited for is looked at."""


@click.command()
@click.argument("machine")
@click.option("--force", is_flag=True, help="End the session of whoever has the console.")
@click.option("--wait", is_flag=True, help="Of a machine that does not run: wait until it does.")
@click.option(
    "--for", "seconds", type=click.FloatRange(min=0), metavar="SECONDS",
    help="When the input is no terminal: how long output is printed after its end.  [1]",
)  # fmt: skip
@click.option("--log", "from_log", is_flag=True, help="Print what it has printed so far instead.")
@click.option("-f", "--follow", is_flag=True, help="With --log: go on with what comes.")
@click.option("--lines", type=click.IntRange(min=0), metavar="N", help="With --log: only the last N lines.")
@settings_options("state_dir", "libvirt_uri")
def console(
    machine: str,
    *,
    force: bool,
    wait: bool,
    seconds: float | None,
    from_log: bool,
    follow: bool,
    lines: int | None,
    settings: Settings,
) -> None:
    """Have a machine's serial console at this terminal; Ctrl-] leaves it.

    A MACHINE is an id, the beginning of one, or namespace/name. Where the input is no terminal it is typed, and what
    the guest prints is printed. A console has one session at a time.
    """
    if from_log and (force or wait or seconds is not None):
        raise click.UsageError("--log reads a file: --force, --wait and --for have no meaning with it")
    if not from_log and (follow or lines is not None):
        raise click.UsageError("--follow and --lines are for --log")
    with open_store(settings) as reader:
        found = find(reader, machine)
    if from_log:
        from sri_libvirt.cli.console import logfile

        logfile.show(StatePaths(settings.state_dir).machine(found.id), lines, follow=follow)
        return
    from sri_libvirt import log
    from sri_libvirt.hypervisor.libvirt import LibvirtHypervisor

    log.set_up("warning", "auto")
    hypervisor = LibvirtHypervisor(settings.libvirt_uri, devpts=settings.devpts)
    _expect_running(hypervisor, found, settings, wait=wait)
    console_log = StatePaths(settings.state_dir).machine(found.id).console_log
    _converse(hypervisor, found, console_log, 1.0 if seconds is None else seconds, force=force)


def _converse(hypervisor: Hypervisor, machine: Machine, console_log: Path, seconds: float, *, force: bool) -> None:
    from sri_libvirt.cli.console.conversation import LEAVE, Conversation
    from sri_libvirt.cli.console.terminal import raw

    keyboard, screen = sys.stdin.fileno(), sys.stdout.fileno()
    is_terminal = sys.stdin.isatty()
    conversation = Conversation(
        partial(hypervisor.console, machine.id),
        console_log,
        keyboard,
        screen,
        leave=LEAVE if is_terminal else b"",
        linger=seconds,
    )
    try:
        conversation.begin(take_over=force)
    except ConsoleHeld as error:
        raise FailedPrecondition(f"{error}; --force ends their session") from error
    if is_terminal:
        out.warn(f"this is the console of machine {_name(machine)}: Ctrl-] leaves it, Enter may wake it up")
    with raw(keyboard, screen):
        ended = conversation.run()
    if ended.problem:
        raise ConsoleLost(ended.problem)
    if is_terminal:
        out.warn(ended.words)


def _expect_running(hypervisor: Hypervisor, machine: Machine, settings: Settings, *, wait: bool) -> None:
    """Return once its QEMU is there. Raises FailedPrecondition where it is not, and not to be waited for."""
    told = ""
    while True:
        try:
            with closing(hypervisor.connect()) as connection:
                seen = connection.snapshot(machine.id)
            if seen is not None and seen.active:
                return
            why = f"machine {_name(machine)} does not run, so it has no console"
        except Unreachable as error:
            if not wait:
                raise
            why = str(error)
        if not wait:
            raise FailedPrecondition(
                f"{why}: --wait waits until it does, --log shows what it has printed, "
                f"and `sri-libvirt machine why {machine.id}` says why"
            )
        if why != told:
            out.warn(f"waiting: {why}")
            told = why
        time.sleep(LOOK_SECONDS)
        with open_store(settings) as reader:
            find(reader, machine.id)  # NotFound once it is deleted


def _name(machine: Machine) -> str:
    return f"{machine.namespace}/{machine.name}" if machine.name else machine.id
