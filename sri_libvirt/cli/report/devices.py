"""Tables of a host's devices, for the picture: network interfaces, PCI devices, disks.

What they stand beside does not belong here (picture.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from sri_libvirt import printable
from sri_libvirt.cli.report.cells import DASH, number_or_dash, table_of, with_rest, word_or_dash
from sri_libvirt.cli.report.facts import Report
from sri_libvirt.host.inventory import Nic, PciDevice
from sri_libvirt.resources import byte_words

MOST_ROWS = 32
"""Lines of a table of devices; a card may have hundreds of functions."""

_PCI_KINDS = {
    "01": "storage",
    "02": "network",
    "03": "display",
    "04": "multimedia",
    "05": "memory",
    "07": "communication",
    "08": "system",
    "09": "input",
    "0b": "processor",
    "0c": "serial bus",
    "0d": "wireless",
    "10": "encryption",
    "11": "signal",
    "12": "accelerator",
    "ff": "other",
}
"""By the first two digits of the PCI class."""

_VIRTUAL = ("tap", "tun", "veth", "macvtap", "macvlan", "virtual")
"""Interfaces that guests and containers bring; only their number is shown, unless the host is reached by one."""

_WANTED = ("02", "01", "12", "10", "0b40", "0d", "03")
"""PCI classes of what machines are given or their host lives of, first things first; a server's own buses, counters and
controllers are only counted."""


def nics(report: Report) -> RenderableType | None:
    """Interfaces of the host's own."""
    shown = [
        nic
        for nic in report.inventory.nics
        if (nic.kind not in _VIRTUAL or nic.default_route) and nic.physical_function is None
    ]
    hidden = len(report.inventory.nics) - len(shown)
    rows = [_nic(nic) for nic in shown]
    table = table_of(("NAME", "KIND", "LINK", "SPEED", "MTU", "DRIVER", "PCI", "NODE", "VFS", "OF"), rows)
    return with_rest(table, len(rows), hidden, "of guests, containers and virtual functions")


def _nic(nic: Nic) -> Sequence[str]:
    link = {True: "up", False: "no carrier", None: DASH}[nic.carrier]
    speed = DASH if nic.speed_mbps is None else f"{nic.speed_mbps / 1000:g} Gbit/s"
    sriov = nic.sriov
    functions = DASH if sriov is None else f"{sriov.free} free of {sriov.configured} (at most {sriov.total})"
    above = [f"port of {nic.master}"] if nic.master else []
    below = [f"on {', '.join(nic.lower)}"] if nic.lower else []
    vlan = [f"VLAN {nic.vlan}"] if nic.vlan is not None else []
    route = ["default route"] if nic.default_route else []
    relations = ", ".join([*above, *vlan, *below, *route])
    mtu = DASH if nic.mtu is None else str(nic.mtu)
    return (
        *(nic.name, nic.kind, link, speed, mtu, word_or_dash(nic.driver)),
        *(word_or_dash(nic.pci), number_or_dash(nic.numa), functions, relations or DASH),
    )


def pci(report: Report) -> RenderableType | None:
    """GPUs first, then what is of use; virtual functions stand with their card."""
    own = [device for device in report.inventory.pci if device.physical_function is None and _use(device) is not None]
    own.sort(key=lambda device: _use(device) or 0)
    shown = own[:MOST_ROWS]
    table = table_of(("ADDRESS", "KIND", "DEVICE", "DRIVER", "IOMMU", "NODE"), [_device(device) for device in shown])
    hidden = len(report.inventory.pci) - len(shown)
    return with_rest(
        table, len(shown), hidden, "PCI devices: virtual functions, and the host's own buses and controllers"
    )


def _use(device: PciDevice) -> int | None:
    """How early it stands, None of what is only counted."""
    if device.gpu:
        return 0
    places = (place for place, kind in enumerate(_WANTED, 1) if device.device_class.startswith(kind))
    return next(places, None)


def _device(device: PciDevice) -> Sequence[str]:
    kind = "GPU" if device.gpu else _PCI_KINDS.get(device.device_class[:2], f"class {device.device_class[:4]}")
    names = " ".join(name for name in (device.vendor_name, device.device_name) if name)
    ids = f"{device.vendor}:{device.device}"
    return (
        *(device.address, kind, f"{names} [{ids}]" if names else ids, word_or_dash(device.driver)),
        *(number_or_dash(device.iommu_group), number_or_dash(device.numa)),
    )


def disks(report: Report) -> RenderableType | None:
    """The file system behind the state directory, and block devices: disks before what is built on them."""
    storage = report.inventory.storage
    found = storage.filesystem
    parts: list[RenderableType] = []
    if found is not None:
        where = f"{word_or_dash(found.mount_point)} ({word_or_dash(found.kind)} on {word_or_dash(found.source)})"
        space = f"{byte_words(found.free_bytes)} free of {byte_words(found.total_bytes)}"
        parts.append(Text(f"{printable.line(found.path)} is on {printable.line(where)}: {space}"))
    rows = [
        (
            device.name,
            byte_words(device.size_bytes),
            {True: "rotating", False: "flash", None: DASH}[device.rotational],
            word_or_dash(device.model),
            number_or_dash(device.numa),
        )
        for device in sorted(storage.devices, key=lambda device: device.built)[:MOST_ROWS]
    ]
    hidden = len(storage.devices) - len(rows)
    table = with_rest(table_of(("NAME", "SIZE", "KIND", "MODEL", "NODE"), rows), len(rows), hidden, "disks")
    return Group(*parts, *([table] if table else [])) if parts or table else None
