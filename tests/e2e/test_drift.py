"""A machine's hardware does not drift: not by hot changes, power cycles, changed templates or upgrades of the host.

An upgrade is simulated where the host's own tools look: in libvirt's cache of what QEMU can do, and in the directory of
QEMU's firmware descriptors, both private to the test's namespaces.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from lxml import etree

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests.e2e.libvirtd import PrivateLibvirt
from tests.e2e.provider import Provider, spec, wait_for

pytestmark = pytest.mark.e2e

TEMPLATES = Path(__file__).parents[2] / "templates"
DESCRIPTORS = Path("/usr/share/qemu/firmware")


@dataclass(frozen=True)
class Hardware:
    """What a guest can see of its machine. Devices by serial or MAC: (target or "", alias, PCI address)."""

    devices: dict[str, tuple[str, str, str]]
    others: dict[str, str]
    machine_type: str
    loader: str
    nvram: str
    nvram_template: str
    uuid: str
    cpu: str


def pci(device: etree._Element) -> str:
    address = device.find("address[@type='pci']")
    assert address is not None, etree.tostring(device)
    bus, slot, function = (int(address.get(key) or "", 16) for key in ("bus", "slot", "function"))
    return f"0000:{bus:02x}:{slot:02x}.{function}"


def attribute(element: etree._Element, path: str, name: str) -> str:
    found = element.find(path)
    return (found.get(name) or "") if found is not None else ""


def hardware(provider: Provider, machine_id: str) -> Hardware:
    """Read from the live XML."""
    with provider.domain(machine_id) as domain:
        assert domain.isActive(), seen_of(provider, machine_id)
        root = etree.fromstring(domain.XMLDesc(0))
    devices = {}
    for disk in root.iterfind("devices/disk"):
        serial = disk.findtext("serial") or ""
        devices[serial] = (attribute(disk, "target", "dev"), attribute(disk, "alias", "name"), pci(disk))
    for nic in root.iterfind("devices/interface"):
        devices[attribute(nic, "mac", "address")] = ("", attribute(nic, "alias", "name"), pci(nic))
    others = {f"controller {each.get('type')} {each.get('index')}": pci(each) for each in controllers(root)}
    others |= {name: pci(each) for name in ("rng", "memballoon") for each in root.iterfind(f"devices/{name}")}
    return Hardware(
        devices=devices,
        others=others,
        machine_type=attribute(root, "os/type", "machine"),
        loader=root.findtext("os/loader") or "",
        nvram=root.findtext("os/nvram") or "",
        nvram_template=attribute(root, "os/nvram", "template"),
        uuid=root.findtext("uuid") or "",
        cpu=attribute(root, "cpu", "mode"),
    )


def seen_of(provider: Provider, machine_id: str) -> str:
    """All that is known of a machine whose guest is not there."""
    qemu = (provider.libvirt.log_dir / f"{machine_id}.log").read_text(errors="replace")[-2000:]
    return "\n".join((provider.why(machine_id), provider.console(machine_id), qemu, provider.log()))


def controllers(root: etree._Element) -> list[etree._Element]:
    return [each for each in root.iterfind("devices/controller") if each.find("address[@type='pci']") is not None]


def seen_by_guest(provider: Provider, machine_id: str) -> dict[str, str]:
    """PCI address by disk serial and by MAC, as the guest told them at its latest boot."""
    latest = provider.console(machine_id).split("tiny: up")[-2]
    serials = dict(re.findall(r"tiny: disk (\S+) serial=(\S+) ", latest))
    addresses = dict(re.findall(r"tiny: pci (\S+) (\S+)", latest))
    macs = dict(re.findall(r"tiny: nic (\S+) mac=(\S+) ", latest))
    return {(serials | macs)[name]: address for name, address in addresses.items()}


def edited_templates(root: Path) -> Path:
    """An operator's own copy of one template: more disks' options, and other text around them."""
    (root / "devices").mkdir(parents=True)
    text = (TEMPLATES / "devices" / "disk.xml.j2").read_text()
    changed = text.replace(" discard='{{ how.discard }}'", " discard='{{ how.discard }}' detect_zeroes='on'")
    assert changed != text
    (root / "devices" / "disk.xml.j2").write_text(changed)
    return root


@contextmanager
def upgraded_host(private: PrivateLibvirt) -> Iterator[tuple[str, Path]]:
    """Another default machine type, and firmware descriptors of other files; the new type and loader."""
    cache = private.base / "cache" / "qemu" / "capabilities"
    kept = private.directory("kept")
    shutil.copytree(cache, kept / "capabilities")
    private.kill()
    new_type = ""
    for file in cache.glob("*.xml"):
        root = etree.fromstring(file.read_bytes())
        new_type = other_default(root) or new_type
        file.write_bytes(etree.tostring(root))
    assert new_type, "libvirt's cache names no q35"
    loader = other_firmware(private, kept)
    private.run(["mount", "--bind", kept / "firmware", DESCRIPTORS])
    try:
        private.start()
        yield new_type, loader
    finally:
        private.run(["umount", DESCRIPTORS])
        private.kill()
        shutil.rmtree(cache)
        shutil.copytree(kept / "capabilities", cache)
        private.start()


def other_default(root: etree._Element) -> str:
    """Let q35 stand for an older machine type, everywhere; its name, "" if this QEMU has no q35."""
    new = ""
    for old in root.findall(".//machine[@alias='q35']"):
        other = next(each for each in siblings(old) if (each.get("name") or "").startswith("pc-q35-"))
        del old.attrib["alias"]
        other.set("alias", "q35")
        new = other.get("name") or ""
    return new


def siblings(machine: etree._Element) -> list[etree._Element]:
    """The other machine types of the same domain type."""
    parent = machine.getparent()
    assert parent is not None
    return [
        each for each in parent.iterfind("machine") if each is not machine and each.get("type") == machine.get("type")
    ]


def other_firmware(private: PrivateLibvirt, root: Path) -> Path:
    """Descriptors of one UEFI alone, of files that are new."""
    (root / "firmware").mkdir()
    descriptor = plain_uefi()
    mapping = descriptor["mapping"]
    for part in ("executable", "nvram-template"):
        old = Path(mapping[part]["filename"])
        mapping[part]["filename"] = str(shutil.copy(old, str(root / f"new-{old.name}")))
    (root / "firmware" / "50-new.json").write_text(json.dumps(descriptor))
    return Path(mapping["executable"]["filename"])


def plain_uefi() -> dict[str, dict[str, dict[str, str]]]:
    """A descriptor of the host's, without Secure Boot, for q35."""
    for file in sorted(DESCRIPTORS.glob("*.json")):
        descriptor: dict[str, dict[str, dict[str, str]]] = json.loads(file.read_text())
        features = {"enrolled-keys", "requires-smm", "secure-boot"} & set(descriptor["features"])
        machines = [name for target in descriptor["targets"] for name in target["machines"]]  # type: ignore[index]
        if not features and any("q35" in name for name in machines) and descriptor["mapping"]["device"] == "flash":  # type: ignore[comparison-overlap]
            return descriptor
    raise AssertionError("this host has no UEFI without Secure Boot")


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
@pytest.mark.rule("R-G12-5")
def test_hardware_does_not_drift(
    provider: Provider, private_libvirt: PrivateLibvirt, tiny_image: Path, firmware: str
) -> None:
    provider.start("--firmware", firmware)
    disks, nics = {"first": "oda", "middle": "odb", "last": "odc"}, {"one": "isolated", "two": "isolated"}
    machine_id = provider.create(spec(image=tiny_image, disks=disks, nics=nics)).metadata.id
    provider.wait_console(machine_id, "tiny: up")
    before, told_before = hardware(provider, machine_id), seen_by_guest(provider, machine_id)
    assert len(before.devices) == 6
    assert told_before == {key: address for key, (_, _, address) in before.devices.items()}
    assert bool(before.loader) == (firmware == "uefi")
    (middle,) = [serial for serial in before.devices if serial.startswith("odb-")]

    provider.stub.DetachVolume(pb.DetachVolumeRequest(machine_id=machine_id, name="middle"), timeout=10)
    volume = pb.Volume(name="fresh", device="odd", empty_disk=pb.EmptyDisk(size_bytes=64 << 20))
    provider.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=volume), timeout=10)
    # So that what comes is an upgrade and nothing beside it.
    wait_for("both changes", lambda: attached(provider, machine_id) == {"first", "last", "fresh"})
    provider.stop()
    templates = edited_templates(provider.root / "templates")
    with upgraded_host(private_libvirt) as (new_type, new_loader):
        provider.start("--firmware", "uefi", "--pcie-ports", "12", "--template-dir", str(templates))
        assert_upgrade_is_real(provider, before, new_type, new_loader)
        provider.power(machine_id, pb.POWER_OFF)
        provider.wait_state(machine_id, "MACHINE_SUSPENDED")
        assert provider.console(machine_id).count("tiny: up") == 1, seen_of(provider, machine_id)
        provider.power(machine_id, pb.POWER_ON)
        provider.wait_console(machine_id, "tiny: up", count=2)
        after, told_after = hardware(provider, machine_id), seen_by_guest(provider, machine_id)
        with provider.domain(machine_id) as domain:
            assert "detect_zeroes='on'" in domain.XMLDesc(0)

    (fresh,) = set(after.devices) - set(before.devices)
    assert fresh.startswith("odd-")
    assert {**before.devices, fresh: after.devices[fresh]} == {**after.devices, middle: before.devices[middle]}
    assert middle not in after.devices
    assert told_after == {key: address for key, (_, _, address) in after.devices.items()}
    assert [getattr(after, field) for field in FIXED] == [getattr(before, field) for field in FIXED]


def attached(provider: Provider, machine_id: str) -> set[str]:
    """The volumes that the guest has, and none that it is still to get or to give back."""
    machine = provider.get(machine_id)
    assert machine is not None
    states = {each.name: each.state for each in machine.status.volumes}
    return set(states) if set(states.values()) == {pb.VOLUME_ATTACHED} else set()


FIXED = ("others", "machine_type", "loader", "nvram", "nvram_template", "uuid", "cpu")


def assert_upgrade_is_real(provider: Provider, before: Hardware, new_type: str, new_loader: Path) -> None:
    """A machine that is created now is made of what is new."""
    other = provider.create(spec()).metadata.id
    provider.wait_state(other, "MACHINE_RUNNING")
    made = hardware(provider, other)
    assert made.machine_type == new_type != before.machine_type
    assert made.loader == str(new_loader) != before.loader
    assert len(made.others) < len(before.others)
    provider.delete(other)
    with provider.domain(other) as domain:
        domain.destroy()
    wait_for("end of the other machine", lambda: provider.get(other) is None)
