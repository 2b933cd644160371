"""A persistent domain that somebody else has changed: found once for each text, told, and no obstacle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sri_libvirt.domain import compare, observed, ports
from sri_libvirt.domain.compiler import DomainCompiler
from sri_libvirt.paths import StatePaths
from sri_libvirt.reconcile import actions as act
from sri_libvirt.reconcile.edits import Edits
from sri_libvirt.records import Machine
from tests.unit.domain import samples
from tests.unit.reconcile.world import codes, running, volume_row


class Compiler(DomainCompiler):
    """Counts what it is asked."""

    def __init__(self, templates: Path | None = None) -> None:
        super().__init__(samples.INSTANCE, templates, Path("/nowhere"))
        self.asked = 0

    def edited(self, *args: object) -> list[str]:
        self.asked += 1
        return super().edited(*args)  # type: ignore[arg-type]


@pytest.fixture
def machine() -> Machine:
    return samples.every_nic()


def defined(machine: Machine, compiler: DomainCompiler, tmp_path: Path) -> str:
    paths = StatePaths(tmp_path).machine(machine.id)
    return compiler.domain_xml(machine, ports.in_domain(machine.attachments), paths, machine.run.uuid)


def test_what_is_as_it_was_defined_is_looked_at_once(machine: Machine, tmp_path: Path) -> None:
    compiler = Compiler()
    edits, text = Edits(compiler, StatePaths(tmp_path)), defined(machine, compiler, tmp_path)
    assert [edits.found(machine, text) for _ in range(3)] == [()] * 3
    assert compiler.asked == 1
    changed = text.replace("</vcpu>", "0</vcpu>")
    (words,) = edits.found(machine, changed)
    assert words.startswith("vcpus is ")
    assert edits.found(machine, changed) == (words,)
    assert compiler.asked == 2
    edits.found(replace(machine, generation=machine.generation + 1), changed)
    assert compiler.asked == 3, "what would be defined may be otherwise now"
    assert edits.found(machine, "") == ()
    assert not edits._known, "nothing is kept of a machine that has no domain"


@pytest.mark.parametrize("last", [{"profile": None}, {"deleted_at": 1}], ids=["without hardware", "deleted"])
def test_nothing_is_kept_of_a_machine_that_goes(machine: Machine, tmp_path: Path, last: dict[str, Any]) -> None:
    compiler = Compiler()
    edits, text = Edits(compiler, StatePaths(tmp_path)), defined(machine, compiler, tmp_path)
    changed = text.replace("</vcpu>", "0</vcpu>")
    assert edits.found(machine, changed)
    assert edits.found(replace(machine, **last), changed) == ()
    assert not edits._known


def test_what_an_operators_template_adds_is_no_edit(machine: Machine, tmp_path: Path) -> None:
    own = tmp_path / "templates"
    own.mkdir()
    ours = (Path(__file__).parents[3] / "templates" / "domain.xml.j2").read_text()
    (own / "domain.xml.j2").write_text(ours.replace("</devices>", "<graphics type='spice'/></devices>"))
    compiler = Compiler(own)
    text = defined(machine, compiler, tmp_path)
    assert "spice" in text
    assert Edits(compiler, StatePaths(tmp_path)).found(machine, text) == ()
    more = text.replace("</devices>", "<filesystem type='mount'/></devices>")
    assert Edits(compiler, StatePaths(tmp_path)).found(machine, more)


def test_a_template_that_cannot_be_used_is_no_edit_and_no_failed_look(machine: Machine, tmp_path: Path) -> None:
    compiler = Compiler()
    text = defined(machine, compiler, tmp_path)
    policy = replace(machine.machine_class.policy, template_dir="/nowhere/at/all")
    spoilt = replace(machine, machine_class=replace(machine.machine_class, policy=policy))
    assert Edits(compiler, StatePaths(tmp_path)).found(spoilt, text) == ()


def test_facts_are_the_same_of_equal_domains_and_name_what_differs(machine: Machine, tmp_path: Path) -> None:
    text = defined(machine, Compiler(), tmp_path)
    before = compare.facts(observed.read(text))
    assert before == compare.facts(observed.read(text.replace(machine.run.uuid or "no run", "another run")))
    after = compare.facts(observed.read(text.replace("</devices>", "<hostdev mode='subsystem'/></devices>")))
    assert after.keys() - before.keys() == {name for name in after if name.startswith("another device, hostdev")}
    assert {name: after[name] for name in before} == before


def test_reason_domain_edited_is_told_and_holds_nothing_up() -> None:
    world = running(volume_row())
    world.edits = ("memory kib is '2', not '1'", "a", "b", "c", "d")
    made = world.look()
    assert codes(world) == ["domain-edited"]
    assert made.actions == ()
    assert made.reasons[0].message.endswith("puts it back: memory kib is '2', not '1'; a; b; and 2 more")
    world.edits = ()
    world.look()
    assert codes(world) == []
    world.edits = ("vcpus",)
    assert world.record is not None
    world.record = replace(world.record, deleted_at=world.now)
    assert "domain-edited" not in [each.code for each in world.look().reasons]
    assert any(isinstance(each, act.PressButton) for each in world.look().actions)
