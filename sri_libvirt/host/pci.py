"""PCI devices that a machine could get: all but bridges. Which are for sale does not belong here (capacity/)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sri_libvirt.host import files

SYS = Path("/sys")

ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", re.ASCII)
"""Domain, bus, device, function; domains behind Intel VMD have five digits."""

BRIDGE = "06"

_DISPLAYS = ("0300", "0302", "0380")
_ACCELERATORS = "12"
_OF_DISPLAYS = frozenset({"10de", "1002", "8086"})
_OF_ACCELERATORS = frozenset({"10de", "1002"})
"""Who makes GPUs (NVIDIA, AMD, Intel) of that class: a BMC's and an emulated display are of it, too, and FPGAs and
other accelerators of the other one."""


@dataclass(frozen=True, slots=True)
class PciDevice:
    """One PCI function. Ids are lower-case hex without 0x, as `lspci -n` prints them."""

    address: str
    """`dddd:bb:dd.f`."""
    vendor: str
    device: str
    device_class: str
    """Six digits: class, subclass, programming interface."""
    vendor_name: str | None
    """Of udev's hardware database; None until somebody asked it (live.py)."""
    device_name: str | None
    driver: str | None
    iommu_group: int | None
    numa: int | None
    physical_function: str | None
    """The card's address, for a VF."""

    @property
    def gpu(self) -> bool:
        """Whether it computes pictures, or what else GPUs compute; a BMC's display only shows them."""
        if self.device_class[:4] in _DISPLAYS:
            return self.vendor in _OF_DISPLAYS
        return self.device_class[:2] == _ACCELERATORS and self.vendor in _OF_ACCELERATORS


def read(sysfs: Path = SYS) -> tuple[PciDevice, ...]:
    """The devices of this root, by address; what has no vendor, device and class is left out."""
    return tuple(_devices(sysfs / "bus/pci/devices"))


def _devices(directory: Path) -> Iterator[PciDevice]:
    for address in files.names(directory):
        path = directory / address
        vendor, device, kind = _ids(path)
        if ADDRESS.fullmatch(address) and vendor and device and kind and not kind.startswith(BRIDGE):
            yield PciDevice(
                address=address,
                vendor=vendor,
                device=device,
                device_class=kind,
                vendor_name=None,
                device_name=None,
                driver=driver(path),
                iommu_group=iommu_group(path),
                numa=files.count(path / "numa_node"),
                physical_function=physical_function(path),
            )


def _ids(path: Path) -> tuple[str | None, str | None, str | None]:
    """Vendor, device and class, by their files or else by the event (`PCI_ID=8086:10FB`, `PCI_CLASS=20000`)."""
    said = files.uevent(path)
    vendor, _, device = said.get("PCI_ID", "").partition(":")
    return (
        _hex(files.count(path / "vendor"), vendor, 4),
        _hex(files.count(path / "device"), device, 4),
        _hex(files.count(path / "class"), said.get("PCI_CLASS", ""), 6),
    )


def _hex(value: int | None, said: str, digits: int) -> str | None:
    value = files.parse_number(f"0x{said}") if value is None else value
    return None if value is None or value >= 16**digits else f"{value:0{digits}x}"


def driver(path: Path) -> str | None:
    """The driver that a device is bound to."""
    return files.link(path / "driver") or files.uevent(path).get("DRIVER")


def iommu_group(path: Path) -> int | None:
    """The number of a device's IOMMU group."""
    return files.parse_number(files.link(path / "iommu_group") or "")


def physical_function(path: Path) -> str | None:
    """The address of the card that a VF belongs to."""
    found = files.link(path / "physfn")
    return found if found and ADDRESS.fullmatch(found) else None


def virtual_functions(path: Path) -> tuple[tuple[int, str], ...]:
    """Index and address of the configured VFs of a card, by index."""
    found = ((index, files.link(path / f"virtfn{index}")) for index in files.numbered(path, "virtfn"))
    return tuple((index, address) for index, address in found if address and ADDRESS.fullmatch(address))


def address_of(device: Path) -> str | None:
    """The PCI function that a device of any kind is on, as virtio's are; None where it is on none."""
    try:
        parts = os.path.realpath(device).split("/")
    except (OSError, ValueError):
        return None
    return next((part for part in reversed(parts) if ADDRESS.fullmatch(part)), None)
