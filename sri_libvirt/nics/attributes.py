"""What a tenant may say of a network interface by its `attributes`, where the operator's network map allows it.

The API hands them through from tenants, so they never choose a bridge, a VLAN or a driver. What is not allowed is not
looked at. What a driver makes of them does not belong here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from sri_libvirt import printable
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import InvalidSpec

MOST_QUEUES = 8
"""More are of no use to a guest of the usual size, and each is a thread of the kernel's."""

_MULTICAST = 1


@dataclass(frozen=True, slots=True)
class Attributes:
    """What one says; "" and 0 where it says nothing."""

    mac: str = ""
    queues: int = 0
    duid: str = ""


def of(nic: pb.NetworkInterface, allowed: Collection[str]) -> Attributes:
    """What an interface says of what it may say. Raises InvalidSpec for a value that cannot be."""
    found: dict[str, object] = {}
    for name in sorted(allowed):
        if name in nic.attributes:
            try:
                found[name] = _READERS[name](nic.attributes[name])
            except ValueError as error:
                raise InvalidSpec(f"attributes[{name}]", str(error)) from None
    return Attributes(**found)  # type: ignore[arg-type]


def _mac(text: str) -> str:
    mac = text.lower()
    if not re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", mac):
        raise ValueError(f"{printable.quote(text)} is no MAC address such as 52:54:00:12:34:56")
    first, *_ = raw = bytes.fromhex(mac.replace(":", ""))
    if first & _MULTICAST or not any(raw):
        raise ValueError(f"{mac} is an address that no interface can have")
    return mac


def _queues(text: str) -> int:
    if not re.fullmatch(r"[1-9]", text, re.ASCII) or int(text) > MOST_QUEUES:
        raise ValueError(f"{printable.quote(text)} is no number from 1 to {MOST_QUEUES}")
    return int(text)


def _duid(text: str) -> str:
    """What a DHCPv6 client says that it is (RFC 8415, 11): a type and at most 128 bytes."""
    duid = text.lower()
    if not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){2,129}", duid):
        raise ValueError(f"{printable.quote(text)} is no DUID such as 00:03:00:01:52:54:00:12:34:56")
    return duid


_READERS: Mapping[str, Callable[[str], object]] = {"mac": _mac, "queues": _queues, "duid": _duid}
