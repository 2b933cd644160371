"""`sri-libvirt serve`: run the provider in the foreground."""

from __future__ import annotations

import click

from sri_libvirt.cli import options
from sri_libvirt.config import Settings


@click.command()
@options.settings()
def serve(settings: Settings) -> None:
    """Serve this host as a pool of machines, until SIGTERM or SIGINT. Guests outlive it."""
    from sri_libvirt import app, log  # grpc and libvirt take a third of a second to load

    log.set_up(settings.log_level, settings.log_format)
    app.serve(settings)
