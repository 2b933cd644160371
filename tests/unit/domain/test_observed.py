"""Reading back what libvirt says, and telling what it lost."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sri_libvirt import names
from sri_libvirt.domain import compare, observed
from sri_libvirt.domain.compare import differences, verify
from sri_libvirt.domain.observed import ObservedDevice, read
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
        access={"type": "file", "format": "qcow2"},
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


def test_a_network_disk_is_told_whatever_the_order_and_the_default_ports() -> None:
    hosts = ["<host name='b' port='3260'/>", "<host name='fd00::1' port='7'/>"]
    for each in (hosts, hosts[::-1], [hosts[0].replace(" port='3260'", ""), hosts[1]]):
        xml = f"""<domain><devices><disk type='network'><source protocol='iscsi' name='iqn.x:t/1' index='1'>
            {"".join(each)}</source><alias name='ua-vol-a'/></disk></devices></domain>"""
        assert observed.glance(xml).devices["ua-vol-a"].source == "iscsi:iqn.x:t/1@[fd00::1]:7,b:3260"


def test_other_sources_are_told_by_what_names_them() -> None:
    def told(source: str) -> str:
        xml = f"<domain><devices><disk>{source}<alias name='ua-vol-a'/></disk></devices></domain>"
        return observed.glance(xml).devices["ua-vol-a"].source

    assert told("<source protocol='gluster' name='volume/image'><host name='h'/></source>") == "gluster:volume/image@h"
    assert told("<source pool='default' volume='image'/>") == "image"
    assert told("<source dev='/dev/vg/lv'/>") == "/dev/vg/lv"
    assert told("<source/>") == told("") == ""


@pytest.mark.parametrize(
    ("source", "below"),
    [
        ("<source file='/state/m/a.raw'/>", True),
        ("<source file='/states/m/a.raw'/>", False),
        ("<source protocol='nbd' name='x'><host transport='unix' socket='/state/n.sock'/></source>", True),
        ("<source protocol='nbd' name='/state/m/a.raw'><host name='h'/></source>", False),
        ("<source protocol='rbd' name='p/i'><config file='/state/ceph.conf'/></source>", True),
    ],
)
def test_what_a_network_disk_is_called_is_no_file_of_this_host(source: str, *, below: bool) -> None:
    xml = f"<domain><devices><disk>{source}</disk></devices></domain>"
    assert observed.names_files_below(Path("/state"), "", xml) is below


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
    "other format": (lambda xml: xml.replace('type="qcow2" cache', 'type="raw" cache'), "format of"),
    "other kind of disk": (lambda xml: xml.replace('disk type="file"', 'disk type="block"'), "type of"),
    "other serial": (lambda xml: xml.replace(SPEC.disks[1].serial, "s"), "serial of"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_lost_is_told(change: str) -> None:
    alter, words = CHANGES[change]
    changed = alter(XML)
    assert changed != XML
    assert any(words in found for found in verify(SPEC, changed)), verify(SPEC, changed)
    assert any(words in found for found in differences(read(XML), read(changed)))


DISKS = samples.spec_of(samples.every_disk(samples.RECONNECTING))
DISKS_XML = Renderer().render(DISKS)
OTHER_UUID = "00000000-0000-4000-8000-000000000000"

LOST: dict[str, tuple[str, str, str]] = {
    "encryption": (r"<encryption .*?</encryption>", "", "encryption of"),
    "passphrase": (samples.PASSPHRASE.uuid, OTHER_UUID, "passphrase of"),
    "format of the encryption": ('format="luks2"', 'format="luks"', "encryption of"),
    "engine": ('engine="librbd"', 'engine="qemu"', "encryption of"),
    "auth": (r"<auth .*?</auth>", "", "authentication of"),
    "user": ('username="tenant"', 'username="admin"', "user of"),
    "auth's secret": (samples.AUTH.uuid, OTHER_UUID, "authentication of"),
    "kind of auth's secret": ('type="iscsi"', 'type="ceph"', "authentication of"),
    "initiator": (r"<initiator>.*?</initiator>", "", "initiator of"),
    "configuration": (r"<config .*?/>", "", "configuration of"),
    "TLS": (' tls="yes"', "", "TLS of"),
    "read-only": ("<readonly/>", "", "read-only of"),
    "no TLS": (' tls="yes"', ' tls="no"', "TLS of"),
    "reconnect": (r"<reconnect .*?/>", "", "reconnect of"),
    "a monitor": (r'<host name="10.0.0.1" port="6789"/>', "", "source of"),
    "port": ('port="10810"', 'port="10811"', "source of"),
    "socket": ("b.sock", "c.sock", "source of"),
    "export": ('name="export"', "", "source of"),
    "protocol": ('protocol="rbd"', 'protocol="gluster"', "source of"),
}


@pytest.mark.parametrize("what", LOST)
def test_what_was_lost_of_how_a_disk_is_opened_is_told(what: str) -> None:
    pattern, instead, words = LOST[what]
    changed = re.sub(pattern, instead, DISKS_XML, flags=re.DOTALL)
    assert changed != DISKS_XML
    assert any(words in found for found in verify(DISKS, changed)), verify(DISKS, changed)
    assert any(words in found for found in differences(read(DISKS_XML), read(changed)))


def test_what_was_added_to_how_a_disk_is_opened_is_told() -> None:
    plain = samples.spec_of(samples.machine(samples.source_row(samples.NBD)))
    luks = samples.spec_of(samples.machine(samples.source_row(samples.DISKS["nbd-tls-luks"])))
    found = verify(plain, Renderer().render(luks))
    assert {each.partition(" of ")[0] for each in found} == {"TLS", "encryption", "passphrase"}


def test_no_define_undoes_how_a_disk_is_opened() -> None:
    """A monitor that went, a key that was changed: what differs from before is our own doing."""
    before, asked = (
        read(Renderer().render(samples.spec_of(samples.machine(samples.source_row(source)))))
        for source in (samples.RBD, samples.NBD)
    )
    assert compare.undone(before, asked) == []


def test_the_same_is_the_same() -> None:
    assert verify(DISKS, DISKS_XML) == []
    assert compare.expected(DISKS) == read(DISKS_XML)
    assert verify(SPEC, XML) == []
    assert differences(read(XML), read(XML)) == []
    assert compare.expected(SPEC) == read(XML)
