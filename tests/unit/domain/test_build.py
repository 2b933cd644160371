"""The spec of a domain: what each part comes to."""

from __future__ import annotations

from dataclasses import replace

import pytest
from lxml import etree

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.domain import cpu, layout
from sri_libvirt.domain.build import build
from sri_libvirt.domain.render import Renderer
from sri_libvirt.domain.states import machine_state
from sri_libvirt.errors import HypervisorError
from sri_libvirt.hypervisor.base import DomainState
from sri_libvirt.records import LABEL_NAME, LABEL_NAMESPACE, MOST_DEVICES, Attachment
from tests.unit.domain import samples
from tests.unit.domain.samples import BIOS, image_row, machine, nic_row, seed_row, spec_of, volume_row


@pytest.mark.parametrize(("millis", "quota"), [(10, 1000), (500, 50_000), (1000, 0), (2500, 250_000), (4000, 0)])
def test_bandwidth(millis: int, quota: int) -> None:
    made = cpu.build(replace(BIOS, cpu_millis=millis, vcpus=cpu.vcpus(millis)))
    assert (made.period_us, made.quota_us) == ((100_000, quota) if quota else (0, 0))


@pytest.mark.parametrize(("memory", "kib"), [(1 << 30, 1 << 20), (1, 1), (1025, 2)])
def test_memory_is_never_less_than_asked(memory: int, kib: int) -> None:
    assert spec_of(machine(profile=replace(BIOS, memory_bytes=memory))).memory_kib == kib


@pytest.mark.rule("R-G12-4")
def test_boot_order() -> None:
    def order(*rows: object) -> dict[str, int]:
        return {disk.target: disk.boot_order for disk in spec_of(machine(*rows)).disks}  # type: ignore[arg-type]

    assert order(volume_row("a", "odb"), volume_row("b", "oda")) == {"vda": 1, "vdb": 0}
    assert order(volume_row("a", "odaa"), volume_row("b", "odz")) == {"vdz": 1, "vdaa": 0}
    assert order(volume_row("a", "oda"), image_row(), seed_row()) == {"vdaaa": 1, "vda": 0, "vdzzz": 0}
    assert order(seed_row()) == {"vdzzz": 0}


@pytest.mark.parametrize(
    ("data", "path"),
    [(b"", ""), (b"{}", "ignition"), (b"#cloud-config\n", "ignition"), (b"\0\xff", "ignition")],
)
def test_ignition(data: bytes, path: str) -> None:
    """A machine without a seed's row was made so, by whatever rule: its hardware never changes."""
    assert spec_of(machine(ignition=data)).ignition == (str(samples.PATHS.root / path) if path else "")
    assert spec_of(machine(seed_row(), ignition=data)).ignition == ""


@pytest.mark.parametrize(
    ("namespace", "name", "title"),
    [("ns", "web", "ns/web"), ("", "web", "web"), ("", "", ""), ("n\ns", " w\t", "n s/ w")],
)
def test_title_is_one_line(namespace: str, name: str, title: str) -> None:
    labelled = replace(machine(), labels={LABEL_NAMESPACE: namespace, LABEL_NAME: name})
    assert spec_of(labelled).title == title


def test_the_layout_does_not_depend_on_devices() -> None:
    full = samples.full(ignition=b"#cloud-config\n")
    assert spec_of(machine()).layout == spec_of(full).layout


def test_a_machine_of_an_older_version_keeps_its_192_ports() -> None:
    profile = replace(BIOS, ports=192)
    last = volume_row("last", "odb", port=192)
    made = spec_of(machine(volume_row("a", "oda"), last, profile=profile))
    assert [disk.port for disk in made.disks] == [1, 192]
    assert len(made.layout.root_ports) == 192 > MOST_DEVICES


def test_layout_1_is_what_it_was() -> None:
    """Guests name their NICs by it: a change here needs a new layout version."""
    made = layout.of(1, layout.MOST_PORTS)
    places = [(port.index, port.port, port.address.slot, port.address.function) for port in made.root_ports]
    assert places[:2] == [(1, 0x10, 2, 0), (2, 0x11, 2, 1)]
    assert places[8] == (9, 0x18, 3, 0)
    assert places[-1] == (192, 0xCF, 0x19, 7)
    assert [port.index for port in made.root_ports if port.address.multifunction] == list(range(1, 193, 8))
    slots = {made.virtio_serial.slot, made.balloon.slot, made.rng.slot}
    assert slots == {0x1A, 0x1C, 0x1E}
    # 0x00 host bridge, 0x01 video, 0x1b sound, 0x1d USB and 0x1f chipset are libvirt's.
    assert not (slots | {port.address.slot for port in made.root_ports}) & {0, 1, 0x1B, 0x1D, 0x1F}
    assert layout.of(1, 8).root_ports == made.root_ports[:8]


@pytest.mark.parametrize(("version", "ports"), [(2, 8), (0, 8), (1, 0), (1, 193)])
def test_no_such_layout(version: int, ports: int) -> None:
    with pytest.raises(HypervisorError):
        layout.of(version, ports)


@pytest.mark.parametrize(
    "rows",
    [
        [nic_row("a", port=0)],
        [nic_row("a", port=9)],
        [nic_row("a", port=2), nic_row("b", port=2)],
        [nic_row("a", port=2, backing=None)],
    ],
)
def test_devices_that_cannot_appear(rows: list[Attachment]) -> None:
    made = replace(machine(), attachments=tuple(rows))
    with pytest.raises(ValueError, match="port"):
        build(made, BIOS, rows, paths=samples.PATHS, instance="", run="")


def test_what_a_guest_must_not_have() -> None:
    root = etree.fromstring(Renderer().render(spec_of(samples.full(samples.UEFI))))
    assert root.find("os").get("firmware") is None  # type: ignore[union-attr]
    assert root.find("devices/controller[@type='usb']").get("model") == "none"  # type: ignore[union-attr]
    assert root.find("memory").get("dumpCore") == "off"  # type: ignore[union-attr]
    for absent in ("graphics", "video", "sound", "input", "tpm"):
        assert root.find(f"devices/{absent}") is None


def test_kvmclock_by_kvm_alone() -> None:
    assert "kvmclock" in Renderer().render(spec_of(machine(profile=samples.UEFI)))
    assert "kvmclock" not in Renderer().render(spec_of(machine()))


def test_the_base_keeps_its_owner_and_is_not_probed() -> None:
    root = etree.fromstring(Renderer().render(spec_of(samples.full())))
    backing = root.find("devices/disk/backingStore")
    assert backing is not None
    assert backing.find("source/seclabel[@model='dac']").get("relabel") == "no"  # type: ignore[union-attr]
    assert backing.find("format").get("type") == "raw"  # type: ignore[union-attr]
    for disk in root.iterfind("devices/disk"):
        innermost = disk.findall(".//backingStore")[-1]
        assert len(innermost) == 0, "an open backing chain is probed by libvirt"


def test_every_state_has_a_word() -> None:
    words = {state: machine_state(state) for state in DomainState}
    assert pb.MACHINE_TERMINATED not in words.values()
    assert words[DomainState.OFF] == pb.MACHINE_SUSPENDED
    assert words[DomainState.RUNNING] == words[DomainState.SHUTTING_DOWN] == pb.MACHINE_RUNNING
    assert words[DomainState.PAUSED] == words[DomainState.UNKNOWN] == pb.MACHINE_PENDING
