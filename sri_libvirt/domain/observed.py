"""A read view of domain XML, live or persistent: our marks, our devices, and what must not have moved.

What it should say does not belong here (see `compare.py`), nor what follows from a difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

from lxml import etree

from sri_libvirt import names
from sri_libvirt.devices import DiskHost, network_source
from sri_libvirt.domain import access, xml
from sri_libvirt.domain.spec import PciAddress
from sri_libvirt.domain.xml import attribute

_NS = {"sri": names.METADATA_NAMESPACE}
_DEVICES = frozenset({"disk", "interface", "hostdev", "filesystem", "redirdev", "shmem", "graphics"})
"""Devices of which libvirt adds none by itself."""

_FIXED = {
    "virtio-serial": "devices/controller[@type='virtio-serial']",
    "balloon": "devices/memballoon",
    "rng": "devices/rng",
}


@dataclass(frozen=True, slots=True)
class ObservedDevice:
    """One of our devices. `port` is the index of its root port, 0 if it is elsewhere.

    `source` is a path, where a network disk is (`devices.network_source`), a network, or the tap of a link without
    peers. `access` is how a disk is opened beside it, `link` in which way a NIC is joined (`Link`).
    """

    alias: str
    kind: Literal["disk", "interface"]
    port: int
    source: str = ""
    target: str = ""
    serial: str = ""
    mac: str = ""
    access: access.Access = field(default_factory=dict)
    link: str = ""


@dataclass(frozen=True, slots=True)
class ObservedDomain:
    """What one XML says. All strings are "" where it says nothing.

    `addresses` are those on pcie.0, "slot.function" by name ("root port 3", "balloon"). `others` are devices without an
    alias of ours, in words; those that libvirt adds by itself are not looked for.
    """

    instance: str = ""
    machine_id: str = ""
    run: str = ""
    domain_type: str = ""
    machine_type: str = ""
    loader: str = ""
    nvram: str = ""
    nvram_template: str = ""
    kernel: str = ""
    initramfs: str = ""
    command_line: str = ""
    addresses: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, ObservedDevice] = field(default_factory=dict)
    memory_kib: int = 0
    vcpus: int = 0
    others: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Place:
    """Where one of our devices is joined to the host. `source` is as `ObservedDevice` has it.

    `job`: a block job copies or commits the disk. `tap` and `bridge` are of a NIC in a live domain.
    """

    source: str
    job: bool = False
    tap: str = ""
    bridge: str = ""


@dataclass(frozen=True, slots=True)
class Glance:
    """What the loop asks of an XML at every look: its marks, and the places of our devices by alias."""

    instance: str
    machine_id: str
    run: str
    devices: Mapping[str, Place]


def glance(text: str) -> Glance:
    """The part of `read` that every look needs, at half its cost. Raises HypervisorError when it is not XML."""
    root = xml.parse(text, "domain XML from libvirt")
    marks = root.find("metadata/sri:machine", _NS)
    nodes = (node for kind in ("disk", "interface") for node in root.iterfind(f"devices/{kind}"))
    places = {attribute(node.find("alias"), "name"): node for node in nodes}
    return Glance(
        instance=attribute(marks, "instance"),
        machine_id=attribute(marks, "id"),
        run=attribute(marks, "run"),
        devices={alias: _place_of(node) for alias, node in places.items() if alias.startswith("ua-")},
    )


def names_files_below(root: Path, *texts: str) -> bool:
    """Whether a domain, by any of its XMLs, has files in a directory: disks, NVRAM, logs, whatever it names.

    What a network disk is called at its server is no file of this host, though it may look like one.
    """
    roots = tuple(f"{each}/" for each in (root, root.resolve()))
    return any(
        word.strip().startswith(roots)
        for text in texts
        if text
        for node in xml.parse(text, "domain XML from libvirt").iter(etree.Element)
        for word in (node.text or "", *_words_of_host(node))
    )


def _words_of_host(node: etree._Element) -> list[str]:
    if node.tag == "source" and "protocol" in node.attrib:
        return []
    return list(map(str, node.attrib.values()))


@lru_cache(maxsize=8)  # a define reads what it asks for twice
def read(text: str) -> ObservedDomain:
    """Read live or persistent XML, ours or not. Raises HypervisorError when it is not XML."""
    root = xml.parse(text, "domain XML from libvirt")
    marks = root.find("metadata/sri:machine", _NS)
    devices = [_device(node) for node in root.iterfind("devices/*") if node.tag in ("disk", "interface")]
    return ObservedDomain(
        instance=attribute(marks, "instance"),
        machine_id=attribute(marks, "id"),
        run=attribute(marks, "run"),
        domain_type=attribute(root, "type"),
        machine_type=attribute(root.find("os/type"), "machine"),
        loader=root.findtext("os/loader") or "",
        nvram=root.findtext("os/nvram") or "",
        nvram_template=attribute(root.find("os/nvram"), "template"),
        kernel=root.findtext("os/kernel") or "",
        initramfs=root.findtext("os/initrd") or "",
        command_line=root.findtext("os/cmdline") or "",
        addresses=_addresses(root),
        devices={device.alias: device for device in devices if device.alias.startswith("ua-")},
        memory_kib=int(root.findtext("memory") or "0"),
        vcpus=int(root.findtext("vcpu") or "0"),
        others=frozenset(_words(node) for node in root.iterfind("devices/*") if _is_strange(node)),
    )


def read_device(text: str) -> ObservedDevice:
    """Read the XML of one device, as it is plugged. Raises HypervisorError when it is not XML."""
    return _device(xml.parse(text, "XML of a device"))


def place_of(address: PciAddress) -> str:
    """A place on pcie.0, as `ObservedDomain.addresses` has it."""
    return f"{address.slot:02x}.{address.function:x}"


def _device(node: etree._Element) -> ObservedDevice:
    kind: Literal["disk", "interface"] = "disk" if node.tag == "disk" else "interface"
    return ObservedDevice(
        alias=attribute(node.find("alias"), "name"),
        kind=kind,
        port=_port(node.find("address")),
        source=_source(node),
        target=attribute(node.find("target"), "dev") if kind == "disk" else "",
        serial=node.findtext("serial") or "",
        mac=attribute(node.find("mac"), "address"),
        access=access.of_xml(node) if kind == "disk" else {},
        link=str(_link(node)) if kind == "interface" else "",
    )


@dataclass(frozen=True, slots=True)
class Link:
    """In which way a NIC is joined; how fast, an operator's template may say otherwise. `values` are those of its
    filter's parameters."""

    unmanaged: bool = False
    mode: str = ""
    interface_id: str = ""
    trunk: bool = False
    vlans: tuple[int, ...] = ()
    isolated_port: bool = False
    filter: str = ""
    values: tuple[str, ...] = ()

    def __str__(self) -> str:
        """`vlan 42, isolated port, filter NAME of 10.0.0.7`; "" of one without any of it."""
        numbers = " ".join(map(str, self.vlans))
        words = [
            "unmanaged" if self.unmanaged else "",
            f"macvtap {self.mode}" if self.mode else "",
            f"interface {self.interface_id}" if self.interface_id else "",
            f"{'trunk' if self.trunk else 'vlan'} {numbers}" if numbers else "",
            "isolated port" if self.isolated_port else "",
            # libvirt gives them back in an order of its own
            " of ".join(filter(None, [f"filter {self.filter}", " ".join(sorted(self.values))])) if self.filter else "",
        ]
        return ", ".join(filter(None, words))


def _link(node: etree._Element) -> Link:
    source, target, vlan = node.find("source"), node.find("target"), node.find("vlan")
    return Link(
        unmanaged=attribute(target, "managed") == "no",
        mode=attribute(source, "mode") if node.get("type") == "direct" else "",
        interface_id=attribute(node.find("virtualport/parameters"), "interfaceid"),
        trunk=attribute(vlan, "trunk") == "yes",
        vlans=tuple(_number(tag, "id") for tag in node.iterfind("vlan/tag")),
        isolated_port=attribute(node.find("port"), "isolated") == "yes",
        filter=attribute(node.find("filterref"), "filter"),
        values=tuple(attribute(each, "value") for each in node.iterfind("filterref/parameter")),
    )


def _place_of(node: etree._Element) -> Place:
    if node.tag == "disk":
        return Place(_source(node), job=node.find("mirror") is not None)
    tap, bridge = attribute(node.find("target"), "dev"), attribute(node.find("source"), "bridge")
    return Place(_source(node), tap=tap, bridge=bridge)


def _source(node: etree._Element) -> str:
    source = node.find("source")
    if source is not None:
        if protocol := source.get("protocol"):
            return network_source(protocol, source.get("name") or "", _hosts(source))
        for name in ("file", "network", "dev", "bridge", "volume", "name"):
            if named := source.get(name):
                return named
    return attribute(node.find("target"), "dev") if node.tag == "interface" else ""


def _hosts(source: etree._Element) -> Iterator[DiskHost]:
    for host in source.iterfind("host"):
        yield DiskHost(host.get("name") or "", _number(host, "port"), host.get("socket") or "")


def _is_strange(node: etree._Element) -> bool:
    return node.tag in _DEVICES and not attribute(node.find("alias"), "name").startswith("ua-")


def _words(node: etree._Element) -> str:
    """A device of somebody else's: `disk vdz`, `filesystem shared`."""
    named = attribute(node.find("target"), "dev") or attribute(node.find("mac"), "address")
    return f"{node.tag} {named or attribute(node.find('target'), 'dir')}".rstrip()


def _addresses(root: etree._Element) -> dict[str, str]:
    nodes = {f"root port {attribute(node, 'index')}": node for node in root.iterfind("devices/controller")
             if node.get("model") == "pcie-root-port"}  # fmt: skip
    for name, path in _FIXED.items():
        if (node := root.find(path)) is not None:
            nodes[name] = node
    return {name: _slot_of(node.find("address")) for name, node in nodes.items()}


def _slot_of(address: etree._Element | None) -> str:
    if address is None or address.get("type") != "pci" or _number(address, "bus"):
        return ""
    return place_of(PciAddress(_number(address, "slot"), _number(address, "function")))


def _port(address: etree._Element | None) -> int:
    if address is None or address.get("type") != "pci" or _number(address, "slot") or _number(address, "function"):
        return 0
    return _number(address, "bus")


def _number(node: etree._Element, name: str) -> int:
    return int(node.get(name) or "0", 0)
