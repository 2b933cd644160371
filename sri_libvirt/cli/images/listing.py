"""`sri-libvirt images list`."""

from __future__ import annotations

from typing import Any

import click

from sri_libvirt.cli import output as out
from sri_libvirt.cli.images.ask import OPTIONS, ask
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.config import Settings
from sri_libvirt.resources import byte_words

HEADINGS = ("SOURCE", "FORMAT", "SIZE", "MACHINES", "UNUSED", "FILE")


@click.command("list")
@settings_options(*OPTIONS)
@out.form("table", "json", "yaml")
def listing(settings: Settings, output: str) -> None:
    """Show the images that are kept, the longest unused first, and how far those are that are being fetched."""
    found: dict[str, Any] = ask(settings, "images", {})
    if output != "table":
        out.data(found, output)
        return
    out.table(HEADINGS, [_row(each) for each in found["files"]])
    for each in found["pulls"]:
        out.say(f"being fetched since {_span(each['seconds'])}: {each['source']}, {_share(each['bytes'], each['of'])}")
    out.say(f"{len(found['files'])} images, {byte_words(found['bytes'])} of disk")


def _row(each: dict[str, Any]) -> tuple[str, ...]:
    unused = "" if each["machines"] else _span(each["unused_seconds"])
    name = each["file"].rpartition("/")[2]
    return each["source"], each["format"], byte_words(each["bytes"]), str(each["machines"]), unused, name


def _share(done: int, of: int | None) -> str:
    return f"{byte_words(done)} of {byte_words(of)}" if of else byte_words(done)


def _span(seconds: int) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
