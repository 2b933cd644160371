"""A domain that somebody edits beside the provider: told, shown, and put back by the next define."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import libvirt
import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests.e2e.libvirtd import PrivateLibvirt
from tests.e2e.provider import Provider, spec, wait_for

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_an_edited_domain(provider: Provider, private_libvirt: PrivateLibvirt, tiny_image: Path, firmware: str) -> None:
    provider.start("--firmware", firmware)
    disks, nics = {"data": "oda"}, {"one": "isolated"}
    seeded = spec(image=tiny_image, ignition=b"#cloud-config\n{}\n", disks=disks, nics=nics)
    machine_id = provider.create(seeded).metadata.id
    provider.wait_console(machine_id, "tiny: up")

    def xml(*words: str) -> subprocess.CompletedProcess[str]:
        places = ["--state-dir", str(provider.state), "--libvirt-uri", private_libvirt.uri]
        argv = [sys.executable, "-m", "sri_libvirt", "machine", "xml", machine_id, *words, *places]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    same = xml("--diff")
    assert (same.returncode, same.stdout) == (0, ""), same.stderr
    assert not provider.reasons(machine_id)
    connection = libvirt.open(private_libvirt.uri)
    try:
        domain = connection.lookupByUUIDString(machine_id)
        persistent = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        edited = re.sub("(<memory [^>]*>)", r"\g<1>1", persistent)
        edited = edited.replace("</devices>", "<graphics type='vnc' port='-1' autoport='yes'/></devices>")
        connection.defineXML(edited)
        wait_for("the reason", lambda: provider.reasons(machine_id) == {"domain-edited"})
        said = provider.why(machine_id)
        assert "memory kib is" in said, said
        told = xml("--diff")
        assert told.returncode == 1, told.stderr
        lines = told.stdout.splitlines()
        assert lines[:2] == ["--- as-defined", "+++ persistent"]
        assert [line[:12] for line in lines if "memory kib" in line] == ["-memory kib:", "+memory kib:"] * 2
        assert any(line.startswith("+another device, graphics") for line in lines)
        assert xml("--diff", "--live").returncode == 0, "its guest is as it was started"
        assert "vnc" in xml("--persistent").stdout
        assert "vnc" not in xml("--live").stdout + xml().stdout
        late = pb.Volume(name="late", device="odb", empty_disk=pb.EmptyDisk(size_bytes=1 << 20))
        provider.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=late), timeout=10)
        wait_for("peace", lambda: not provider.reasons(machine_id))
        same = xml("--diff")
        assert (same.returncode, same.stdout) == (0, "")
    finally:
        connection.close()
