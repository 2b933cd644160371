"""`sri-libvirt images check`."""

from __future__ import annotations

from typing import Any

import click

from sri_libvirt.cli import output as out
from sri_libvirt.cli.images.ask import OPTIONS, ask
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.config import Settings


@click.command()
@settings_options(*OPTIONS)
@out.form("table", "json", "yaml")
def check(settings: Settings, output: str) -> None:
    """Hash all images anew. One that is not what was fetched is removed, and fetched again when a machine needs it.

    Status 1 when there was such a one: the disk or file system below is not to be trusted, or somebody wrote to it.
    """
    found: list[dict[str, Any]] = ask(settings, "images-check", {})
    bad = [each for each in found if each["problem"]]
    if output == "table":
        out.table(("SOURCE", "STATE"), [(each["source"], each["problem"] or "as it was fetched") for each in found])
    else:
        out.data(found, output)
    if bad:
        raise click.ClickException(f"{len(bad)} of {len(found)} images were not as they were fetched, and are removed")
