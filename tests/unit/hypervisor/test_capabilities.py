"""What libvirt 9.0 (Debian 12) and 11.3 (Debian 13) say of their hosts, as recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from sri_libvirt.errors import HypervisorError
from sri_libvirt.hypervisor import capabilities

DATA = Path(__file__).parent / "data"


def read(name: str) -> str:
    return (DATA / name).read_text()


@pytest.mark.parametrize(
    ("version", "q35", "domain_types"),
    [("9.0", "pc-q35-7.2", {"qemu"}), ("11.3", "pc-q35-10.0", {"qemu", "kvm"})],
)
def test_host(version: str, q35: str, domain_types: set[str]) -> None:
    host = capabilities.parse_host(read(f"capabilities-{version}.xml"))
    assert host.architecture == "x86_64"
    assert host.domain_types == domain_types
    assert host.machine_type == q35
    assert {q35, "pc-q35-5.2"} <= host.machine_types
    assert host.qemu_user == 64055
    assert "q35" not in host.machine_types


@pytest.mark.parametrize(
    ("document", "modes", "lacking", "model"),
    [
        ("9.0-qemu", {"maximum", "host-model", "custom"}, "host-passthrough", "qemu64"),
        ("11.3-qemu", {"maximum", "host-model", "custom"}, "host-passthrough", "qemu64"),
        ("11.3-kvm", {"maximum", "host-passthrough", "custom"}, "none", "pentium3"),
    ],
)
def test_domain(document: str, modes: set[str], lacking: str, model: str) -> None:
    domain = capabilities.parse_domain(read(f"domcapabilities-{document}.xml"))
    assert domain.emulator == "/usr/bin/qemu-system-x86_64"
    assert modes <= domain.cpu_modes
    assert lacking not in domain.cpu_modes
    assert model in domain.cpu_models
    assert "Snowridge" not in domain.cpu_models  # offered, not usable here


def test_another_architecture_is_told_not_refused() -> None:
    xml = """<capabilities><host><cpu><arch>aarch64</arch></cpu></host>
      <guest><os_type>hvm</os_type><arch name='aarch64'><machine canonical='virt-9.2'>virt</machine>
      <domain type='qemu'/></arch></guest></capabilities>"""
    host = capabilities.parse_host(xml)
    assert (host.architecture, host.machine_type) == ("aarch64", "")
    assert host.machine_types == {"virt-9.2"}
    assert host.qemu_user is None


def test_no_qemu_is_said_with_what_to_install() -> None:
    with pytest.raises(HypervisorError, match="qemu-system-x86"):
        capabilities.parse_host("<capabilities><host><cpu><arch>x86_64</arch></cpu></host></capabilities>")
