"""Disks and NICs come to and leave running guests, in the guest's own words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.records import MOST_DEVICES
from tests.e2e.provider import Provider, spec, type_line, wait_for

pytestmark = pytest.mark.e2e

MIB = 1 << 20


def attach(provider: Provider, machine_id: str, name: str, device: str, size: int = 64 * MIB) -> None:
    volume = pb.Volume(name=name, device=device, empty_disk=pb.EmptyDisk(size_bytes=size))
    provider.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=volume), timeout=10)


def detach(provider: Provider, machine_id: str, name: str) -> None:
    provider.stub.DetachVolume(pb.DetachVolumeRequest(machine_id=machine_id, name=name), timeout=10)


def volumes(provider: Provider, machine_id: str) -> dict[str, str]:
    machine = provider.get(machine_id)
    assert machine is not None
    return {each.name: pb.VolumeState.Name(each.state).removeprefix("VOLUME_") for each in machine.status.volumes}


def places(text: str) -> dict[str, str]:
    """The latest PCI address of each disk's serial and NIC's MAC that the guest told, behind a prompt or not."""
    names: dict[str, str] = {}
    found: dict[str, str] = {}
    for line in text.splitlines():
        if match := re.search(r"tiny: (?:disk|nic) (\S+) (serial=\S+|mac=\S+)", line):
            names[match[1]] = match[2]
        elif match := re.search(r"tiny: pci (\S+) (\S+)", line):
            found[match[1]] = match[2]
        elif match := re.search(r"tiny: (?:disk|nic) (\S+) gone", line):
            names.pop(match[1], None)
            found.pop(match[1], None)
    return {names[name]: address for name, address in found.items() if name in names}


def test_disks_and_nics_come_and_go_and_stay_where_they_are(provider: Provider, tiny_image: Path, network: str) -> None:
    provider.start("--firmware", "bios", "--detach-settle", "0s")
    machine_id = provider.create(spec(image=tiny_image, disks={"first": "oda"})).metadata.id
    provider.wait_console(machine_id, "tiny: up")
    attach(provider, machine_id, "second", "odb")
    provider.wait_console(machine_id, "serial=odb-")
    nic = pb.NetworkInterface(name="nic", network_id=network)
    provider.stub.AttachNetworkInterface(
        pb.AttachNetworkInterfaceRequest(machine_id=machine_id, network_interface=nic), timeout=10
    )
    provider.wait_console(machine_id, "tiny: nic eth0 ip=")
    detach(provider, machine_id, "first")
    provider.wait_console(machine_id, "tiny: disk vdb gone")
    attach(provider, machine_id, "third", "odc")
    provider.wait_console(machine_id, "serial=odc-")
    wait_for("all attached", lambda: volumes(provider, machine_id) == {"second": "ATTACHED", "third": "ATTACHED"})
    wait_for("all places", lambda: len(places(provider.console(machine_id))) == 4)
    before = places(provider.console(machine_id))

    provider.power(machine_id, pb.POWER_OFF)
    provider.wait_state(machine_id, "MACHINE_SUSPENDED")
    said = len(provider.console(machine_id))
    provider.power(machine_id, pb.POWER_ON)
    provider.wait_console(machine_id, "tiny: up", count=2)
    wait_for("all places", lambda: len(places(provider.console(machine_id)[said:])) == 4)
    assert places(provider.console(machine_id)[said:]) == before


def test_a_detach_that_is_taken_back_in_time_touches_no_disk(provider: Provider, tiny_image: Path) -> None:
    provider.start("--firmware", "bios")
    machine_id = provider.create(spec(image=tiny_image, disks={"a": "oda", "b": "odb"})).metadata.id
    provider.wait_console(machine_id, "tiny: up")
    for name, device in (("a", "oda"), ("b", "odb")):
        detach(provider, machine_id, name)
        attach(provider, machine_id, name, device)
    wait_for("rest", lambda: volumes(provider, machine_id) == {"a": "ATTACHED", "b": "ATTACHED"})
    wait_for("no reason", lambda: not provider.reasons(machine_id))
    assert "gone" not in provider.console(machine_id)
    assert not any(row.unplug_at for row in provider.record(machine_id).attachments)


def test_a_deaf_guest_lets_go_when_it_hears_again(provider: Provider, tiny_image: Path) -> None:
    provider.start("--firmware", "bios", "--detach-settle", "0s")
    words = b'{"tiny.deaf-unplug": 1}'
    disks = {"a": "oda", "b": "odb"}
    machine_id = provider.create(spec(image=tiny_image, ignition=words, disks=disks)).metadata.id
    provider.wait_console(machine_id, "tiny: deaf to unplug")
    detach(provider, machine_id, "a")
    attach(provider, machine_id, "a", "oda", size=32 * MIB)  # another disk of the same name
    wait_for("the reason", lambda: provider.reasons(machine_id) == {"unplugging", "older-device-first"})
    assert volumes(provider, machine_id) == {"a": "PENDING", "b": "ATTACHED"}
    console = provider.console
    type_line(provider.libvirt.uri, machine_id, "hear-unplug", lambda: "disk vdb gone" in console(machine_id))
    provider.wait_console(machine_id, f"size={32 * MIB}")
    wait_for("all attached", lambda: volumes(provider, machine_id) == {"a": "ATTACHED", "b": "ATTACHED"})


def test_more_devices_than_ports_wait_for_one(provider: Provider, tiny_image: Path) -> None:
    provider.start("--firmware", "bios", "--detach-settle", "0s", "--pcie-ports", "3")
    disks = {"a": "oda", "b": "odb", "c": "odc"}
    machine_id = provider.create(spec(image=tiny_image, disks=disks)).metadata.id
    provider.wait_console(machine_id, "tiny: up")  # what has no port holds up no start
    attach(provider, machine_id, "d", "odd")
    wait_for("the reason", lambda: provider.reasons(machine_id) == {"no-port"})
    first = {"a": "ATTACHED", "b": "ATTACHED", "c": "PENDING", "d": "PENDING"}
    wait_for("those with a port", lambda: volumes(provider, machine_id) == first)
    detach(provider, machine_id, "a")
    provider.wait_console(machine_id, "serial=odc-")
    wait_for("c", lambda: volumes(provider, machine_id) == {"b": "ATTACHED", "c": "ATTACHED", "d": "PENDING"})


def test_a_guest_of_one_vcpu_sees_all_that_is_plugged_whatever_ports_were_asked_for(
    provider: Provider, tiny_image: Path
) -> None:
    provider.start("--firmware", "bios", "--pcie-ports", str(MOST_DEVICES))
    machine_id = provider.create(spec(image=tiny_image, disks={"a": "oda"})).metadata.id
    provider.wait_console(machine_id, "tiny: up")
    for letter in "bcdefghijk":
        attach(provider, machine_id, letter, f"od{letter}", size=MIB)
        provider.wait_console(machine_id, f"serial=od{letter}-")
    wait_for("all attached", lambda: set(volumes(provider, machine_id).values()) == {"ATTACHED"})
