"""Network interfaces, as sysfs and procfs tell of them. How a guest's NIC is plugged does not belong here (nics/).

Which network namespace is seen is that of the mounts, so a container looks at the host's through the host's roots.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sri_libvirt.host import files, pci

SYS = Path("/sys")
PROC = Path("/proc")

_LOOPBACK = 772
_ETHERNET = 1
"""ARP hardware types (if_arp.h)."""

_UP = 0x1
"""Interface flag (netdevice(7))."""

_ROUTE_UP = 0x1
_ROUTE_REJECT = 0x200

_NO_SPEED = (0, 0xFFFFFFFF)

_OVS_DATAPATH = "ovs-system"

_VFIO = "/dev/vfio/"

_REPRESENTOR = re.compile(r"(?:c\d+)?pf\d+(?:vf|sf)\d+", re.ASCII)
"""What the kernel calls the port of a switch in a card that leads to a VF (devlink-port(8))."""


@dataclass(frozen=True, slots=True)
class VirtualFunction:
    """One configured VF of a card."""

    index: int
    pci: str
    driver: str | None
    """None when no driver is bound."""
    nic: str | None
    """The host's interface on it, when a network driver is bound."""
    iommu_group: int | None
    free: bool
    """No process has it by VFIO, as a guest's QEMU has, and its interface is no port, nor below another one, nor the
    default route."""


@dataclass(frozen=True, slots=True)
class Sriov:
    """VFs of one card: what it could have, has, and has free."""

    total: int
    configured: int
    free: int
    functions: tuple[VirtualFunction, ...]


@dataclass(frozen=True, slots=True)
class Nic:
    """One network interface, hardware or not; all but the loopback."""

    name: str
    kind: str
    """`ethernet`, `bridge`, `bond`, `vlan`, `tap`, `ovs`, `wlan`, ... as far as the kernel tells; `virtual` of what has
    no device and no such word, as the host's end of a container's veth; else `other`."""
    mac: str | None
    driver: str | None
    pci: str | None
    numa: int | None
    speed_mbps: int | None
    mtu: int | None
    carrier: bool | None
    """None when it is down: the kernel does not say then."""
    master: str | None
    """The bridge, bond or OVS datapath that it is a port of."""
    ports: tuple[str, ...]
    """What it is the master of."""
    lower: tuple[str, ...]
    """What it stands on: the interface below a VLAN or macvlan, the members of a bond."""
    vlan: int | None
    default_route: bool
    addresses: tuple[str, ...]
    """IP addresses; empty until somebody asked the live host (live.py)."""
    physical_function: str | None
    """The PCI address of the card, when this interface is on a VF."""
    sriov: Sriov | None
    """Of the one interface that stands for a PCI function with VFs: not of its further ports, of representors of VFs
    and of an IPoIB interface's children. None when the card cannot, or this is no card."""


def read(sysfs: Path = SYS, procfs: Path = PROC) -> tuple[Nic, ...]:
    """The interfaces of these roots, by name."""
    directory = sysfs / "class/net"
    # beside them stand files, as bonding_masters
    found = [name for name in files.names(directory) if files.is_directory(directory / name)]
    masters = {name: master for name in found if (master := files.link(directory / name / "master"))}
    lower = {name: _lower(directory / name) for name in found}
    routes = default_routes(procfs)
    used = set(masters) | {below for names in lower.values() for below in names} | routes
    owners = _owners(directory, found)
    held = _Held(procfs)
    return tuple(
        _nic(directory / name, procfs, masters, lower[name], routes, used, held if name in owners else None)
        for name in found
        if name != "lo" and files.count(directory / name / "type") != _LOOPBACK
    )


def _nic(
    path: Path,
    procfs: Path,
    masters: dict[str, str],
    lower: tuple[str, ...],
    routes: frozenset[str],
    used: set[str],
    held: _Held | None,
) -> Nic:
    name, address = path.name, pci.address_of(path)
    function = path.parents[2] / "bus/pci/devices" / address if address else path / "device"
    device = path / "device" if files.is_directory(path / "device") else function
    numa = files.count(device / "numa_node")
    return Nic(
        name=name,
        kind=_kind(path),
        mac=files.text(path / "address"),
        driver=pci.driver(device),
        pci=address,
        numa=files.count(function / "numa_node") if numa is None else numa,
        speed_mbps=_speed(files.count(path / "speed")),
        mtu=files.count(path / "mtu"),
        carrier=files.flag(path / "carrier") if (files.count(path / "flags") or _UP) & _UP else None,
        master=masters.get(name),
        ports=tuple(sorted(port for port, master in masters.items() if master == name)),
        lower=lower,
        vlan=_vlan(procfs, name),
        default_route=name in routes,
        addresses=(),
        physical_function=pci.physical_function(device),
        sriov=_sriov(device, used, held) if held else None,
    )


class _Held:
    """The IOMMU groups that processes have by VFIO; looked for once somebody asks."""

    def __init__(self, procfs: Path) -> None:
        first = procfs / "1/fd"
        self._procfs = procfs
        self._is_blind = first.is_dir() and not os.access(first, os.R_OK)
        self._groups: frozenset[int] | None = None

    def by_somebody(self, group: int | None) -> bool:
        """Whether a process has it, or may have: others' files are for root to see."""
        if self._groups is None:
            self._groups = frozenset(self._found())
        return group in self._groups or self._is_blind

    def _found(self) -> Iterator[int]:
        for pid in files.names(self._procfs):
            descriptors = self._procfs / pid / "fd"
            for name in files.names(descriptors) if pid.isdecimal() else ():
                where = files.target(descriptors / name) or ""
                if where.startswith(_VFIO) and where[len(_VFIO) :].isdecimal():
                    yield int(where[len(_VFIO) :])


def _owners(directory: Path, found: Sequence[str]) -> frozenset[str]:
    """Of each PCI function the interface that stands for it: its first port. A card has VFs once, however many
    interfaces are on it.
    """
    first: dict[str, tuple[int, str]] = {}
    for name in found:
        path = directory / name
        address = pci.address_of(path)
        if (
            not address
            or _REPRESENTOR.fullmatch(files.text(path / "phys_port_name") or "")
            or (path / "parent").exists()
        ):
            continue
        order = (files.count(path / "dev_port") or 0, name)
        first[address] = min(first.get(address, order), order)
    return frozenset(name for _, name in first.values())


def _kind(path: Path) -> str:
    """By the kernel's own word for it, else by what only such interfaces have."""
    if path.name == _OVS_DATAPATH:
        return "ovs"
    said = files.uevent(path).get("DEVTYPE")
    if said:
        return said
    for entry, kind in (("bridge", "bridge"), ("bonding", "bond"), ("tun_flags", "tap"), ("wireless", "wlan")):
        if (path / entry).exists():
            return kind
    if files.count(path / "type") not in (_ETHERNET, None):
        return "other"
    return "ethernet" if (path / "device").exists() or pci.address_of(path) else "virtual"


def _speed(megabits: int | None) -> int | None:
    return None if megabits in _NO_SPEED else megabits


def _lower(path: Path) -> tuple[str, ...]:
    return tuple(name.removeprefix("lower_") for name in files.names(path) if name.startswith("lower_"))


def _sriov(device: Path, used: set[str], held: _Held) -> Sriov | None:
    total = files.count(device / "sriov_totalvfs")
    if not total:
        return None
    functions = tuple(_functions(device, used, held))
    configured = files.count(device / "sriov_numvfs")
    return Sriov(
        total=total,
        configured=len(functions) if configured is None else configured,
        free=sum(function.free for function in functions),
        functions=functions,
    )


def _functions(device: Path, used: set[str], held: _Held) -> Iterator[VirtualFunction]:
    for index, address in pci.virtual_functions(device):
        path = device / f"virtfn{index}"
        driver = pci.driver(path)
        interfaces = files.names(path / "net")
        group = pci.iommu_group(path)
        passed = "vfio" in (driver or "") and held.by_somebody(group)
        yield VirtualFunction(
            index=index,
            pci=address,
            driver=driver,
            nic=next(iter(interfaces), None),
            iommu_group=group,
            free=not passed and not used.intersection(interfaces),
        )


def _net(procfs: Path) -> Path:
    """`net` is a link to the reader's own namespace; under another root the host's is that of its first process."""
    first = procfs / "1/net"
    return first if str(procfs) != str(PROC) and files.is_directory(first) else procfs / "net"


def _vlan(procfs: Path, name: str) -> int | None:
    found = re.search(r"\bVID: ([0-9]{1,4})\b", files.text(_net(procfs) / "vlan" / name) or "", re.A)
    return int(found[1]) if found else None


def default_routes(procfs: Path = PROC) -> frozenset[str]:
    """The interfaces that a default route goes out by, of IPv4 or IPv6."""
    net = _net(procfs)
    return parse_routes(files.text(net / "route") or "") | parse_routes6(files.text(net / "ipv6_route") or "")


def parse_routes(text: str) -> frozenset[str]:
    """Of /proc/net/route: a line for a route; interface, destination, gateway, flags, three counters, mask."""
    rows = (line.split() for line in text.splitlines()[1:])
    return frozenset(
        row[0] for row in rows if len(row) > 7 and not _hex(row[1]) and not _hex(row[7]) and _leads(row[3])
    )


def parse_routes6(text: str) -> frozenset[str]:
    """Of /proc/net/ipv6_route: destination, its length, ..., flags, interface."""
    rows = (line.split() for line in text.splitlines())
    return frozenset(
        row[9] for row in rows if len(row) > 9 and not _hex(row[0]) and not _hex(row[1]) and _leads(row[8])
    ) - {"lo"}


def _hex(word: str) -> int:
    """A number, or all ones for what is none: no such route is a default route."""
    return int(word, 16) if re.fullmatch(r"[0-9a-fA-F]{1,32}", word, re.A) else -1


def _leads(flags: str) -> bool:
    value = _hex(flags)
    return value >= 0 and value & (_ROUTE_UP | _ROUTE_REJECT) == _ROUTE_UP
