"""Puts devices into a tree as sysfs does: one directory each, and links to it from buses and classes."""

from __future__ import annotations

from collections.abc import Mapping

from tests.unit.host.trees import Tree

NOTHING: Mapping[str, object] = {}

_LINKS = {
    "driver": "../../../../bus/pci/drivers/{}",
    "iommu_group": "../../../../kernel/iommu_groups/{}",
    "physfn": "../{}",
}


def pci(
    tree: Tree,
    address: str,
    *,
    ids: str,
    device_class: str,
    links: Mapping[str, object] = NOTHING,
    facts: Mapping[str, object] = NOTHING,
) -> str:
    """A PCI function, and where it is. Links are `driver`, `iommu_group` and `physfn`; facts are files."""
    where = f"devices/pci0000:00/{address}"
    vendor, _, device = ids.partition(":")
    for name, digits in {"vendor": vendor, "device": device, "class": device_class}.items():
        tree.write(f"sys/{where}/{name}", f"0x{digits}")
    for name, value in facts.items():
        tree.write(f"sys/{where}/{name}", value)
    for name, value in links.items():
        tree.link(f"sys/{where}/{name}", _LINKS[name].format(value))
    tree.link(f"sys/bus/pci/devices/{address}", f"../../../{where}")
    return where


def functions(tree: Tree, card: str, *addresses: str) -> None:
    """A card's links to its configured VFs."""
    for index, address in enumerate(addresses):
        tree.link(f"sys/{card}/virtfn{index}", f"../{address}")


def interface(
    tree: Tree,
    name: str,
    *,
    device: str = "",
    master: str = "",
    below: str = "",
    facts: Mapping[str, object] = NOTHING,
) -> None:
    """A network interface, of a device or virtual; `below` is what it stands on, facts are files."""
    where = f"{device}/net/{name}" if device else f"devices/virtual/net/{name}"
    for key, value in {"type": 1, "flags": "0x1003", "mtu": 1500, **facts}.items():
        tree.write(f"sys/{where}/{key}", value)
    if device:
        tree.link(f"sys/{where}/device", "../..")
    if master:
        tree.link(f"sys/{where}/master", f"../{master}")
    if below:
        tree.link(f"sys/{where}/lower_{below}", f"../{below}")
    tree.link(f"sys/class/net/{name}", f"../../{where}")
