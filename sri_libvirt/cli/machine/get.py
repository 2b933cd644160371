"""`sri-libvirt machine get`."""

from __future__ import annotations

from typing import Any

import click

from sri_libvirt.cli import output as out
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.cli.reading import reading
from sri_libvirt.config import Settings
from sri_libvirt.resources import byte_words
from sri_libvirt.views import show


@click.command()
@click.argument("machine")
@settings_options("state_dir")
@out.form("yaml", "json", "table")
def get(machine: str, settings: Settings, output: str) -> None:
    """Show one machine with its devices; never its secrets.

    Whether the backends of its volumes answer is asked of the daemon, if there is one.
    """
    with reading(settings) as ask:
        shown = ask("get", machine=machine, heard=True)
    if output != "table":
        out.data(shown, output)
        return
    devices = shown.pop("devices")
    reasons = shown.pop("reasons")
    shown["reasons"] = "; ".join(each["message"] for each in reasons)
    shown["notes"] = "; ".join(shown["notes"])
    out.table(("FIELD", "VALUE"), [(key, _cell(value)) for key, value in shown.items()])
    out.say()
    # By what the guest knows them by: its names of disks (vda) are not libvirt's.
    columns = ("kind", "name", "state", "serial", "pci_address", "mac", "handle", "problem")
    rows = [[_cell(device.get(column)) for column in columns] for device in devices]
    out.table([column.upper().replace("_", " ") for column in columns], rows)
    if volumes := [device for device in devices if device["kind"] == "volume"]:
        out.say()
        out.table(("VOLUME", "DRIVER", "BACKEND", "SIZE", "ANSWERS"), [_volume(device) for device in volumes])
    if nics := [device for device in devices if device["kind"] == "nic"]:
        out.say()
        links = ("name", "driver", "joined_to", "vlan", "address", "filter")
        rows = [[_cell(device[each]) for each in links] for device in nics]
        out.table(("NIC", "DRIVER", "JOINED TO", "VLAN", "ADDRESS", "FILTER"), rows)


def _volume(device: dict[str, Any]) -> list[str]:
    size = device["size_bytes"]
    name, driver, backend = (_cell(device[key]) for key in ("name", "driver", "backend"))
    return [name, driver, backend, byte_words(size) if size else "", show.answers(device)]


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_cell(item)}" for key, item in value.items())
    return "" if value is None else str(value)
