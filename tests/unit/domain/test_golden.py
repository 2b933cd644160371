"""Whole domains, and a disk of every kind, as they are; every change of a template or builder shows here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sri_libvirt.domain import compare, disks, nics
from sri_libvirt.domain.render import Renderer
from sri_libvirt.domain.schema import DomainSchema
from sri_libvirt.domain.spec import Disk, Nic
from sri_libvirt.records import Machine
from tests.unit.domain import samples

GOLDEN = Path(__file__).parent / "golden"
DISKS = {**samples.DISKS, "nbd-reconnecting": samples.RECONNECTING}

MACHINES: dict[str, Machine] = {
    "bios-nothing": samples.machine(),
    "bios-ignition": samples.full(),
    "uefi-cloud-config": samples.full(samples.UEFI, b"#cloud-config\npackages: []\n"),
    "bios-volumes-only": samples.machine(samples.volume_row("b", "odb"), samples.volume_row("a", "oda")),
    "bios-every-disk": samples.every_disk(),
    "bios-every-nic": samples.every_nic(),
    "bios-kernel": samples.booting(samples.KERNEL_PIN, samples.BIOS),
    "uefi-uki": samples.booting(samples.UKI_PIN, samples.UEFI),
}


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer()


@pytest.fixture(scope="module")
def schema() -> DomainSchema:
    return DomainSchema()


@pytest.mark.parametrize("name", MACHINES)
def test_golden(name: str, renderer: Renderer, request: pytest.FixtureRequest) -> None:
    check(GOLDEN / f"{name}.xml", renderer.render(samples.spec_of(MACHINES[name])), request)


@pytest.mark.parametrize("name", DISKS)
def test_golden_disks(name: str, renderer: Renderer, request: pytest.FixtureRequest) -> None:
    row = samples.source_row(DISKS[name], port=1)
    check(GOLDEN / "disks" / f"{name}.xml", renderer.render_device(disks.one(row)), request)


@pytest.mark.parametrize("name", samples.NICS)
def test_golden_nics(name: str, renderer: Renderer, request: pytest.FixtureRequest) -> None:
    row = samples.nic_row(name, backing=samples.NICS[name], port=1)
    check(GOLDEN / "nics" / f"{name}.xml", renderer.render_device(nics.one(row)), request)


def test_golden_without_the_kernels_help(renderer: Renderer, request: pytest.FixtureRequest) -> None:
    nic = replace(nics.one(samples.nic_row("shaped", backing=samples.NICS["shaped"], port=1)), by_qemu=True)
    check(GOLDEN / "nics" / "by-qemu.xml", renderer.render_device(nic), request)


def check(path: Path, text: str, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--regenerate-golden"):
        path.write_text(text)
    assert text == path.read_text(), f"differs from {path.name}; pytest --regenerate-golden writes it anew"


@pytest.mark.parametrize("name", MACHINES)
def test_libvirts_schema_knows_it(name: str, renderer: Renderer, schema: DomainSchema) -> None:
    if not schema.present:
        pytest.skip("libvirt's schemas are not installed")
    schema.validate(renderer.render(samples.spec_of(MACHINES[name])))


@pytest.mark.parametrize("name", MACHINES)
def test_everything_asked_for_is_in_it(name: str, renderer: Renderer) -> None:
    spec = samples.spec_of(MACHINES[name])
    assert compare.verify(spec, renderer.render(spec)) == []
    assert spec.disks or spec.nics or name == "bios-nothing"


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.xml")} == MACHINES.keys()
    assert {path.stem for path in GOLDEN.glob("disks/*.xml")} == DISKS.keys()
    assert {path.stem for path in GOLDEN.glob("nics/*.xml")} == {*samples.NICS, "by-qemu"}


@pytest.mark.parametrize(
    "machine", [samples.full(), samples.every_disk(), samples.every_nic()], ids=["full", "every disk", "every NIC"]
)
def test_one_template_for_boot_and_hot_plug(machine: Machine, renderer: Renderer) -> None:
    spec = samples.spec_of(machine)
    whole = "".join(renderer.render(spec).split())
    devices: list[Disk | Nic] = [*(replace(disk, boot_order=0) for disk in spec.disks), *spec.nics]
    for device in devices:
        assert "".join(renderer.render_device(device).split()) in whole.replace('<bootorder="1"/>', "")
