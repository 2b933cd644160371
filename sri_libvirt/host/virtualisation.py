"""Signs of virtualisation that cost nothing to read.

Whether KVM really works does not belong here (kvm.py), nor what libvirt offers (hypervisor/).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sri_libvirt.host import cpuinfo, files
from sri_libvirt.host.cpu import Cpu

SYS = Path("/sys")
PROC = Path("/proc")

_EXTENSIONS = ("vmx", "svm", "sie")
"""Of Intel, AMD and IBM Z; others have no flag for it."""


@dataclass(frozen=True, slots=True)
class Virtualisation:
    """Hints only: `kvm.probe` is the verdict."""

    extension: str | None
    """`vmx`, `svm` or `sie` when the CPU says that it can run guests."""
    guest: bool | None
    """Whether this host is itself a virtual machine; None where the CPU would not say so."""
    kvm: bool | None
    """Whether the kernel offers /dev/kvm."""
    nested: bool | None
    """Whether KVM lets guests run guests."""
    iommu: bool | None
    """Whether devices are in IOMMU groups, which passing them through needs."""
    kernel: str | None


def read(cpu: Cpu, sysfs: Path = SYS, procfs: Path = PROC) -> Virtualisation:
    """The signs under these roots."""
    nested = (files.flag(sysfs / f"module/{name}/parameters/nested") for name in ("kvm_intel", "kvm_amd", "kvm"))
    return Virtualisation(
        extension=next((name for name in _EXTENSIONS if name in cpu.flags), None),
        guest=_guest(cpu, sysfs),
        kvm=_offered(sysfs / "class/misc", "kvm"),
        nested=next((flag for flag in nested if flag is not None), None),
        iommu=_iommu(sysfs),
        kernel=_kernel(procfs),
    )


def _guest(cpu: Cpu, sysfs: Path) -> bool | None:
    if "hypervisor" in cpu.flags or files.text(sysfs / "hypervisor/type"):
        return True
    return False if "fpu" in cpu.flags else None


def _offered(directory: Path, name: str) -> bool | None:
    found = files.names(directory)
    return name in found if found else None


def _iommu(sysfs: Path) -> bool | None:
    groups = sysfs / "kernel/iommu_groups"
    return bool(files.names(groups)) if files.is_directory(groups) else None


def _kernel(procfs: Path) -> str | None:
    saved = re.search(r"^OSRelease: (\S+)$", files.text(procfs / cpuinfo.SAVED_FACTS) or "", re.M)
    return files.text(procfs / "sys/kernel/osrelease") or (saved[1] if saved else None)
