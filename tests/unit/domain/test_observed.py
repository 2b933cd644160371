"""Reading back what libvirt says, and telling what it lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sri_libvirt import names
from sri_libvirt.domain import observed
from sri_libvirt.domain.observed import ObservedDevice, differences, read, verify
from sri_libvirt.domain.render import Renderer
from sri_libvirt.errors import HypervisorError
from tests.unit.domain import samples

RECORDED = Path(__file__).parent / "recorded"
SPEC = samples.spec_of(samples.full(samples.UEFI))
XML = Renderer().render(SPEC)


@pytest.mark.parametrize("side", sorted(RECORDED.glob("*.xml")), ids=lambda path: path.stem)
def test_what_libvirt_gives_back(side: Path) -> None:
    got = read(side.read_text())
    assert (got.machine_id, got.instance, got.run) == (samples.ID, "11111111-1111-1111-1111-111111111111", "run-1")
    assert got.machine_type.startswith("pc-q35-")
    assert (got.loader, got.nvram_template) == ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd")
    assert got.nvram == f"/var/lib/sri-libvirt/machines/{samples.ID}/nvram.fd"
    assert got.addresses["root port 1"] == "02.0"
    assert got.addresses["root port 24"] == "04.7"
    assert (got.addresses["virtio-serial"], got.addresses["balloon"], got.addresses["rng"]) == ("1a.0", "1c.0", "1e.0")
    by_port = {device.port: device for device in got.devices.values()}
    assert by_port[1] == ObservedDevice(
        names.alias("image", "", 1),
        "disk",
        1,
        f"/var/lib/sri-libvirt/machines/{samples.ID}/image.qcow2",
        "vdaaa",
        "image",
    )
    assert {port: (device.kind, device.source[-6:]) for port, device in by_port.items() if port > 2} == {
        3: ("interface", "h3net"),
        4: ("interface", "vnet3" if side.stem.endswith("live") else ""),  # a tap of libvirt's own
        24: ("disk", "ed.raw"),
    }


def test_a_domain_of_others() -> None:
    got = read("<domain type='kvm'><devices><disk><alias name='virtio-disk0'/></disk></devices></domain>")
    assert (got.instance, got.machine_id, got.run, got.devices) == ("", "", "", {})


@pytest.mark.parametrize("text", ["", "<domain>", "<a/><b/>", "\0"])
def test_not_xml(text: str) -> None:
    with pytest.raises(HypervisorError, match="not well-formed"):
        read(text)


def test_entities_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    got = read(f"<!DOCTYPE d [<!ENTITY e SYSTEM 'file://{secret}'>]><d><os><loader>&e;</loader></os></d>")
    assert "secret" not in got.loader


CHANGES: dict[str, tuple[Callable[[str], str], str]] = {
    "alias lost": (lambda xml: xml.replace(f'<alias name="{SPEC.disks[1].alias}"/>', ""), "is missing"),
    "alias changed": (lambda xml: xml.replace(SPEC.nics[0].alias, "ua-nic-other-1"), "was not asked for"),
    "disk moved": (lambda xml: xml.replace('bus="0x02"', 'bus="0x0b"'), "port of"),
    "root port moved": (
        lambda xml: xml.replace('slot="0x03" function="0x1"', 'slot="0x10" function="0x1"'),
        "address of root port 10",
    ),
    "balloon moved": (lambda xml: xml.replace('slot="0x1c"', 'slot="0x0f"'), "address of balloon"),
    "other loader": (lambda xml: xml.replace("OVMF_CODE_4M.fd", "OVMF_CODE_4M.ms.fd"), "loader is"),
    "other NVRAM": (lambda xml: xml.replace("nvram.fd", "other.fd"), "nvram is"),
    "other template": (lambda xml: xml.replace("OVMF_VARS_4M.fd", "OVMF_VARS_4M.ms.fd"), "nvram template is"),
    "other machine type": (lambda xml: xml.replace("pc-q35-7.2", "pc-q35-8.0"), "machine type is"),
    "other domain type": (lambda xml: xml.replace('type="kvm"', 'type="qemu"'), "domain type is"),
    "other run": (lambda xml: xml.replace(samples.RUN, "0"), "run is"),
    "other instance": (lambda xml: xml.replace(samples.INSTANCE, "0"), "instance is"),
    "other MAC": (lambda xml: xml.replace(SPEC.nics[0].mac, "02:00:00:00:00:00"), "mac of"),
    "other network": (lambda xml: xml.replace('network="lan"', 'network="wan"'), "source of"),
    "other file": (lambda xml: xml.replace(SPEC.disks[1].path, "/other"), "source of"),
    "other target": (lambda xml: xml.replace('dev="vdb"', 'dev="vdc"'), "target of"),
    "other serial": (lambda xml: xml.replace(SPEC.disks[1].serial, "s"), "serial of"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_lost_is_told(change: str) -> None:
    alter, words = CHANGES[change]
    changed = alter(XML)
    assert changed != XML
    assert any(words in found for found in verify(SPEC, changed)), verify(SPEC, changed)
    assert any(words in found for found in differences(read(XML), read(changed)))


def test_the_same_is_the_same() -> None:
    assert verify(SPEC, XML) == []
    assert differences(read(XML), read(XML)) == []
    assert observed.expected(SPEC) == read(XML)
