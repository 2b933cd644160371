"""/proc/cpuinfo and the other files that name the CPU; every architecture has a format of its own.

The places of CPUs do not belong here (cpu.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sri_libvirt.host import files

PROC = Path("/proc")

FIRST_CPUS = 1 << 16
"""Bytes of /proc/cpuinfo that tell what the CPUs are; on a large host it takes the kernel a while to write all."""

ALL_CPUS = 1 << 24

SAVED_FACTS = "hwloc-nofile-info"
"""Where hwloc-gather-topology(1) puts what no file of a live host tells."""

_ARCHITECTURES = re.compile(
    r"x86_64|i[3-6]86|aarch64|arm\w*|ppc(?:64)?(?:le)?|s390x?|riscv(?:32|64)|loongarch64|ia64|sparc(?:64)?|mips(?:64)?",
    re.ASCII,
)

_ARM_VENDORS = {
    0x41: "ARM",
    0x42: "Broadcom",
    0x43: "Cavium",
    0x46: "Fujitsu",
    0x48: "HiSilicon",
    0x4E: "NVIDIA",
    0x50: "Applied Micro",
    0x51: "Qualcomm",
    0x53: "Samsung",
    0x56: "Marvell",
    0x61: "Apple",
    0x6D: "Microsoft",
    0x70: "Phytium",
    0xC0: "Ampere",
}
"""Main ID Register, implementer."""

_ARM_MODELS = {
    (0x41, 0xD03): "Cortex-A53",
    (0x41, 0xD07): "Cortex-A57",
    (0x41, 0xD08): "Cortex-A72",
    (0x41, 0xD0B): "Cortex-A76",
    (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD40): "Neoverse-V1",
    (0x41, 0xD49): "Neoverse-N2",
    (0x41, 0xD4F): "Neoverse-V2",
    (0x41, 0xD84): "Neoverse-V3",
    (0x41, 0xD8E): "Neoverse-N3",
    (0x43, 0x0AF): "ThunderX2",
    (0x46, 0x001): "A64FX",
    (0x48, 0xD01): "Kunpeng-920",
    (0xC0, 0xAC3): "Ampere-1",
    (0xC0, 0xAC4): "Ampere-1a",
}
"""Main ID Register, implementer and part, of cores in servers; arm64 kernels print no name."""


@dataclass(frozen=True, slots=True)
class CpuInfo:
    """The first CPU, for all: hybrid ones differ in nothing that is kept here."""

    architecture: str | None
    architecture_is_told: bool
    """By the kernel, and not only by the format of /proc/cpuinfo."""
    vendor: str | None
    family: str | None
    model: str | None
    flags: frozenset[str]


def read(procfs: Path = PROC) -> CpuInfo:
    """What kind of CPUs the host has."""
    fields = parse(files.text(procfs / "cpuinfo", FIRST_CPUS) or "")
    told = _told_architecture(procfs)
    vendor, model = _arm_names(fields)
    return CpuInfo(
        architecture=told or _kernels_architecture(procfs) or _likely_architecture(fields),
        architecture_is_told=told is not None,
        vendor=vendor or _first(fields, "vendor_id", "vendor", "mvendorid", "uarch"),
        family=_first(fields, "cpu family", "family"),
        model=_first(fields, "model name", "Model Name", "cpu model", "cpu")
        or model
        or _s390_machine(fields)
        or _riscv_name(fields),
        flags=frozenset(re.findall(r"[^\s,]+", _first(fields, "flags", "Features", "features") or "")),
    )


def processors(procfs: Path = PROC) -> frozenset[int]:
    """The online CPUs as procfs alone tells them."""
    found = re.findall(r"^processor\s*:?\s*([0-9]{1,5})\b", files.text(procfs / "cpuinfo", ALL_CPUS) or "", re.M | re.A)
    if not found:
        found = re.findall(r"^cpu([0-9]{1,5}) ", files.text(procfs / "stat", ALL_CPUS) or "", re.M | re.A)
    return frozenset(number for number in map(int, found) if number < files.MOST_IDS)


def parse(text: str) -> Mapping[str, str]:
    """The first value of every key."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and value.strip():
            fields.setdefault(key.strip(), " ".join(value.split()))
    return fields


def _first(fields: Mapping[str, str], *keys: str) -> str | None:
    return next((fields[key] for key in keys if key in fields), None)


def _told_architecture(procfs: Path) -> str | None:
    """Of this host, or of a saved tree as hwloc keeps it."""
    if str(procfs) == str(PROC):
        return os.uname().machine
    found = re.search(r"^Architecture: (\S+)$", files.text(procfs / SAVED_FACTS) or "", re.M)
    return found[1] if found else None


def _kernels_architecture(procfs: Path) -> str | None:
    """Newer kernels have a file for it (6.1), some distributions a suffix of the release."""
    for name in ("arch", "osrelease"):
        word = (files.text(procfs / "sys/kernel" / name) or "").rpartition(".")[2]
        if _ARCHITECTURES.fullmatch(word):
            return word
    return None


def _likely_architecture(fields: Mapping[str, str]) -> str | None:
    """The one that prints such a /proc/cpuinfo; POWER and MIPS print the same for several."""
    flags = (fields.get("flags") or "").split()
    if "fpu" in flags or fields.get("cpuid level"):
        return "x86_64" if "lm" in flags else "i686"
    if "CPU implementer" in fields or "Processor" in fields:
        return "aarch64" if (fields.get("CPU architecture") or "").startswith(("8", "AArch64")) else "arm"
    if fields.get("arch") == "IA-64":
        return "ia64"
    if fields.get("vendor_id") == "IBM/S390":
        return "s390x" if "zarch" in (fields.get("features") or "").split() else "s390"
    if (fields.get("isa") or "").startswith(("rv64", "rv32")):
        return f"riscv{fields['isa'][2:4]}"
    if (fields.get("CPU Family") or "") == "Loongson-64bit":
        return "loongarch64"
    return None


def _arm_names(fields: Mapping[str, str]) -> tuple[str | None, str | None]:
    implementer = files.parse_number(fields.get("CPU implementer", ""))
    part = files.parse_number(fields.get("CPU part", ""))
    if implementer is None:
        return None, fields.get("Processor")
    vendor = _ARM_VENDORS.get(implementer) or f"implementer {implementer:#04x}"
    unnamed = f"{vendor} part {part:#05x}" if part is not None else None
    return vendor, _ARM_MODELS.get((implementer, part or 0)) or fields.get("Processor") or unnamed


def _riscv_name(fields: Mapping[str, str]) -> str | None:
    """By the microarchitecture, or else by who made it and which of his it is (the SBI's ids)."""
    if not fields.get("isa", "").startswith("rv"):
        return None
    ids = [f"{name} {fields[name]}" for name in ("mvendorid", "marchid") if name in fields]
    return fields.get("uarch") or " ".join(ids) or None


def _s390_machine(fields: Mapping[str, str]) -> str | None:
    """The machine type, as `2817`, in the line of the first processor."""
    for key, value in fields.items():
        found = re.search(r"machine = (\S+)", value) if key.startswith("processor ") else None
        if found:
            return found[1]
    return None
