"""`sri-libvirt machine why`: why a machine is not what it should be, in sentences, and what to do."""

from __future__ import annotations

from collections.abc import Iterator

import click

from sri_libvirt import statedir
from sri_libvirt.cli import output as out
from sri_libvirt.cli import show
from sri_libvirt.cli.find import find, open_store
from sri_libvirt.cli.machine import pace
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.config import Settings
from sri_libvirt.paths import StatePaths
from sri_libvirt.reconcile.reasons import advice, notes
from sri_libvirt.records import Event, Machine
from sri_libvirt.store import reserve
from sri_libvirt.store.database import ROOM


@click.command()
@click.argument("machine")
@settings_options("state_dir")
@out.form("text", "json", "yaml")
def why(machine: str, settings: Settings, output: str) -> None:
    """Say why a machine is not what it should be, and what to do."""
    with open_store(settings) as reader:
        found = find(reader, machine)
        latest = reader.events(found.id, 1)
        clock = reader.clock()
    paths = StatePaths(settings.state_dir)
    running, problem = statedir.is_held(paths), reserve.unwritable(paths.reserve)
    image = pace.of_image(paths, found)
    if output == "text":
        for line in sentences(found, latest[-1] if latest else None, running, clock(), doubted=bool(problem)):
            out.say(line)
        if image:
            out.say(pace.words(image))
        if problem:
            cure = ROOM if problem == "full" else "look why the kernel writes to it no more, and mount it anew"
            out.say(f"The file system of {paths.root} is {problem}, so this may be out of date: {cure}.")
        return
    shown = {
        **show.brief(found, clock),
        "as_it_should_be": None if problem and settled(found) else settled(found),
        "generation": found.generation,
        "observed_generation": found.observed_generation,
        "provider_running": running,
        "state_directory_problem": problem or None,
        "image_pull": image,
        "notes": notes(found),
    }
    out.data(shown, output)


def settled(machine: Machine) -> bool:
    """Whether the latest pass looked at the latest wish and found nothing missing."""
    return not machine.reasons and not machine.deleted_at and machine.observed_generation >= machine.generation


def sentences(
    machine: Machine, latest: Event | None, running: bool | None, now: int, *, doubted: bool = False
) -> Iterator[str]:
    """The answer, line by line. `running`: whether the provider runs, None when that cannot be known. `doubted`: what
    has become of it since may not be on record.
    """
    title = f"{show.name(machine)} ({machine.id})" if show.name(machine) else machine.id
    wish = "gone" if machine.deleted_at else {"ON": "on", "OFF": "off"}.get(show.power(machine), "?")
    yield f"Machine {title} {'was last known to be' if doubted else 'is'} {show.state(machine)} and should be {wish}."
    if running is False:
        yield "The provider does not run: what follows is as it left it, and nothing changes until it runs again."
    if settled(machine):
        yield "Nothing else is on record." if doubted else "It is as it should be."
    elif machine.reasons:
        yield from _numbered(machine, now)
    elif machine.deleted_at:
        yield f"It is being deleted since {show.ago(machine.deleted_at, now)}; nothing is known that holds it up."
    if machine.observed_generation < machine.generation:
        yield _not_looked_at(machine)
    for note in notes(machine):
        yield f"Note: {note}."
    if latest is not None:
        yield f"Latest entry of its timeline, {show.ago(latest.latest, now)} ago: {latest.message}"


def _numbered(machine: Machine, now: int) -> Iterator[str]:
    for number, reason in enumerate(machine.reasons, 1):
        since = f" (for {show.ago(reason.since, now)})" if reason.since else ""
        yield f"{number}. {reason.message[:1].upper()}{reason.message[1:]}{since}."
        if reason.advice:
            yield f"   {advice(reason, machine.id)}"


def _not_looked_at(machine: Machine) -> str:
    if not machine.observed_generation:
        return "No pass has looked at it yet with libvirt at hand."
    return (
        f"Its latest change (generation {machine.generation}) has not been looked at yet with libvirt at hand; "
        f"the last one that was is generation {machine.observed_generation}."
    )
