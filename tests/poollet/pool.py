"""What a poollet makes of Status: the pool's classes, capacity and allocatable (contract A.8).

The scheduler does not belong here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests.poollet.watch import Panic


def capacity(stub: Any, wanted: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """Quantities of the API's classes (name: cpu_millis, memory_bytes) that the provider offers exactly so.

    A class whose capabilities differ is dropped without a word: the search by capabilities is always ambiguous.
    """
    offered = {}
    for entry in stub.Status(pb.StatusRequest(), timeout=10).machine_class_status:
        if not entry.HasField("machine_class") or not entry.machine_class.HasField("capabilities"):
            raise Panic("a class without capabilities")
        offered[entry.machine_class.name] = entry
    found = {}
    for name, (cpu_millis, memory_bytes) in wanted.items():
        entry = offered.get(name)
        if entry is None:
            continue
        capabilities = entry.machine_class.capabilities
        if (capabilities.cpu_millis, capabilities.memory_bytes) == (cpu_millis, memory_bytes):
            found[name] = entry.quantity
    return found


def allocatable(quantities: Mapping[str, int], machines: list[str]) -> dict[str, int]:
    """What the pool says it has left, given the classes of its machines: at most one of each class is counted."""
    used = set(machines)  # res.Add works on a copy
    return {name: max(0, quantity - (name in used)) for name, quantity in quantities.items()}
