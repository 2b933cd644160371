"""`sri-libvirt volume`: asks the backends of volumes."""

from __future__ import annotations

import click

from sri_libvirt.cli.lazy import LazyGroup

_ROOM = "sri_libvirt.cli.volume"
COMMANDS = {
    "probe": (f"{_ROOM}.probe:probe", "Ask the backend of a volume in a file, without the daemon."),
    "rescan": (f"{_ROOM}.rescan:rescan", "See now whether a machine's volumes have grown."),
}


@click.group(cls=LazyGroup, table=COMMANDS)
def volume() -> None:
    """Ask the backends of volumes. No secret is ever shown."""
