"""`sri-libvirt images`: the images that were fetched for machines of this host."""

from __future__ import annotations

import click

from sri_libvirt.cli.lazy import LazyGroup

_ROOM = "sri_libvirt.cli.images"
COMMANDS = {
    "list": (f"{_ROOM}.listing:listing", "Show what is in the image cache, and what is being fetched."),
    "pull": (f"{_ROOM}.pull:pull", "Fetch an image before a machine needs it."),
    "prune": (f"{_ROOM}.prune:prune", "Remove images that no machine needs."),
    "check": (f"{_ROOM}.check:check", "Hash the image cache anew."),
}


@click.group(cls=LazyGroup, table=COMMANDS)
def images() -> None:
    """Images from registries and web servers, each once on this host. Through the daemon, or in its place."""
