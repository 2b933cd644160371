"""The host's CPUs. How many of them machines may have does not belong here (capacity/).

The rules are hwloc's, so that the numbers agree with `lstopo`: a CPU counts when it is online and the kernel describes
its place; a core and a package are what the masks of their lowest CPU say, because ids repeat and may be -1.
Where the kernel describes no place at all (some virtual machines) every online CPU counts, and cores are unknown.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from sri_libvirt.host import cpuinfo, files
from sri_libvirt.host.files import ascending

SYS = Path("/sys")
PROC = Path("/proc")

LEAST_SHARED_LEVEL = 2
"""Caches of level 1 belong to one core everywhere, and are many."""

_CORE = ("core_cpus", "thread_siblings")
_PACKAGE = ("package_cpus", "core_siblings")
_MASKS = (_CORE, _PACKAGE)
"""The names since Linux 5.3, and the older ones, which newer kernels have too."""

_INTEL_KINDS = {"cpu_core": "performance", "cpu_atom": "efficiency", "cpu_lowpower": "low-power"}
"""Performance monitors of hybrid CPUs, below devices/: each says which CPUs it counts for."""

_AMD_MODULE_FAMILIES = ("21", "22")
"""Two cores share a module there, and Linux calls them siblings."""


@dataclass(frozen=True, slots=True)
class Package:
    """One socket."""

    id: int | None
    """The kernel's number, which has holes; None where it gives none."""
    cpus: tuple[int, ...]
    """Online ones, ascending."""


@dataclass(frozen=True, slots=True)
class Core:
    """One core with its online SMT siblings, ascending. The kernel's core id repeats, so it is not kept."""

    cpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cache:
    """One cache, and who shares it."""

    level: int
    kind: str
    """`data`, `instruction` or `unified`."""
    size_bytes: int | None
    cpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """One type of core of a hybrid CPU: `performance`, `efficiency`, `low-power`, or `capacity-<n>` on ARM."""

    name: str
    cpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cpu:
    """The host's CPUs, with the kernel's numbers, ascending; packages, cores and caches hold online ones only."""

    architecture: str | None
    """As uname(2) has it: x86_64, aarch64, ppc64le, ..."""
    vendor: str | None
    model: str | None
    flags: frozenset[str]
    online: tuple[int, ...]
    offline: tuple[int, ...]
    packages: tuple[Package, ...]
    """Empty when the kernel does not tell."""
    cores: tuple[Core, ...]
    """Empty when the kernel does not tell."""
    caches: tuple[Cache, ...]
    """Of level 2 and up."""
    kinds: tuple[Kind, ...]
    """Empty where all cores are alike."""
    isolated: tuple[int, ...]
    """Kept from the scheduler by isolcpus=: of the online ones."""


def read(sysfs: Path = SYS, procfs: Path = PROC) -> Cpu:
    """The CPUs of these roots."""
    root = f"{sysfs}/devices/system/cpu"
    info = cpuinfo.read(procfs)
    known = frozenset(files.numbered(root, "cpu"))  # of the possible ones, on some machines
    present = known & (files.ids(f"{root}/present") or known)
    up = _up(root, known)
    placed = _placed(root, up)
    counted = placed or up or files.ids(f"{root}/online") or cpuinfo.processors(procfs)
    modules = info.architecture_is_told and info.vendor == "AuthenticAMD" and info.family in _AMD_MODULE_FAMILIES
    return Cpu(
        architecture=info.architecture,
        vendor=info.vendor,
        model=info.model,
        flags=info.flags,
        online=ascending(counted),
        offline=ascending(present - up),
        packages=_packages(root, placed),
        cores=_cores(root, placed, modules),
        caches=_caches(root, counted),
        kinds=_intel_kinds(sysfs, counted) or _arm_kinds(root, counted),
        isolated=ascending((files.ids(f"{root}/isolated") or frozenset()) & counted),
    )


def _up(root: str, present: frozenset[int]) -> frozenset[int]:
    """The CPUs that are online, of those that have a directory."""
    listed = files.ids(f"{root}/online")
    if listed is not None:
        return listed & present
    return frozenset(cpu for cpu in present if files.number(f"{root}/cpu{cpu}/online") != 0)


def _placed(root: str, up: frozenset[int]) -> frozenset[int]:
    """The CPUs of which the kernel tells the place; none where it gives directories for it with nothing in them."""
    found = frozenset(cpu for cpu in up if files.is_directory(f"{root}/cpu{cpu}/topology"))
    return found if any(_siblings(root, cpu, what) is not None for cpu in found for what in _MASKS) else frozenset()


def _siblings(root: str, cpu: int, what: tuple[str, str]) -> frozenset[int] | None:
    paths = (f"{root}/cpu{cpu}/topology/{name}" for name in what)
    found = (files.numbers(path, f"{path}_list") for path in paths)
    return next((siblings for siblings in found if siblings is not None), None)


def _groups(root: str, placed: frozenset[int], what: tuple[str, str]) -> list[frozenset[int]]:
    """The sets of siblings, each as its lowest CPU tells it."""
    groups: list[frozenset[int]] = []
    seen: set[int] = set()
    for cpu in sorted(placed):
        if cpu in seen:
            continue
        group = (_siblings(root, cpu, what) or frozenset()) & placed
        if group and min(group) == cpu:
            groups.append(group)
            seen |= group
    return groups


def _packages(root: str, placed: frozenset[int]) -> tuple[Package, ...]:
    return tuple(
        Package(files.count(f"{root}/cpu{min(group)}/topology/physical_package_id"), ascending(group))
        for group in _groups(root, placed, _PACKAGE)
    )


def _cores(root: str, placed: frozenset[int], modules: bool) -> tuple[Core, ...]:
    groups = _groups(root, placed, _CORE)
    if modules and _siblings_are_cores(root, groups):
        groups = [frozenset({cpu}) for cpu in sorted(frozenset[int]().union(*groups))]
    return tuple(Core(ascending(group)) for group in groups)


def _siblings_are_cores(root: str, groups: Collection[frozenset[int]]) -> bool:
    """Whether the first siblings have core ids of their own."""
    for group in groups:
        if len(group) > 1:
            first, second = sorted(group)[:2]
            one, other = (files.number(f"{root}/cpu{cpu}/topology/core_id") for cpu in (first, second))
            return one != other
    return False


def _caches(root: str, up: frozenset[int]) -> tuple[Cache, ...]:
    found: list[Cache] = []
    covered: dict[str, set[int]] = {}
    for cpu in sorted(up):
        for index in files.numbered(f"{root}/cpu{cpu}/cache", "index"):
            base = f"{root}/cpu{cpu}/cache/index{index}"
            level = files.count(f"{base}/level")
            kind = (files.text(f"{base}/type") or "").lower()
            if level is None or level < LEAST_SHARED_LEVEL or kind not in ("data", "instruction", "unified"):
                continue
            seen = covered.setdefault(f"{level} {kind}", set())
            if cpu in seen:
                continue
            shared = files.numbers(f"{base}/shared_cpu_map", f"{base}/shared_cpu_list") or frozenset()
            if cpu in shared:
                seen |= shared
                found.append(Cache(level, kind, _size(files.text(f"{base}/size")), ascending(shared & up)))
    return tuple(sorted(found, key=lambda cache: (cache.level, cache.kind, cache.cpus)))


def _size(text: str | None) -> int | None:
    """`512K`, `32M`: bytes."""
    found = re.fullmatch(r"([0-9]{1,9})([KMG]?)", text or "", re.ASCII)
    return int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2]] if found else None


def _intel_kinds(sysfs: Path, up: frozenset[int]) -> tuple[Kind, ...]:
    found = [
        Kind(name, ascending(cpus & up))
        for device, name in _INTEL_KINDS.items()
        if (cpus := files.ids(f"{sysfs}/devices/{device}/cpus")) and cpus & up
    ]
    return tuple(found) if len(found) > 1 else ()


def _arm_kinds(root: str, up: frozenset[int]) -> tuple[Kind, ...]:
    by_capacity: dict[int, list[int]] = {}
    for cpu in sorted(up):
        capacity = files.count(f"{root}/cpu{cpu}/cpu_capacity")
        if capacity is None:
            return ()
        by_capacity.setdefault(capacity, []).append(cpu)
    if len(by_capacity) < 2:
        return ()
    return tuple(Kind(f"capacity-{capacity}", tuple(by_capacity[capacity])) for capacity in sorted(by_capacity))
