"""`sri-libvirt volume rescan`."""

from __future__ import annotations

from typing import Any

import click

from sri_libvirt.cli import daemon
from sri_libvirt.cli import output as out
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.cli.reading import open_store
from sri_libvirt.config import Settings
from sri_libvirt.paths import StatePaths
from sri_libvirt.resources import byte_words
from sri_libvirt.views.find import find

FINE = frozenset({"same", "grown", "growing", "grows-at-start", "not-asked"})


@click.command()
@click.argument("machine")
@click.argument("volume", required=False, default="")
@settings_options("state_dir")
@out.form("table", "json", "yaml")
def rescan(machine: str, volume: str, settings: Settings, output: str) -> None:
    """Ask the backends of a running MACHINE's volumes how large they are, and let its guest see all of it.

    Of one VOLUME, or of all. The daemon does so by itself every 5 minutes. Status 1 when a backend fails or has become
    smaller than what the guest sees.
    """
    with open_store(settings) as reader:
        machine_id = find(reader, machine).id
    paths = StatePaths(settings.state_dir)
    told: list[dict[str, Any]] = daemon.through(paths, "rescan", {"machine": machine_id, "volume": volume}, _nobody)
    if output == "table":
        rows = [(each["volume"], each["outcome"], _size(each["bytes"]), each["message"]) for each in told]
        out.table(("VOLUME", "OUTCOME", "SIZE", "MESSAGE"), rows)
    else:
        out.data(told, output)
    if any(each["outcome"] not in FINE for each in told):
        raise click.ClickException("not every volume is as its guest has it")


def _nobody() -> Any:
    raise click.ClickException(
        "the daemon does not run, and it alone resizes disks of guests; it looks at them by itself once it runs"
    )


def _size(size: int | None) -> str:
    return "" if size is None else byte_words(size)
