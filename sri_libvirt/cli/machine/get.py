"""`sri-libvirt machine get`."""

from __future__ import annotations

import click

from sri_libvirt.cli.machine import output as out
from sri_libvirt.cli.machine import show
from sri_libvirt.cli.machine.find import find, open_store
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.config import Settings


@click.command()
@click.argument("machine")
@settings_options("state_dir")
@out.form("yaml", "json", "table")
def get(machine: str, settings: Settings, output: str) -> None:
    """Show one machine with its devices; never its secrets."""
    with open_store(settings) as reader:
        found, clock = find(reader, machine), reader.clock()
    shown = show.full(found, clock)
    if output != "table":
        out.data(shown, output)
        return
    devices = shown.pop("devices")
    reasons = shown.pop("reasons")
    shown["reasons"] = "; ".join(each["message"] for each in reasons)
    shown["notes"] = "; ".join(shown["notes"])
    out.table(("FIELD", "VALUE"), [(key, _cell(value)) for key, value in shown.items()])
    out.say()
    columns = ("kind", "name", "state", "target", "mac", "port", "handle", "problem")
    rows = [[_cell(device.get(column)) for column in columns] for device in devices]
    out.table([column.upper() for column in columns], rows)


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_cell(item)}" for key, item in value.items())
    return "" if value is None else str(value)
