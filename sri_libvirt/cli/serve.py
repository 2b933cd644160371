"""`sri-libvirt serve`: run the provider in the foreground."""

from __future__ import annotations

import sys

import click
import structlog

from sri_libvirt.cli import options
from sri_libvirt.config import Settings
from sri_libvirt.errors import SRIError


@click.command()
@options.settings()
def serve(settings: Settings) -> None:
    """Serve this host as a pool of machines, until SIGTERM or SIGINT. Guests outlive it."""
    from sri_libvirt import app, log  # grpc and libvirt take a third of a second to load

    log.set_up(settings.log_level, settings.log_format)
    try:
        app.serve(settings)
    except SRIError as error:
        if settings.log_format != "json":
            raise
        structlog.get_logger(__name__).critical("cannot serve", error=str(error))
        sys.exit(1)
