"""`sri-libvirt network`: what network interfaces are joined to."""

from __future__ import annotations

import click

from sri_libvirt.cli.lazy import LazyGroup

COMMANDS = {
    "check": (
        "sri_libvirt.cli.network.check:check",
        "Say what a network id leads to and whether that is there, without the daemon.",
    ),
}


@click.group(cls=LazyGroup, table=COMMANDS)
def network() -> None:
    """Look at what network interfaces are joined to. Nothing is made or reserved."""
