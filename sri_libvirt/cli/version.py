"""`sri-libvirt version`."""

from __future__ import annotations

import click

from sri_libvirt import __version__


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"sri-libvirt {__version__}")
