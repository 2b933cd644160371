"""`sri-libvirt machine create|start|stop|delete|attach|detach`: what a poollet asks, asked by a person.

Whether what is asked is right the provider says, in its own words. How it is reached does not belong here (`sri.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, TextIO, TypeVar, cast

import click

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.cli import manifest
from sri_libvirt.cli import output as out
from sri_libvirt.cli.machine import sri
from sri_libvirt.cli.options import Duration
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.config import Settings
from sri_libvirt.errors import ConfigError, FailedPrecondition, NotFound

F = TypeVar("F", bound=Callable[..., Any])
Kind = Literal["volume", "nic"]

_file = click.option(
    "-f", "--file", "file", type=click.File(encoding="utf-8"), required=True, help="In srictl's form; - is stdin."
)


def _waits(command: F) -> F:
    @wraps(command)
    def checked(*arguments: Any, wait: bool, timeout: int | None, **options: Any) -> Any:
        if timeout is not None and not wait:
            raise click.UsageError("--timeout is how long --wait waits: give --wait, too")
        return command(*arguments, wait=wait, timeout=timeout, **options)

    timed = click.option("--timeout", type=Duration(), help="How long --wait waits, as 90s; for ever by default.")
    waiting = click.option("--wait", is_flag=True, help="End once it is so.")
    return cast(F, waiting(timed(checked)))


@click.command()
@_file
@_waits
@settings_options("address")
def create(file: TextIO, *, wait: bool, timeout: int | None, settings: Settings) -> None:
    """Create the machine that a file describes; prints its id.

    A poollet beside this provider knows nothing of it, and leaves it alone as long as it has none of the poollet's
    labels.
    """
    message = manifest.machine(_text(file), file.name, out.warn)
    with sri.connected(settings) as client:
        made = client.call("CreateMachine", pb.CreateMachineRequest(machine=message)).machine
        out.say(made.metadata.id)
        out.flush()
        if wait:
            off = made.spec.power == pb.POWER_OFF
            state = pb.MACHINE_SUSPENDED if off else pb.MACHINE_RUNNING
            client.wait(made.metadata.id, "off" if off else "running", sri.settled(state), timeout)


@click.command()
@click.argument("machine")
@_waits
@settings_options("address")
def start(machine: str, *, wait: bool, timeout: int | None, settings: Settings) -> None:
    """Set a machine's power ON."""
    _power(machine, pb.POWER_ON, settings, timeout, wait=wait)


@click.command()
@click.argument("machine")
@_waits
@settings_options("address")
def stop(machine: str, *, wait: bool, timeout: int | None, settings: Settings) -> None:
    """Set a machine's power OFF: its guest is asked to shut down, and ended after the grace time."""
    _power(machine, pb.POWER_OFF, settings, timeout, wait=wait)


def _power(word: str, power: pb.Power, settings: Settings, timeout: int | None, *, wait: bool) -> None:
    with sri.connected(settings) as client:
        found = client.find(word)
        client.call("UpdateMachinePower", pb.UpdateMachinePowerRequest(machine_id=found.metadata.id, power=power))
        if wait:
            state = pb.MACHINE_RUNNING if power == pb.POWER_ON else pb.MACHINE_SUSPENDED
            what = "running" if power == pb.POWER_ON else "off"
            client.wait(found.metadata.id, what, sri.settled(state), timeout)


@click.command()
@click.argument("machine")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_waits
@settings_options("address")
def delete(machine: str, *, yes: bool, wait: bool, timeout: int | None, settings: Settings) -> None:
    """Delete a machine, with its disks: its image's and the empty ones. Volumes of backends stay."""
    with sri.connected(settings) as client:
        found = client.find(machine)
        if not yes and not click.confirm(f"Delete machine {sri.title(found)} and its disks?", err=True):
            raise click.Abort
        client.call("DeleteMachine", pb.DeleteMachineRequest(machine_id=found.metadata.id))
        if wait:
            client.wait(found.metadata.id, "gone", lambda left: left is None, timeout)


@click.command()
@click.argument("machine")
@_file
@_waits
@settings_options("address")
def attach(machine: str, file: TextIO, *, wait: bool, timeout: int | None, settings: Settings) -> None:
    """Attach the volume or network interface that a file describes: what has a network_id is an interface."""
    text = _text(file)
    kind: Kind = "nic" if manifest.has_key(text, "network_id") else "volume"
    with sri.connected(settings) as client:
        machine_id = client.find(machine).metadata.id
        if kind == "nic":
            nic = manifest.network_interface(text, file.name, out.warn)
            name = nic.name
            request = pb.AttachNetworkInterfaceRequest(machine_id=machine_id, network_interface=nic)
            client.call("AttachNetworkInterface", request)
        else:
            volume = manifest.volume(text, file.name, out.warn)
            name = volume.name
            client.call("AttachVolume", pb.AttachVolumeRequest(machine_id=machine_id, volume=volume))
        if wait:
            client.wait(machine_id, f"there with {kind} {name}", lambda left: _has(left, kind, name), timeout)


@click.command()
@click.argument("machine")
@click.argument("name")
@click.option("--kind", type=click.Choice(("volume", "nic")), help="Which, where both have the name.")
@_waits
@settings_options("address")
def detach(machine: str, name: str, *, kind: Kind | None, wait: bool, timeout: int | None, settings: Settings) -> None:
    """Detach a volume or network interface. What is on an empty disk stays until the machine is deleted."""
    with sri.connected(settings) as client:
        found = client.find(machine)
        which = _kind_of(found, name, kind)
        machine_id = found.metadata.id
        if which == "nic":
            client.call("DetachNetworkInterface", pb.DetachNetworkInterfaceRequest(machine_id=machine_id, name=name))
        else:
            client.call("DetachVolume", pb.DetachVolumeRequest(machine_id=machine_id, name=name))
        if wait:
            client.wait(machine_id, f"without {which} {name}", lambda left: not _is_there(left, which, name), timeout)


def _kind_of(machine: pb.Machine, name: str, kind: Kind | None) -> Kind:
    there: list[Kind] = ["volume"] if any(each.name == name for each in machine.spec.volumes) else []
    there += ["nic"] if any(each.name == name for each in machine.spec.network_interfaces) else []
    if kind is None and len(there) > 1:
        raise FailedPrecondition(f"a volume and a network interface are called {name!r}: give --kind")
    if not there or (kind is not None and kind not in there):
        raise NotFound(f"machine {sri.title(machine)} has no {kind or 'volume or nic'} {name!r}")
    return kind or there[0]


def _has(machine: pb.Machine | None, kind: Kind, name: str) -> bool:
    if machine is None:
        return False
    if kind == "nic":
        attached = pb.NETWORK_INTERFACE_ATTACHED
        return any(each.name == name and each.state == attached for each in machine.status.network_interfaces)
    return any(each.name == name and each.state == pb.VOLUME_ATTACHED for each in machine.status.volumes)


def _is_there(machine: pb.Machine | None, kind: Kind, name: str) -> bool:
    """Whether it is in the wish, or in the guest still."""
    if machine is None:
        return False
    devices = machine.spec.network_interfaces if kind == "nic" else machine.spec.volumes
    told = machine.status.network_interfaces if kind == "nic" else machine.status.volumes
    return any(each.name == name for each in (*devices, *told))


def _text(file: TextIO) -> str:
    try:
        return file.read()
    except UnicodeDecodeError:
        raise ConfigError(f"{file.name}: not UTF-8 text") from None
