"""`sri-libvirt machine why`: why a machine is not what it should be, in sentences, and what to do."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from sri_libvirt.cli import output as out
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.cli.reading import reading
from sri_libvirt.config import Settings
from sri_libvirt.resources import byte_words
from sri_libvirt.store.database import ROOM
from sri_libvirt.views import show


@click.command()
@click.argument("machine")
@settings_options("state_dir")
@out.form("text", "json", "yaml")
def why(machine: str, settings: Settings, output: str) -> None:
    """Say why a machine is not what it should be, and what to do."""
    with reading(settings) as ask:
        found = ask("why", machine=machine)
    if output != "text":
        out.data(found, output)
        return
    for line in sentences(found, time.time_ns()):
        out.say(line)
    if found["image_pull"]:
        out.say(_pull(found["image_pull"]))
    if problem := found["state_directory_problem"]:
        cure = ROOM if problem == "full" else "look why the kernel writes to it no more, and mount it anew"
        out.say(f"The file system of {found['state_directory']} is {problem}, so this may be out of date: {cure}.")


def sentences(found: Mapping[str, Any], now: int) -> Iterator[str]:
    """The answer to `why`, line by line; `now` is by the wall clock. Where nothing can be written down, what has become
    of the machine since is not on record.
    """
    name, doubted = show.full_name(found["namespace"], found["name"]), bool(found["state_directory_problem"])
    title = f"{name} ({found['id']})" if name else found["id"]
    wish = "gone" if found["deleted"] else {"ON": "on", "OFF": "off"}.get(found["power"], "?")
    yield f"Machine {title} {'was last known to be' if doubted else 'is'} {found['state']} and should be {wish}."
    if found["provider_running"] is False:
        yield "The provider does not run: what follows is as it left it, and nothing changes until it runs again."
    if found["as_it_should_be"] is not False:
        yield "Nothing else is on record." if doubted else "It is as it should be."
    elif found["reasons"]:
        yield from _numbered(found["reasons"], now)
    elif found["deleted"]:
        yield f"It is being deleted since {_ago(found['deleted'], now)}; nothing is known that holds it up."
    if found["observed_generation"] < found["generation"]:
        yield _not_looked_at(found)
    for note in found["notes"]:
        yield f"Note: {note}."
    if latest := found["latest"]:
        yield f"Latest entry of its timeline, {_ago(latest['last'], now)} ago: {latest['message']}"


def _numbered(reasons: Sequence[Mapping[str, Any]], now: int) -> Iterator[str]:
    for number, reason in enumerate(reasons, 1):
        since = f" (for {_ago(reason['since'], now)})" if reason["since"] else ""
        yield f"{number}. {reason['message'][:1].upper()}{reason['message'][1:]}{since}."
        if reason["advice"]:
            yield f"   {reason['advice']}"


def _ago(shown: str, now: int) -> str:
    return show.ago(show.moment(shown), now)


def _not_looked_at(found: Mapping[str, Any]) -> str:
    if not found["observed_generation"]:
        return "No pass has looked at it yet with libvirt at hand."
    return (
        f"Its latest change (generation {found['generation']}) has not been looked at yet with libvirt at hand; "
        f"the last one that was is generation {found['observed_generation']}."
    )


def _pull(pace: Mapping[str, Any]) -> str:
    of = f" of {byte_words(pace['of'])}" if pace["of"] else ""
    return f"Of its image {byte_words(pace['bytes'])}{of} are here after {pace['seconds']} s."
