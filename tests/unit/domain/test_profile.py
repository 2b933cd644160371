"""What is chosen at the first define, and when a host can no longer do it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest

from sri_libvirt.domain import profile
from sri_libvirt.domain.firmware import find
from sri_libvirt.domain.layout import LAYOUT
from sri_libvirt.errors import NotReady
from sri_libvirt.hypervisor.base import Firmware, Offer
from sri_libvirt.records import GIB, ClassPolicy, MachineClass, Profile
from tests.unit.domain.samples import BIOS, OFFER, UEFI

CLASS = MachineClass("c", 1000, GIB)
NO_UEFI = replace(OFFER, firmware=())


@pytest.mark.parametrize(
    ("offer", "policy", "setting", "lacks"),
    [
        (NO_UEFI, "uefi", "auto", True),
        (NO_UEFI, "default", "uefi", True),
        (NO_UEFI, "bios", "uefi", False),
        (NO_UEFI, "default", "auto", False),
        (OFFER, "uefi", "auto", False),
    ],
)
def test_what_firmware_a_class_lacks(
    offer: Offer, policy: Literal["default", "bios", "uefi"], setting: Literal["auto", "uefi"], lacks: bool
) -> None:
    machine_class = MachineClass("c", 1000, 1 << 30, ClassPolicy(firmware=policy))
    assert ("Install the package ovmf" in profile.lacks_firmware(offer, machine_class, setting)) == lacks


def choose(offer: Offer = OFFER, machine_class: MachineClass = CLASS, **changes: Any) -> Profile:
    wishes: dict[str, Any] = {"domain_type": "qemu", "cpu": ("maximum", ""), "firmware": "auto", "ports": 24}
    return profile.choose(offer, machine_class, **{**wishes, **changes})


def test_what_is_written_down() -> None:
    assert choose(machine_class=MachineClass("c", 1500, 3 * GIB)) == Profile(
        layout=LAYOUT,
        domain_type="qemu",
        machine_type="pc-q35-7.2",
        cpu_mode="maximum",
        cpu_model="",
        vcpus=2,
        cpu_millis=1500,
        memory_bytes=3 * GIB,
        firmware="uefi",
        loader="/usr/share/OVMF/OVMF_CODE_4M.fd",
        loader_format="raw",
        nvram_template="/usr/share/OVMF/OVMF_VARS_4M.fd",
        ports=24,
        emulator="/usr/bin/qemu-system-x86_64",
    )


@pytest.mark.parametrize(("millis", "vcpus"), [(10, 1), (999, 1), (1000, 1), (1001, 2), (4000, 4), (255_000, 255)])
def test_vcpus(millis: int, vcpus: int) -> None:
    assert choose(machine_class=MachineClass("c", millis, GIB)).vcpus == vcpus


@pytest.mark.parametrize(
    ("offer", "setting", "policy", "chosen"),
    [
        (OFFER, "auto", "default", "uefi"),
        (NO_UEFI, "auto", "default", "bios"),
        (OFFER, "bios", "default", "bios"),
        (OFFER, "uefi", "default", "uefi"),
        (OFFER, "uefi", "bios", "bios"),
        (OFFER, "bios", "uefi", "uefi"),
        (NO_UEFI, "auto", "bios", "bios"),
    ],
)
def test_firmware(offer: Offer, setting: str, policy: Any, chosen: str) -> None:
    machine_class = replace(CLASS, policy=ClassPolicy(firmware=policy))
    assert choose(offer, machine_class, firmware=setting).firmware == chosen


@pytest.mark.parametrize(
    "firmware",
    [
        Firmware("/c", "raw", "/v", True, ("pc-q35-*",)),
        Firmware("/c", "raw", "/v", False, ("pc-i440fx-*",)),
        Firmware("/c", "raw", "/v", False, ()),
        Firmware("/c", "qcow2", "/v", False, ("pc-q35-*",)),
    ],
)
def test_firmware_that_does_not_fit(firmware: Firmware) -> None:
    assert find(replace(OFFER, firmware=(firmware,)), "pc-q35-7.2") is None


def test_qcow2_firmware_where_libvirt_can() -> None:
    firmware = Firmware("/c", "qcow2", "/v", False, ("pc-q35-*",))
    offer = replace(OFFER, firmware=(firmware,), libvirt_version=11_003_000)
    assert choose(offer).loader_format == "qcow2"


@pytest.mark.parametrize(
    ("offer", "changes", "words"),
    [
        (replace(OFFER, domain_types=frozenset({"qemu"})), {"domain_type": "kvm"}, "does not offer kvm"),
        (replace(OFFER, machine_type=""), {}, "no q35"),
        (OFFER, {"cpu": ("host-passthrough", "")}, "CPU mode host-passthrough"),
        (OFFER, {"cpu": ("custom", "EPYC")}, "CPU model EPYC"),
        (NO_UEFI, {"firmware": "uefi"}, "no UEFI"),
    ],
)
def test_not_here(offer: Offer, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(NotReady, match=words) as caught:
        choose(offer, **changes)
    assert caught.value.advice


def test_too_many_vcpus() -> None:
    with pytest.raises(NotReady, match="256 vCPUs"):
        choose(machine_class=MachineClass("c", 255_001, GIB))


def test_a_named_model_is_kept_for_custom_alone() -> None:
    assert choose(cpu=("custom", "qemu64")).cpu_model == "qemu64"
    assert choose(cpu=("maximum", "qemu64")).cpu_model == ""


@pytest.mark.parametrize(
    ("made", "offer", "exists", "code"),
    [
        (BIOS, OFFER, False, None),
        (UEFI, OFFER, False, None),
        (UEFI, NO_UEFI, True, None),  # newer descriptors; the file is still there
        (UEFI, NO_UEFI, False, "firmware-gone"),
        (BIOS, NO_UEFI, False, None),
        (BIOS, replace(OFFER, machine_types=frozenset({"pc-q35-9.0"})), True, "machine-type-gone"),
        (BIOS, replace(OFFER, machine_type="pc-q35-9.0"), True, None),
        (UEFI, replace(OFFER, domain_types=frozenset({"qemu"})), True, "domain-type-gone"),
    ],
)
def test_still_offered(made: Profile, offer: Offer, exists: bool, code: str | None) -> None:
    reason = profile.still_offered(made, offer, exists=lambda _: exists)
    assert (reason.code if reason else None) == code
    assert reason is None or (reason.message and reason.advice)
