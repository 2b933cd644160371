"""`sri-libvirt version`."""

from __future__ import annotations

import click

from sri_libvirt import __version__
from sri_libvirt.cli import output as out


@click.command()
def version() -> None:
    """Print the version."""
    out.say(f"sri-libvirt {__version__}")
