"""What the report tells, gathered without the daemon and without libvirt: the inventory, and the store read-only.

Under the roots of another host only its inventory is known: nothing of this one's store is mixed into it, and its
classes are those of an empty host. A store that is there and cannot be read is no empty one: what machines have, and
what can be sold, is then unknown. Nothing is written, no ladder is frozen. The arithmetic is the daemon's own
(capacity/). Imports are light, for a short command starts often; how it is shown does not belong here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sri_libvirt.capacity import ladder, placement
from sri_libvirt.capacity.budget import UNLIMITED, Budget, Hardware, Reserves, budget, of_inventory
from sri_libvirt.capacity.deliverable import Lack
from sri_libvirt.config import Settings
from sri_libvirt.domain import profile
from sri_libvirt.errors import ConfigError, StoreError
from sri_libvirt.host import files, inventory, space
from sri_libvirt.host.inventory import PROCFS, SYSFS, Inventory
from sri_libvirt.hypervisor import offers
from sri_libvirt.hypervisor.base import Offer
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import META_KVM, META_NEIGHBOURS, MachineClass
from sri_libvirt.resources import Usage, claims_of_text
from sri_libvirt.server import cordon
from sri_libvirt.store.reader import Reader

BOOT_ID = "sys/kernel/random/boot_id"

NO_KVM = "guests are emulated (TCG), many times slower than under KVM"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What guests run with: `kvm` is None when nobody has proven it yet; `detail` says why (not)."""

    kvm: bool | None
    detail: str


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store says. `found` is False of a host without one, which is an empty host."""

    found: bool = False
    usage: Usage = field(default_factory=Usage)
    classes: Mapping[str, MachineClass] | None = None
    closed: str = ""
    verdict: Verdict | None = None
    offer: Offer | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """One look at a host, and what it can sell.

    `unknown` says why nobody can tell what it can sell, "" when that is known; `usage` is None then, and nothing is
    offered. `usage` counts domains that are not ours too. `closed` says why no new machine is taken, "" when they are.
    `warnings` are for the reader of the report, `note` says in a line what the report had to do without. `offer` is
    what libvirt and QEMU offered when the daemon asked last.
    """

    inventory: Inventory
    budget: Budget
    usage: Usage | None
    offers: tuple[placement.Offer, ...]
    verdict: Verdict
    unknown: str = ""
    foreign: bool = False
    closed: str = ""
    warnings: tuple[str, ...] = ()
    note: str = ""
    offer: Offer | None = None
    lacks: Mapping[str, Lack] = field(default_factory=dict)

    def explain(self, name: str) -> list[str] | None:
        """The arithmetic of a class, a line each; None when there is no such class, and for all while it is unknown."""
        if self.usage is None:
            return None
        wanted = next((offer.machine_class for offer in self.offers if offer.machine_class.name == name), None)
        if wanted is None:
            return None
        return placement.explain(self.budget, self.usage, wanted, bool(self.closed), self.lacks.get(name))


def gather(settings: Settings, *, names: bool = False) -> Report:
    """Look at the host of the settings' roots. `names` also asks udev for names, which takes a moment.

    Raises ConfigError for a bad class file, and for roots where nothing of a host is.
    """
    if not (settings.sysfs / "devices").is_dir():
        raise ConfigError(f"--sysfs {settings.sysfs}: there is no devices/ in it, so it is no host's")
    if not settings.procfs.is_dir():
        raise ConfigError(f"--procfs {settings.procfs}: there is no such directory")
    foreign = is_foreign(settings.sysfs, settings.procfs)
    paths = None if foreign else StatePaths(settings.state_dir)
    found = inventory.read(settings.sysfs, settings.procfs, state_dir=paths.root if paths else None)
    stored, disk, note, unknown = Stored(), None, "", ""
    try:
        if paths:
            stored, note = read_store(paths)
            disk = _space(paths)
    except (StoreError, OSError, ValueError, TypeError, KeyError) as error:
        said = f"{error.filename or settings.state_dir}: {error.strerror}" if isinstance(error, OSError) else str(error)
        unknown = f"it is unknown what this host can sell: {' '.join(said.split())}"
    if names and (settings.sysfs, settings.procfs) == (SYSFS, PROCFS):
        found = _with_names(found)
    return assess(found, stored, settings, disk=disk, foreign=foreign, note=note, unknown=unknown)


def assess(
    found: Inventory,
    stored: Stored,
    settings: Settings,
    *,
    disk: space.Space | None = None,
    foreign: bool = False,
    note: str = "",
    unknown: str = "",
) -> Report:
    """What a host can sell. Pure but for the operator's class file. Without a disk, as in a saved tree, none limits it.

    Where that is `unknown` nothing is offered, rather than all.
    """
    hardware = of_inventory(found)
    sold = budget(
        replace(
            hardware,
            disk_bytes=disk.total_bytes if disk else UNLIMITED,
            disk_others_bytes=disk.others_bytes if disk else 0,
        ),
        Reserves(
            memory_bytes=settings.reserved_memory,
            cpu_millis=settings.reserved_cpus,
            cpu_overcommit=settings.cpu_overcommit,
            disk_overcommit=settings.disk_overcommit,
            machines=settings.max_machines,
        ),
    )
    verdict = _verdict(found, stored, settings)
    closed = _kvm_is_gone(found, stored, settings) or stored.closed
    classes = _classes(settings, stored, hardware)
    lacks = _lacks(classes, stored.offer, settings)
    for_sale = tuple(
        placement.offer(sold, stored.usage, each, bool(closed), lacks.get(each.name)) for each in classes.values()
    )
    warnings = (*([unknown] if unknown else []), *_warnings(found, verdict, closed, foreign))
    return Report(
        *(found, sold, None if unknown else stored.usage, () if unknown else for_sale, verdict),
        unknown=unknown,
        foreign=foreign,
        closed=closed,
        warnings=warnings,
        note=note,
        offer=stored.offer,
        lacks=lacks,
    )


def _lacks(classes: Mapping[str, MachineClass], offer: Offer | None, settings: Settings) -> dict[str, Lack]:
    """As the daemon has it that asked libvirt last."""
    if offer is None:
        return {}
    found = {each.name: profile.lacks_firmware(offer, each, settings.firmware) for each in classes.values()}
    return {name: Lack("firmware", words) for name, words in found.items() if words}


def is_foreign(sysfs: Path, procfs: Path) -> bool:
    """Whether these roots are another host's: not the kernel's own, nor the same kernel's mounted elsewhere.

    A sidecar container sees its host through such mounts, and what is in its store is that host's.
    """
    if (sysfs, procfs) == (SYSFS, PROCFS):
        return False
    if sysfs == SYSFS or procfs == PROCFS:
        return True
    theirs = files.text(procfs / BOOT_ID)
    return theirs is None or theirs != files.text(PROCFS / BOOT_ID)


def read_store(paths: StatePaths) -> tuple[Stored, str]:
    """What the store says; of a host on which no daemon has run yet, an empty one, and a line that says so.

    Raises StoreError, OSError, ValueError, TypeError, KeyError when there is one, or was, that cannot be read.
    """
    if not paths.database.exists() and not _has_machines(paths):
        return Stored(), f"shown as an empty host: there is no state database at {paths.database}"
    with Reader.open(paths) as reader:
        if doubt := reader.doubt:
            raise StoreError(doubt)
        text = reader.meta(META_KVM)
        return Stored(
            found=True,
            usage=reader.usage().beside(Usage().plus(claims_of_text(reader.meta(META_NEIGHBOURS)))),
            classes=ladder.frozen(reader.meta(ladder.META_KEY)),
            closed=cordon.of_text(reader.meta(cordon.META_KEY)).words,
            verdict=_stored_verdict(text) if text else None,
            offer=offers.of_text(reader.meta(offers.META_KEY)),
        ), ""


def _has_machines(paths: StatePaths) -> bool:
    try:
        return next(paths.machines.iterdir(), None) is not None
    except FileNotFoundError:
        return False


def _stored_verdict(text: str) -> Verdict:
    found = json.loads(text)
    return Verdict(bool(found["works"]), str(found["detail"]))


def _verdict(found: Inventory, stored: Stored, settings: Settings) -> Verdict:
    if settings.domain_type == "qemu":
        return Verdict(False, "--domain-type qemu")
    if found.virtualisation.kvm is False:
        return Verdict(False, "the kernel offers no /dev/kvm")
    return stored.verdict or Verdict(None, "")


def _kvm_is_gone(found: Inventory, stored: Stored, settings: Settings) -> str:
    """A host that once ran KVM takes no machines without it (contract G.6); the daemon knows more ways to lose it."""
    wanted = settings.domain_type == "kvm" or (stored.verdict is not None and stored.verdict.kvm)
    if stored.found and wanted and settings.domain_type != "qemu" and found.virtualisation.kvm is False:
        return "this host ran guests by KVM, and now the kernel offers no /dev/kvm"
    return ""


def _classes(settings: Settings, stored: Stored, hardware: Hardware) -> Mapping[str, MachineClass]:
    """As the daemon has them, but without freezing a ladder."""
    if settings.machine_classes:
        from sri_libvirt.capacity import classes  # YAML takes a while to load

        return classes.load(settings.machine_classes)
    return stored.classes or ladder.steps(hardware.total.cpus, hardware.total.memory_bytes)


def _warnings(found: Inventory, verdict: Verdict, closed: str, foreign: bool) -> list[str]:
    warnings = []
    if verdict.kvm is False:
        warnings.append(f"no KVM ({verdict.detail}): {NO_KVM}")
    elif verdict.kvm is None and not foreign:
        doubt = "" if found.virtualisation.extension else ", and the CPU shows no virtualisation extension"
        warnings.append(f"KVM is not proven yet, the daemon does that at its start{doubt}; without it {NO_KVM}")
    if closed:
        warnings.append(closed)
    if found.memory.total_bytes is None:
        warnings.append("the amount of memory is unknown: nothing is for sale")
    if not found.cpu.online:
        warnings.append("no CPU is known: nothing is for sale")
    return warnings


def _space(paths: StatePaths) -> space.Space:
    """The file system that the state directory is on, or will be on. Raises OSError."""
    there = paths.root
    while not there.exists() and there != there.parent:
        there = there.parent
    return space.space(there, paths.machines)


def _with_names(found: Inventory) -> Inventory:
    from sri_libvirt.host import live  # libudev and psutil take a while to load

    try:
        return live.enrich(found)
    except (ImportError, OSError):  # there is no libudev
        return found
