"""A disk's chain of files, taken from a live domain into a persistent one.

For a guest that others have moved to another file, or to another device or network disk: its next start must read what
it has written. When that is right does not belong here.
"""

from __future__ import annotations

from copy import deepcopy

from lxml import etree

from sri_libvirt.domain import xml
from sri_libvirt.errors import HypervisorError

_OF_CHAIN = ("driver", "source", "backingStore")
_KINDS = frozenset({"file", "block", "network"})
"""What a source says all of; a volume of a pool, for one, is what the pool says at the start."""


def follow(live_text: str, persistent_text: str, alias: str) -> str:
    """The persistent XML with the disk of this alias as the live XML has it. Raises HypervisorError if one lacks it."""
    live, persistent = (xml.parse(text, "domain XML from libvirt") for text in (live_text, persistent_text))
    taken, disk = _disk(live, alias), _disk(persistent, alias)
    kind = taken.get("type")
    if kind not in _KINDS:
        raise HypervisorError(f"disk {alias} was moved to a {kind}: the persistent domain cannot follow")
    for tag in _OF_CHAIN:
        for old in disk.findall(tag):
            disk.remove(old)
    parts = [deepcopy(part) for tag in _OF_CHAIN for part in taken.findall(tag)]
    for node in (each for part in parts for each in part.iter("source", "backingStore")):
        node.attrib.pop("index", "")  # QEMU's number of the file in this run
    disk[:0] = parts
    disk.set("type", kind)
    return etree.tostring(persistent, encoding="unicode")


def _disk(root: etree._Element, alias: str) -> etree._Element:
    for disk in root.iterfind("devices/disk"):
        named = disk.find("alias")
        if named is not None and named.get("name") == alias:
            return disk
    raise HypervisorError(f"the domain has no disk {alias}")
