"""Every name that is derived from an id: aliases, MACs, serials, targets, titles, secret UUIDs.

Pure functions. What is derived here is stored with the attachment when it is made, so that a later change of a rule
changes no existing machine. Paths of files do not belong here (see `paths.py`).
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator
from functools import lru_cache

METADATA_NAMESPACE = "https://spheric.cloud/sri-libvirt/v1"
"""XML namespace of our element in a domain's `<metadata>`."""

IMAGE_TARGET = "vdaaa"
"""Target of the image's disk: outside the names that the API can give to a volume (contract G.12)."""

SEED_TARGET = "vdzzz"
"""Target of the NoCloud seed disk; outside the API's names too."""

DEVICE_NAME = re.compile(r"^[a-z]{2}[a-z][a-z]?$")
"""What the API allows as a volume's device name (contract D)."""


def new_machine_id() -> str:
    """A fresh machine id: a random UUID, used as the domain's name and UUID alike."""
    return str(uuid.uuid4())


def digest(*parts: str, length: int) -> str:
    """`length` hex digits that stand for the parts; unambiguous (lengths are hashed too)."""
    h = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        h.update(len(raw).to_bytes(8, "big") + raw)
    return h.hexdigest()[:length]


@lru_cache(maxsize=256)  # a look asks for each device's some twenty times
def alias(kind: str, name: str, incarnation: int) -> str:
    """The device's alias, `ua-<vol|nic|img|seed>-<16 hex digits>-<incarnation>`.

    Letters, digits, `-` and `_` only: libvirt silently drops an alias with any other character.
    """
    short = {"volume": "vol", "nic": "nic", "image": "img", "seed": "seed"}[kind]
    return f"ua-{short}-{digest(name, length=16)}-{incarnation}"


def is_alias_of(alias_: str, kind: str, name: str) -> bool:
    """Whether it is the alias of a device of this kind and name, of whatever incarnation."""
    return alias_.rpartition("-")[0] == alias(kind, name, 0).rpartition("-")[0]


def incarnation_of(alias_: str) -> int:
    """The incarnation that an alias of ours ends in."""
    return int(alias_.rpartition("-")[2])


def can_be_stranger(alias_: str) -> bool:
    """Whether it is the alias of a device that can come and go: a volume or a NIC."""
    return re.fullmatch(r"ua-(vol|nic)-[0-9a-f]{16}-[0-9]+", alias_) is not None


def mac_address(machine_id: str, nic: str, attempt: int = 0) -> str:
    """A locally administered unicast MAC: 46 bits of (machine, NIC). `attempt` > 0 steps aside from a collision."""
    raw = bytearray.fromhex(digest("mac", machine_id, nic, str(attempt), length=12))
    raw[0] = raw[0] & 0xFC | 0x02
    return raw.hex(":")


def secret_uuid(machine_id: str, volume: str, purpose: str) -> str:
    """The UUID that libvirt knows a volume's secret by, while it does."""
    return str(uuid.UUID(digest("secret", machine_id, volume, purpose, length=32)))


def interface_id(machine_id: str, nic: str) -> str:
    """The UUID by which Open vSwitch knows a machine's NIC."""
    return str(uuid.UUID(digest("interface", machine_id, nic, length=32)))


def initiator(instance: str) -> str:
    """The iSCSI name of a store's host, for volumes that give none (RFC 7143, 4.2.7)."""
    return f"iqn.2024-01.cloud.spheric:sri-libvirt.{digest('initiator', instance, length=16)}"


def serial(device: str, *identity: str) -> str:
    """`<device>-<15 hex digits>`: at most 20 characters, all that virtio-blk shows (contract G.12)."""
    return f"{device}-{digest('serial', *identity, length=15)}"


def target_of(device: str) -> str:
    """The libvirt target of an API device name: `oda` -> `vda`, `odab` -> `vdab`; `device` matches DEVICE_NAME."""
    return "vd" + device[2:]


def device_of(target: str) -> str:
    """The API's name of a target that the provider chose itself: `vda` -> `oda`."""
    return "od" + target[2:]


def targets() -> Iterator[str]:
    """All targets that a volume can have, in order: vda .. vdz, vdaa .. vdzz."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    yield from (f"vd{a}" for a in letters)
    yield from (f"vd{a}{b}" for a in letters for b in letters)


def title(namespace: str, name: str) -> str:
    """The domain's `<title>` for `virsh list --title`, or "" when the machine has no name of its own."""
    return f"{namespace}/{name}" if namespace and name else name


def empty_disk_file(volume: str, size: int) -> str:
    """File name of an empty disk: by name and size, so that the same volume adopts its data again (contract G.4)."""
    return f"empty-{digest(volume, length=16)}-{size}.qcow2"
