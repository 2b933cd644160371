"""`sri-libvirt drain`: no new machines, and every guest off until the host is uncordoned."""

from __future__ import annotations

import time

import click

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.cli import output as out
from sri_libvirt.cli.cordon import change
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.config import Settings, duration
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import SECOND, Machine
from sri_libvirt.store import Store

LOOK_SECONDS = 0.5


@click.command()
@click.option("--shutdown", is_flag=True, help="Required: guests are shut down, for they cannot move elsewhere.")
@click.option("--reason", default="", help="What is told to whoever is refused.")
@click.option("--wait", default="0s", metavar="DURATION", help="How long to wait until no guest runs.  [0s]")
@settings_options("state_dir")
def drain(shutdown: bool, reason: str, wait: str, settings: Settings) -> None:
    """Take no new machines, and switch every guest off, gracefully, until `uncordon` brings them back.

    What a machine should be is not changed by it: its power stays ON. Remembered over restarts and reboots. With --wait
    the status is 1 when guests still run after that time.
    """
    if not shutdown:
        raise click.UsageError("guests cannot move to other hosts: give --shutdown to switch them off")
    try:
        patience = duration(wait)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--wait") from None
    change(settings, "drain", reason)
    out.say("drained: no new machines are taken, and guests are being switched off")
    if patience:
        _wait(settings, time.monotonic() + patience / SECOND)


def _wait(settings: Settings, end: float) -> None:
    with Store.open_read_only(StatePaths(settings.state_dir)) as reader:
        while True:
            machines, unknown = reader.readable()
            running = sum(_runs(each) for each in machines) + len(unknown)
            if not running:
                out.say("no guest runs")
                return
            if time.monotonic() >= end:
                raise click.ClickException(f"{running} guests still run; without a daemon nobody switches them off")
            time.sleep(LOOK_SECONDS)


def _runs(machine: Machine) -> bool:
    """Also of a guest that is paused, or that nobody could look at: it runs until it was seen to be off."""
    started = bool(machine.run.started_at) and machine.run.stopped is None
    return started or machine.status.state == pb.MACHINE_RUNNING
