"""`sri-libvirt machine xml`: a machine's domain as it would be defined, as it is defined, and as it runs; and in what
these differ."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import click

from sri_libvirt import printable
from sri_libvirt.cli import output as out
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.cli.reading import LOOK_SECONDS, connecting, open_store
from sri_libvirt.config import Settings
from sri_libvirt.domain import compare, observed, ports
from sri_libvirt.domain.compiler import DomainCompiler
from sri_libvirt.errors import FailedPrecondition
from sri_libvirt.looks import Looks
from sri_libvirt.paths import StatePaths
from sri_libvirt.views import live
from sri_libvirt.views.find import find

Which = Literal["live", "persistent", "as-defined"]
VIEWS: tuple[Which, ...] = ("as-defined", "persistent", "live")


@click.command("xml")
@click.argument("machine")
@click.option("--live", "which", flag_value="live", help="As its guest runs.")
@click.option("--persistent", "which", flag_value="persistent", help="As libvirt has it defined.")
@click.option("--as-defined", "which", flag_value="as-defined", help="As it would be defined now; the default.")
@click.option(
    "--diff", is_flag=True, help="In what they differ: the two next to each other, or that one and the first."
)
@settings_options("state_dir", "libvirt_uri", "template_dir", "schema_dir")
def domain_xml(machine: str, *, which: Which | None, diff: bool, settings: Settings) -> None:
    """Print a machine's domain XML, or in what would be defined, is defined and runs differ.

    Compared is what makes the machine: its hardware, memory, buses and devices, and devices that are not ours; not what
    libvirt adds to each. Nothing is printed, and the status is 0, when that is the same; it is 1 when not.
    """
    if not diff:
        out.document(printable.xml_text(_views(machine, settings, {which or "as-defined"})[which or "as-defined"]))
        return
    wanted = {"as-defined", which} if which not in (None, "as-defined") else set(VIEWS)
    views = _views(machine, settings, {each for each in VIEWS if each in wanted}, absent=True)
    facts = {name: compare.facts(observed.read(views[name])) for name in VIEWS if name in views}
    names = list(facts)
    differ = [_print_difference(one, other, facts) for one, other in pairwise(names)]
    if any(differ):
        sys.exit(1)


def _views(machine: str, settings: Settings, wanted: set[Which], *, absent: bool = False) -> Mapping[Which, str]:
    """The XML of each; with `absent` without those that are not there. Raises FailedPrecondition."""
    with open_store(settings) as reader:
        found, instance = find(reader, machine), reader.instance
    views: dict[Which, str] = {}
    if "as-defined" in wanted:
        if found.profile is None:
            raise FailedPrecondition("its hardware is not chosen yet: that is done at its first start")
        compiler = DomainCompiler(instance, settings.template_dir, settings.schema_dir)
        paths = StatePaths(settings.state_dir).machine(found.id)
        views["as-defined"] = compiler.domain_xml(found, ports.in_domain(found.attachments), paths, found.run.uuid)
    if wanted - {"as-defined"}:
        snapshot = live.snapshot(connecting(settings), Looks(patience=LOOK_SECONDS), found.id)
        if snapshot is not None:
            views |= {"persistent": snapshot.persistent_xml, "live": snapshot.live_xml}
    views = {name: text for name, text in views.items() if text and name in wanted}
    missing = sorted(wanted - views.keys())
    if missing and not (absent and missing == ["live"]):
        raise FailedPrecondition(f"the machine has no domain that is {'running' if missing == ['live'] else 'defined'}")
    return views


def _print_difference(one: Which, other: Which, facts: Mapping[Which, Mapping[str, str]]) -> bool:
    """Whether there is one, in the form of diff -u."""
    before, after = facts[one], facts[other]
    changed = [key for key in dict.fromkeys((*before, *after)) if before.get(key) != after.get(key)]
    if not changed:
        return False
    out.say(f"--- {one}")
    out.say(f"+++ {other}")
    for key in changed:
        for sign, colour, side in (("-", "red", before), ("+", "green", after)):
            if key in side:
                out.say(f"{sign}{key}: {side[key]}" if side[key] else f"{sign}{key}", colour)
    return True
