"""The profile: the hardware that is chosen once, at a machine's first define, and must not drift.

Pure: from what the host offers and what the class asks to plain data. Which domain type and CPU this host can really
run does not belong here (that is found out by the KVM probe), nor does the fixed PCI layout.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal, cast

from sri_libvirt.devices import Boot
from sri_libvirt.domain import cpu as cpus
from sri_libvirt.domain import firmware as firmwares
from sri_libvirt.domain.layout import LAYOUT
from sri_libvirt.domain.ports import usable
from sri_libvirt.errors import NotReady
from sri_libvirt.hypervisor.base import Firmware, Offer
from sri_libvirt.records import MOST_VCPUS, MachineClass, Profile, Reason

CpuMode = Literal["host-passthrough", "host-model", "maximum", "custom"]


def choose(
    offer: Offer,
    machine_class: MachineClass,
    *,
    domain_type: Literal["kvm", "qemu"],
    cpu: tuple[str, str],
    firmware: Literal["auto", "bios", "uefi"],
    ports: int,
    boot: Boot = "disk",
) -> Profile:
    """The profile of a new machine. `cpu` is libvirt's mode and, for "custom", the model; `ports` are the most.

    The class's firmware policy goes before `firmware`; "auto" is UEFI without Secure Boot where the host has one. A
    unified kernel image (`boot`) is a program of UEFI.
    Raises NotReady, with advice, when the host does not offer what is needed.
    """
    mode, model = cpu
    _check_offer(offer, domain_type, mode, model)
    vcpus = cpus.vcpus(machine_class.cpu_millis)
    if vcpus > MOST_VCPUS:
        raise NotReady(f"class {machine_class.name} has {vcpus} vCPUs; a machine can have {MOST_VCPUS}")
    policy = machine_class.policy.firmware
    wish = firmware if policy == "default" else policy
    if boot == "uki" and wish == "bios":
        raise NotReady(
            "the machine's image is a unified kernel image, which UEFI alone can boot, and its firmware is to be BIOS",
            "Use a class with `firmware: uefi`, or an image with a kernel or a whole disk.",
        )
    uefi = _uefi(offer, "uefi" if boot == "uki" else wish)
    return Profile(
        layout=LAYOUT,
        domain_type=domain_type,
        machine_type=offer.machine_type,
        cpu_mode=cast(CpuMode, mode),
        cpu_model=model if mode == "custom" else "",
        vcpus=vcpus,
        cpu_millis=machine_class.cpu_millis,
        memory_bytes=machine_class.memory_bytes,
        firmware="uefi" if uefi else "bios",
        loader=uefi.loader if uefi else "",
        loader_format=cast(Literal["raw", "qcow2"], uefi.loader_format) if uefi else "raw",
        nvram_template=uefi.nvram_template if uefi else "",
        ports=usable(ports, vcpus),
        emulator=offer.emulator,
        boot=boot,
    )


def lacks_firmware(offer: Offer, machine_class: MachineClass, firmware: Literal["auto", "bios", "uefi"]) -> str:
    """Why no profile can be chosen for a class for want of its firmware, with advice; "" when one can."""
    policy = machine_class.policy.firmware
    try:
        _uefi(offer, firmware if policy == "default" else policy)
    except NotReady as error:
        return f"{error}. {error.advice}"
    return ""


def still_offered(profile: Profile, offer: Offer, *, exists: Callable[[str], bool] = os.path.isfile) -> Reason | None:
    """Why the host can no longer run a machine as it was defined, None when it can.

    A loader counts while its file `exists`, offered or not: newer descriptors do not take it from old machines.
    """
    if profile.domain_type not in offer.domain_types:
        return Reason(
            "domain-type-gone",
            f"the machine runs by {profile.domain_type}, which libvirt no longer offers on this host",
            "See `virsh domcapabilities` and the permissions of /dev/kvm.",
        )
    if profile.machine_type not in offer.machine_types:
        return Reason(
            "machine-type-gone",
            f"this QEMU no longer has the machine type {profile.machine_type} that the machine was made with",
            "Install a QEMU that has it (`qemu-system-x86_64 -machine help`), or delete and create the machine anew.",
        )
    loaders = {firmware.loader for firmware in offer.firmware}
    if profile.firmware == "uefi" and profile.loader not in loaders and not exists(profile.loader):
        return Reason(
            "firmware-gone",
            f"the machine's firmware {profile.loader} is no longer on this host",
            "Install the package that held it again (ovmf), or put the file back.",
        )
    return None


def _check_offer(offer: Offer, domain_type: str, mode: str, model: str) -> None:
    if domain_type not in offer.domain_types:
        raise NotReady(
            f"libvirt does not offer {domain_type} on this host",
            "See `virsh domcapabilities`; for kvm, /dev/kvm must be there. Or choose another --domain-type.",
        )
    if not offer.machine_type:
        raise NotReady("QEMU of this host has no q35 machine", "Install qemu-system-x86.")
    modes = offer.cpu_modes.get(domain_type, frozenset())
    if mode not in modes:
        raise NotReady(
            f"libvirt does not offer the CPU mode {mode} for {domain_type} on this host (it has: {_list(modes)})",
            "Upgrade libvirt to 7.1 or later." if mode == "maximum" else "Choose another --domain-type.",
        )
    if mode == "custom" and model not in offer.cpu_models.get(domain_type, frozenset()):
        raise NotReady(
            f"the CPU model {model} is not usable by {domain_type} on this host", "See `virsh domcapabilities`."
        )


def _uefi(offer: Offer, wish: Literal["auto", "bios", "uefi"]) -> Firmware | None:
    if wish == "bios":
        return None
    found = firmwares.find(offer, offer.machine_type)
    if found is None and wish == "uefi":
        raise NotReady(
            f"this host has no UEFI without Secure Boot for {offer.machine_type}",
            "Install the package ovmf (its descriptors are in /usr/share/qemu/firmware), or choose --firmware bios.",
        )
    return found


def _list(words: frozenset[str]) -> str:
    return ", ".join(sorted(words)) or "none"
