"""`sri-libvirt images prune`."""

from __future__ import annotations

import click

from sri_libvirt.cli import output as out
from sri_libvirt.cli.images.ask import OPTIONS, ask
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.config import Settings
from sri_libvirt.resources import byte_words


@click.command()
@click.option("--all", "everything", is_flag=True, help="Also those that were needed a short time ago.")
@settings_options(*OPTIONS)
def prune(everything: bool, settings: Settings) -> None:
    """Remove images that no machine needs and that were not needed for --image-keep; the daemon does so by itself.

    One that a machine needs is never removed, even if its guest is off.
    """
    freed = ask(settings, "images-prune", {"all": everything})["bytes"]
    out.say(f"{byte_words(freed)} of disk came free")
