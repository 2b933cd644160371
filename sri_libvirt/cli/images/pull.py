"""`sri-libvirt images pull`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import click

from sri_libvirt.cli import daemon
from sri_libvirt.cli import output as out
from sri_libvirt.cli.images import here
from sri_libvirt.cli.images.ask import OPTIONS
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.config import Settings
from sri_libvirt.images.commands import ImageCommands
from sri_libvirt.paths import StatePaths

POLL_SECONDS = 0.25


class Shown(Protocol):
    """Is told how far it is."""

    def __call__(self, done: int | None, of: int | None, /) -> None: ...


@click.command()
@click.argument("image")
@settings_options(*OPTIONS)
def pull(image: str, settings: Settings) -> None:
    """Have IMAGE on this host before a machine needs it: registry/repository:tag, or an https:// URL.

    Prints it by its content. Through the daemon, by its settings, or in its place where none runs. An interrupted pull
    goes on where it was. Status 1, with the reason, when it cannot be had now.
    """
    paths = StatePaths(settings.state_dir)
    arguments: dict[str, Any] = {"image": image, "anew": True}
    with _progress(image) as shown:

        def instead() -> dict[str, Any]:
            with here.commands(settings) as commands:
                return _until_here(commands, arguments, shown)

        while True:
            told: dict[str, Any] = daemon.through(paths, "images-pull", arguments, instead)
            if told["ready"]:
                break
            arguments["anew"] = False
            shown(told["bytes"], told["of"])
            time.sleep(POLL_SECONDS)
    out.say(told["reference"])


def _until_here(commands: ImageCommands, arguments: dict[str, Any], shown: Shown) -> dict[str, Any]:
    while not (told := commands.pull(arguments))["ready"]:
        arguments["anew"] = False
        shown(told["bytes"], told["of"])
        time.sleep(POLL_SECONDS)
    return told


@contextmanager
def _progress(image: str) -> Iterator[Shown]:
    """A bar on a terminal; nothing in a pipe."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from sri_libvirt import printable

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        yield lambda _done, _of: None
        return
    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    text = TextColumn("{task.description}", markup=False)
    with Progress(text, *columns, console=console, transient=True) as progress:
        task = progress.add_task(printable.line(image), total=None)
        yield lambda done, of: progress.update(task, completed=done or 0, total=of)
