"""Templates: ours, an operator's, and broken ones."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from sri_libvirt.domain.compiler import DomainCompiler
from sri_libvirt.domain.render import DISK, NIC, Renderer, shipped_templates
from sri_libvirt.domain.schema import DIRECTORY, DomainSchema
from sri_libvirt.errors import ConfigError, HypervisorError
from sri_libvirt.records import Machine
from tests.unit.domain import samples

SPEC = samples.spec_of(samples.full())


def override(directory: Path, text: str, name: str = NIC) -> Path:
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(text)
    return directory


def compile_with(directory: Path | None) -> str:
    machine = samples.full()
    compiler = DomainCompiler(samples.INSTANCE, directory, DIRECTORY)
    return compiler.domain_xml(machine, machine.attachments, samples.PATHS, samples.RUN)


def test_one_file_overridden_the_others_ours(tmp_path: Path) -> None:
    ours = (shipped_templates() / NIC).read_text()
    changed = ours.replace("<link state='up'/>", "<link state='up'/>\n  <mtu size='9000'/>")
    text = compile_with(override(tmp_path, changed))
    assert text.count('<mtu size="9000"/>') == len(SPEC.nics)
    assert text.count("<disk ") == len(SPEC.disks)


def of_class(directory: Path) -> Machine:
    machine = samples.full()
    policy = replace(machine.machine_class.policy, template_dir=str(directory))
    return replace(machine, machine_class=replace(machine.machine_class, policy=policy))


def test_templates_of_a_class_come_before_the_operators_and_ours(tmp_path: Path) -> None:
    ours = (shipped_templates() / NIC).read_text()
    general = override(tmp_path / "general", ours.replace("<link state='up'/>", "<link state='up'/><mtu size='9000'/>"))
    override(general, (shipped_templates() / DISK).read_text().replace("'{{ how.cache }}'", "'directsync'"), DISK)
    own = override(tmp_path / "own", ours.replace("<link state='up'/>", "<link state='up'/><mtu size='1400'/>"))
    machine, compiler = of_class(own), DomainCompiler(samples.INSTANCE, general, DIRECTORY)
    compiler.check(machine.machine_class)
    text = compiler.domain_xml(machine, machine.attachments, samples.PATHS, samples.RUN)
    assert text.count('<mtu size="1400"/>') == len(SPEC.nics)
    assert 'size="9000"' not in text
    assert text.count('cache="directsync"') == len(SPEC.disks)
    nic = next(row for row in machine.attachments if row.kind == "nic")
    assert 'size="1400"' in compiler.device_xml(machine, nic)
    assert 'size="9000"' in compiler.device_xml(samples.full(), nic)


def test_a_classs_templates_that_cannot_be_used_are_found_at_start_and_keep_a_machine_waiting(tmp_path: Path) -> None:
    machine, compiler = of_class(tmp_path / "absent"), DomainCompiler(samples.INSTANCE, None, DIRECTORY)
    with pytest.raises(ConfigError, match=rf"machine class .*{tmp_path}/absent: there is no such directory"):
        compiler.check(machine.machine_class)
    with pytest.raises(HypervisorError, match="no such directory"):
        compiler.domain_xml(machine, machine.attachments, samples.PATHS, samples.RUN)
    override(tmp_path / "absent", "<interface>\n{% if %}\n</interface>")
    with pytest.raises(ConfigError, match=rf"machine class .*{NIC}, line 2"):
        compiler.check(machine.machine_class)


def test_a_directory_of_a_class_that_hangs_holds_up_no_other_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = DomainCompiler(samples.INSTANCE, None, DIRECTORY)
    begun, answers = threading.Event(), threading.Event()

    def hangs(*_: Path) -> Renderer:
        begun.set()
        answers.wait(30)
        return Renderer()

    monkeypatch.setattr("sri_libvirt.domain.compiler.Renderer", hangs)
    stuck = threading.Thread(target=compiler.check, args=(of_class(tmp_path).machine_class,))
    stuck.start()
    assert begun.wait(10)
    machine = samples.full()
    assert compiler.domain_xml(machine, machine.attachments, samples.PATHS, samples.RUN)
    assert stuck.is_alive()
    answers.set()
    stuck.join(10)


def test_version_tells_templates_apart(tmp_path: Path) -> None:
    theirs = Renderer(override(tmp_path, "{# mine #}" + (shipped_templates() / NIC).read_text()))
    assert theirs.version != Renderer().version
    assert f'template="{theirs.version}"' in theirs.render(SPEC)


def test_syntax_error_is_found_at_start(tmp_path: Path) -> None:
    override(tmp_path, "<interface>\n{% if %}\n</interface>")
    with pytest.raises(ConfigError, match=rf"{tmp_path}/{NIC}, line 2"):
        Renderer(tmp_path)


def test_no_such_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such directory"):
        Renderer(tmp_path / "absent")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<interface>\n\n{{ nic.colour }}</interface>", "line 3: .*colour"),
        ("<interface>\n{{ nic.port + 'x' }}</interface>", "line 2: "),
        ("{% include 'absent' %}", "line 1: .*absent"),
    ],
)
def test_a_fault_names_file_and_line(tmp_path: Path, text: str, words: str) -> None:
    renderer = Renderer(override(tmp_path, text))
    with pytest.raises(HypervisorError, match=rf"{tmp_path}/{NIC}, {words}"):
        renderer.render(SPEC)


def test_not_well_formed(tmp_path: Path) -> None:
    renderer = Renderer(override(tmp_path, "<interface>"))
    with pytest.raises(HypervisorError, match=r"not well-formed XML: .*line \d+"):
        renderer.render_device(SPEC.nics[0])


def test_a_template_that_loses_an_alias_is_refused(tmp_path: Path) -> None:
    changed = (shipped_templates() / NIC).read_text().replace("<alias name='{{ nic.alias }}'/>", "")
    with pytest.raises(HypervisorError, match=r"interface ua-nic-.* is missing"):
        compile_with(override(tmp_path, changed))


@pytest.mark.parametrize(
    ("kind", "lost", "instead", "word"),
    [
        ("block-luks", "if disk.encryption", "if false", "encryption"),
        ("nbd-tls-luks", "if net.tls", "if false", "TLS"),
        ("ceph", "set net = disk.network", "set net = none", "source"),
    ],
)
def test_a_template_that_loses_how_a_disk_is_opened_is_refused_for_a_plug_too(
    tmp_path: Path, kind: str, lost: str, instead: str, word: str
) -> None:
    """One of before there were such disks: the guest would have the cipher's bytes to write over."""
    machine = samples.every_disk()
    row = next(row for row in machine.attachments if row.backing == samples.DISKS[kind])
    changed = (shipped_templates() / DISK).read_text().replace(lost, instead)
    compiler = DomainCompiler(samples.INSTANCE, override(tmp_path, changed, DISK), DIRECTORY)
    with pytest.raises(HypervisorError, match=rf"must have: {word} of {row.alias} is ''"):
        compiler.device_xml(machine, row)
    assert DomainCompiler(samples.INSTANCE, None, DIRECTORY).device_xml(machine, row)


def test_a_template_that_loses_an_alias_is_refused_for_a_plug_too(tmp_path: Path) -> None:
    machine = samples.full()
    changed = (shipped_templates() / NIC).read_text().replace("<alias name='{{ nic.alias }}'/>", "")
    compiler = DomainCompiler(samples.INSTANCE, override(tmp_path, changed), DIRECTORY)
    nic = next(row for row in machine.attachments if row.kind == "nic")
    with pytest.raises(HypervisorError, match=f"alias is '', not '{nic.alias}'"):
        compiler.device_xml(machine, nic)


@pytest.mark.skipif(not (DIRECTORY / "domain.rng").exists(), reason="libvirt's schemas are not installed")
def test_a_misspelt_element_is_refused(tmp_path: Path) -> None:
    changed = (shipped_templates() / NIC).read_text().replace("<link ", "<lnik ")
    with pytest.raises(HypervisorError, match="schema allows: line"):
        compile_with(override(tmp_path, changed))


def test_without_schemas_nothing_is_refused(tmp_path: Path) -> None:
    schema = DomainSchema(tmp_path)
    assert not schema.present
    schema.validate("<anything/>")


def test_a_broken_schema_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "domain.rng").write_text("<grammar")
    assert not DomainSchema(tmp_path).present


def test_a_machine_without_profile_is_a_mistake_of_ours() -> None:
    machine = samples.machine()
    compiler = DomainCompiler(samples.INSTANCE, None, DIRECTORY)
    object.__setattr__(machine, "profile", None)
    with pytest.raises(ValueError, match="no profile"):
        compiler.domain_xml(machine, [], samples.PATHS, samples.RUN)
