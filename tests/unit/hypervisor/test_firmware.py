"""QEMU's firmware descriptors, with Debian 12's as the example."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any, NoReturn

import pytest

from sri_libvirt.errors import HypervisorError
from sri_libvirt.hypervisor import firmware
from sri_libvirt.hypervisor.base import Firmware


def descriptor(**changes: Any) -> dict[str, Any]:
    mapping = {
        "device": "flash",
        "executable": {"filename": "/usr/share/OVMF/OVMF_CODE_4M.fd", "format": "raw"},
        "nvram-template": {"filename": "/usr/share/OVMF/OVMF_VARS_4M.fd", "format": "raw"},
        **changes.pop("mapping", {}),
    }
    return {
        "interface-types": ["uefi"],
        "mapping": mapping,
        "targets": [{"architecture": "x86_64", "machines": ["pc-i440fx-*", "pc-q35-*"]}],
        "features": ["acpi-s3", "amd-sev", "verbose-dynamic"],
        **changes,
    }


def parse(data: object) -> Firmware | None:
    return firmware.parse(json.dumps(data))


def test_the_ordinary_build() -> None:
    assert parse(descriptor()) == Firmware(
        "/usr/share/OVMF/OVMF_CODE_4M.fd", "raw", "/usr/share/OVMF/OVMF_VARS_4M.fd", False, ("pc-q35-*",)
    )


@pytest.mark.parametrize("feature", ["enrolled-keys", "requires-smm", "secure-boot"])
def test_secure_boot(feature: str) -> None:
    found = parse(descriptor(features=[feature]))
    assert found is not None
    assert found.secure_boot


@pytest.mark.parametrize(
    "changes",
    [
        {"interface-types": ["bios"]},
        {"mapping": {"device": "memory", "filename": "/x"}},
        {"mapping": {"mode": "stateless"}},
        {"mapping": {"mode": "combined"}},
        {"mapping": {"nvram-template": {"filename": "/x", "format": "qcow2"}}},
        {"targets": [{"architecture": "aarch64", "machines": ["virt-*"]}]},
        {"targets": [{"architecture": "x86_64", "machines": ["microvm"]}]},
    ],
)
def test_what_a_q35_machine_cannot_boot_is_left_out(changes: dict[str, Any]) -> None:
    assert parse(descriptor(**changes)) is None


@pytest.mark.parametrize("text", ["[]", "{}", "no json", '{"mapping": 1}', "null"])
def test_what_is_no_descriptor_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        firmware.parse(text)


def test_the_operators_directory_wins_by_name_and_hides_by_emptiness() -> None:
    distribution = {"40-a.json": "a", "50-b.json": "b", "60-c.json": "c"}
    operator = {"50-b.json": "mine", "60-c.json": "", "10-z.json": "z"}
    merged = firmware.merge([distribution, operator])
    assert merged == [("10-z.json", "z"), ("40-a.json", "a"), ("50-b.json", "mine")]


@pytest.mark.parametrize("unreadable", ["directory", "file"])
def test_what_cannot_be_read_is_not_taken_for_no_firmware(
    unreadable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "10-a.json").write_text("{}")
    (tmp_path / "20-link-to-nothing.json").symlink_to(tmp_path / "gone")
    assert firmware.read([tmp_path]) == ()

    def refuse(path: Path, **_: object) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir" if unreadable == "directory" else "read_text", refuse)
    with pytest.raises(HypervisorError, match=f"{tmp_path}.*: Permission denied"):
        firmware.read([tmp_path])


def test_read_keeps_what_exists_and_survives_rubbish(tmp_path: Path) -> None:
    code, variables = tmp_path / "CODE.fd", tmp_path / "VARS.fd"
    code.touch()
    variables.touch()
    there = {
        "executable": {"filename": str(code), "format": "raw"},
        "nvram-template": {"filename": str(variables), "format": "raw"},
    }
    gone = {**there, "executable": {"filename": str(tmp_path / "gone"), "format": "raw"}}
    directory, operators = tmp_path / "usr", tmp_path / "etc"
    directory.mkdir()
    operators.mkdir()
    (directory / "10-gone.json").write_text(json.dumps(descriptor(mapping=gone)))
    (directory / "20-rubbish.json").write_text("{")
    (directory / "30-good.json").write_text(json.dumps(descriptor(mapping=there)))
    (directory / "40-hidden.json").write_text(json.dumps(descriptor(mapping=there)))
    (operators / "40-hidden.json").symlink_to("/dev/null")
    assert [found.loader for found in firmware.read([directory, operators, tmp_path / "none"])] == [str(code)]
