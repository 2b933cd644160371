"""`sri-libvirt serve`: run the provider in the foreground."""

from __future__ import annotations

import sys

import click

from sri_libvirt import config, log  # before all else that logs: it sees to it that structlog brings no rich
from sri_libvirt.cli import options
from sri_libvirt.config import Settings
from sri_libvirt.errors import SRIError


@click.command()
@click.option(
    "--new-store",
    is_flag=True,
    help="Let an empty store begin though domains of another one have their disks in the state directory. Once.",
)
@options.settings()
def serve(settings: Settings, new_store: bool) -> None:
    """Serve this host as a pool of machines, until SIGTERM or SIGINT. Guests outlive it."""
    config.silence_grpc()
    from sri_libvirt import app  # grpc and libvirt take a third of a second to load

    log.set_up(settings.log_level, settings.log_format, journal=config.is_journal(sys.stderr.fileno()))
    try:
        app.serve(settings, new_store=new_store)
    except SRIError as error:
        if settings.log_format != "json":
            raise
        log.refused("cannot serve", str(error))
        sys.exit(1)
