"""What `render` prints for a real host, libvirt takes as it is."""

from __future__ import annotations

import sys
from pathlib import Path

import libvirt
import pytest

from tests.e2e.libvirtd import PrivateLibvirt

pytestmark = pytest.mark.e2e

MACHINE = """\
spec:
  class: c1-m1
  image: {image: /images/tiny.raw}
  ignition_data: e30=
  volumes:
  - {name: data, device: oda, empty_disk: {size_bytes: 1073741824}}
  network_interfaces:
  - {name: lan, network_id: isolated}
"""


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_libvirt_defines_what_is_rendered(private_libvirt: PrivateLibvirt, tmp_path: Path, firmware: str) -> None:
    file = tmp_path / "machine.yaml"
    file.write_text(MACHINE)
    command = [sys.executable, "-m", "sri_libvirt", "render", "-f", str(file), "--libvirt-uri", private_libvirt.uri]
    xml = private_libvirt.run([*command, "--firmware", firmware, "--state-dir", str(tmp_path / "state")])
    assert f"qemu, {firmware}: as {private_libvirt.uri} offers" in xml
    assert not (tmp_path / "state").exists()
    connection = libvirt.open(private_libvirt.uri)
    try:
        assert not connection.listAllDomains()
        domain = connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
        kept = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    finally:
        connection.close()
    assert "pc-q35-" in kept
    assert ("<nvram template=" in kept) == (firmware == "uefi")
