"""Firmware: which one of the host's a new machine gets, and the two flash files of one that has it.

Loader and NVRAM template are always written out: libvirt's own choice prefers the build with Secure Boot on Debian 12
and moves with an upgrade. Reading firmware descriptors does not belong here (the hypervisor's offer holds them).
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from sri_libvirt.domain.spec import Firmware
from sri_libvirt.hypervisor import base
from sri_libvirt.records import Profile

_LOADER_FORMATS_SINCE = 9_002_000
"""From libvirt 9.2 on a loader may be something else than raw; older schemas know no such attribute."""


def find(offer: base.Offer, machine_type: str) -> base.Firmware | None:
    """The best UEFI without Secure Boot for that machine type, as the distribution orders them; None without one."""
    for firmware in offer.firmware:
        usable = firmware.loader_format == "raw" or offer.libvirt_version >= _LOADER_FORMATS_SINCE
        matching = any(fnmatchcase(machine_type, pattern) for pattern in firmware.machine_patterns)
        if usable and matching and not firmware.secure_boot:
            return firmware
    return None


def build(profile: Profile, nvram: Path) -> Firmware | None:
    """The firmware of a profile; None by BIOS. `nvram` is where its variables are kept."""
    if profile.firmware == "bios":
        return None
    return Firmware(
        loader=profile.loader,
        loader_format=profile.loader_format,
        nvram_template=profile.nvram_template,
        nvram=str(nvram),
    )
