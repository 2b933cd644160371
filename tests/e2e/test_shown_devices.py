"""What `machine get` says of devices is what their guest has."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests.e2e.provider import Provider, spec, wait_for

pytestmark = pytest.mark.e2e

LIST = (
    "for d in /sys/class/block/vd?; do echo disk $(cat $d/serial) $(basename $(readlink -f $d/device/..)) END; done\n"
    "for n in /sys/class/net/e*; do echo nic $(cat $n/address) $(basename $(readlink -f $n/device/..)) END; done\n"
)


def attached(provider: Provider, machine_id: str) -> int:
    found = provider.get(machine_id)
    assert found is not None
    return sum(each.state == pb.VOLUME_ATTACHED for each in found.status.volumes)


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_serials_macs_and_pci_addresses(provider: Provider, tiny_image: Path, firmware: str) -> None:
    provider.start("--firmware", firmware)
    disks, nics = {"b": "odb", "a": "oda"}, {"one": "isolated", "two": "isolated"}
    made = provider.create(spec(image=tiny_image, ignition=b"#cloud-config\n{}\n", disks=disks, nics=nics))
    machine_id = made.metadata.id
    provider.wait_console(machine_id, "tiny: up")
    late = pb.Volume(name="c", device="odc", empty_disk=pb.EmptyDisk(size_bytes=1 << 20))
    provider.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=late), timeout=10)
    wait_for("the volume", lambda: attached(provider, machine_id) == 3)
    argv = [sys.executable, "-m", "sri_libvirt"]
    places = ["--state-dir", str(provider.state)]
    said = subprocess.run(
        [*argv, "console", machine_id, "--for", "10", *places, "--libvirt-uri", provider.libvirt.uri],
        input=LIST, capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    lines = [line.split() for line in said.splitlines()]
    in_guest = {(line[0], line[1], line[2]) for line in lines if len(line) == 4 and line[3] == "END"}
    shown = subprocess.run(
        [*argv, "machine", "get", machine_id, "-o", "json", *places], capture_output=True, text=True, check=True
    ).stdout
    told = {
        ("nic" if each["kind"] == "nic" else "disk", each.get("mac") or each["serial"], each["pci_address"])
        for each in json.loads(shown)["devices"]
    }
    assert len(told) == 7
    assert told == in_guest, said


def test_a_page_has_what_the_guest_really_is(provider: Provider, tiny_image: Path) -> None:
    provider.start("--firmware", "bios")
    machine_id = provider.create(spec(image=tiny_image, disks={"a": "oda"})).metadata.id
    provider.wait_console(machine_id, "tiny: up")
    places = ["--state-dir", str(provider.state), "--libvirt-uri", provider.libvirt.uri]

    def page() -> dict[str, Any]:
        argv = [sys.executable, "-m", "sri_libvirt", "machine", "describe", machine_id, "-o", "json", *places]
        return dict(json.loads(subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout))

    found = page()
    qemu = psutil.Process(found["domain"]["process"]["pid"])
    assert f"guest={machine_id}" in " ".join(qemu.cmdline())
    assert found["domain"]["state"] == "running"
    assert 0 < found["domain"]["process"]["uptime_seconds"] < time.time() - qemu.create_time() + 5
    assert found["domain"]["process"]["resident_bytes"] > 32 << 20
    assert any("tiny: up" in line for line in found["console_log"])
    assert all(each["real_bytes"] for each in found["devices"])
    provider.libvirt.freeze()
    try:
        found = page()
    finally:
        provider.libvirt.thaw()
    assert "asking libvirt for a domain goes on since" in found["domain"]["problem"]
    assert found["domain"]["process"]["pid"] == qemu.pid, "the kernel has, though"
    provider.delete(machine_id)
    wait_for("its end", lambda: provider.get(machine_id) is None)
    found = page()
    assert found["gone"]
    assert found["run"]["stopped_by"] == "requested"
