"""Asking for the image cache: the daemon that runs, else this process in its place. What is shown is not its affair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sri_libvirt.cli import daemon
from sri_libvirt.cli.images import here
from sri_libvirt.config import Settings
from sri_libvirt.paths import StatePaths

FETCHING = ("image_source", "insecure_registry", "registry_auth", "registry_ca", "image_pulls")
KEEPING = ("image_keep", "image_min_free")
OPTIONS = ("state_dir", *FETCHING, *KEEPING)
"""Settings that count where no daemon runs; one that runs has its own."""


def ask(settings: Settings, command: str, arguments: Mapping[str, Any]) -> Any:
    """The result of a command of `images/commands.py`."""

    def instead() -> Any:
        with here.commands(settings) as commands:
            return commands.table()[command](arguments)

    return daemon.through(StatePaths(settings.state_dir), command, arguments, instead)
