"""`sri-libvirt network check`: which driver a network interface would get, and whether it would have to wait."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import click

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.cli import output as out
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.cli.planned import SAMPLE_ID
from sri_libvirt.config import Settings
from sri_libvirt.devices import Bandwidth
from sri_libvirt.errors import HypervisorError, NotReady, Unreachable
from sri_libvirt.hypervisor.base import Connection
from sri_libvirt.hypervisor.libvirt import LibvirtHypervisor
from sri_libvirt.hypervisor.networks import Lease, Network, PlannedNetworks
from sri_libvirt.nics import addresses
from sri_libvirt.nics.registry import LinkAccess, NicRegistry

MAC = "02:00:00:00:00:00"
"""The MAC of an interface that nobody has."""


@dataclass
class OnlyLooking(PlannedNetworks):
    """libvirt's networks, in which nothing is changed."""

    connection: Connection

    def network(self, name: str) -> Network | None:
        return self.connection.network(name)

    def leases(self, name: str) -> frozenset[Lease]:
        return self.connection.leases(name)


@click.command()
@click.argument("network_id", metavar="ID")
@click.option("--ip", "ips", multiple=True, metavar="ADDRESS", help="An address that its spec gives it; repeats.")
@click.option("-a", "--attribute", "said", multiple=True, metavar="KEY=VALUE", help="One of its attributes; repeats.")
@settings_options("libvirt_uri", "network_map", "allow_user_net", "sysfs")
@out.form("table", "json", "yaml")
def check(network_id: str, ips: tuple[str, ...], said: tuple[str, ...], settings: Settings, output: str) -> None:
    """Say what a network interface with this network id would be joined to, and whether that is there.

    Nothing is made or reserved, and the daemon is not asked. Status 1 when the interface would have to wait.
    """
    attributes = dict(_pair(each) for each in said)
    told = _told(pb.NetworkInterface(name="check", network_id=network_id, ips=ips, attributes=attributes), settings)
    if output == "table":
        for key, value in told.items():
            if value not in (None, {}, []):
                out.say(f"{key.replace('_', ' '):12} {_words(value)}")
    else:
        out.data(told, output)
    if not told["ready"]:
        raise click.ClickException("a network interface with this network id would wait")


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--attribute")
    return key, value


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(each)}" for name, each in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What an entry says, as plain data; what is not said of a bandwidth is left out."""
    return {
        name: {part: each for part, each in asdict(value).items() if each}
        if isinstance(value, Bandwidth)
        else list(value)
        if isinstance(value, tuple)
        else value
        for name, value in parameters.items()
    }


def _told(nic: pb.NetworkInterface, settings: Settings) -> dict[str, Any]:
    """What is told, as plain data. Raises InvalidSpec for what is wrong in itself, Unreachable without libvirt."""
    with _connected(settings) as connection:
        access = LinkAccess(
            map=settings.network_map,
            sysfs=settings.sysfs,
            libvirt_version=lambda: connection.offer().libvirt_version,
            user_net=settings.allow_user_net,
        )
        registry = NicRegistry.load(access=access)
        addresses.of(nic)
        driver, entry = registry.select(nic), registry.entry(nic.network_id)
        driver.validate(nic)
        told: dict[str, Any] = {
            "driver": driver.name,
            "entry": entry.network_id if entry else None,
            "parameters": _plain(entry.parameters) if entry else {},
            "attributes": {key: value for key, value in asdict(registry.attributes(nic)).items() if value},
            "not_heeded": sorted(nic.attributes.keys() - set(getattr(driver, "allow", ()))),
            "handle": driver.handle(SAMPLE_ID, nic) or None,
            "ready": False,
        }
        nothing = dict.fromkeys(("joined_to", "address", "filter", "code", "problem", "advice"))
        try:
            made = driver.prepare(SAMPLE_ID, nic, MAC, OnlyLooking(connection))
        except NotReady as error:
            found = {"code": error.code or None, "problem": str(error), "advice": error.advice or None}
        except Unreachable:
            raise
        except HypervisorError as error:
            found = {"problem": str(error)}
        else:
            given = " ".join(filter(None, (made.address, made.address6)))
            found = {"joined_to": made.source, "address": given or None, "filter": made.filter or None}
            return told | nothing | found | {"ready": True}
        return told | nothing | found


@contextmanager
def _connected(settings: Settings) -> Iterator[Connection]:
    connection = LibvirtHypervisor(settings.libvirt_uri).connect()
    try:
        yield connection
    finally:
        connection.close()
