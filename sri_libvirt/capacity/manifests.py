"""Classes as the cluster's MachineClass objects: written for `kubectl apply`, and compared with what the cluster has.

The poollet drops a class without a word unless name, CPU and memory are equal to those of an API object (contract A.8),
so somebody has to look. Reading files does not belong here (`classes.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from sri_libvirt.capacity.classes import POLICY_PREFIX
from sri_libvirt.capacity.policy import WORDS, byte_text
from sri_libvirt.records import ClassPolicy, MachineClass

API_VERSION = "compute.spheric.cloud/v1alpha1"


def cpu_text(millis: int) -> str:
    """CPU as Kubernetes writes it: `4`, `500m`."""
    return f"{millis}m" if millis % 1000 else str(millis // 1000)


def manifests(classes: Iterable[MachineClass]) -> str:
    """MachineClass objects, one YAML document each; their policy stands in annotations, so a class file can be one."""
    return yaml.safe_dump_all([_manifest(each) for each in classes], sort_keys=False)


def _manifest(machine_class: MachineClass) -> dict[str, Any]:
    policy, usual = machine_class.policy, ClassPolicy()
    wished = {
        f"{POLICY_PREFIX}{key.replace('_', '-')}": word.write(getattr(policy, word.field))
        for key, word in WORDS.items()
        if getattr(policy, word.field) != getattr(usual, word.field)
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "MachineClass",
        "metadata": {"name": machine_class.name, **({"annotations": wished} if wished else {})},
        "capabilities": {
            "cpu": cpu_text(machine_class.cpu_millis),
            "memory": byte_text(machine_class.memory_bytes),
        },
    }


@dataclass(frozen=True, slots=True)
class Finding:
    """One class of either side. `dropped`: the poollet does not offer it, for the reason in `words`."""

    name: str
    dropped: bool
    words: str


def compare(ours: Mapping[str, MachineClass], theirs: Mapping[str, MachineClass]) -> list[Finding]:
    """Every class that we offer, then those that only the cluster has."""
    found = [_compared(each, theirs.get(name)) for name, each in ours.items()]
    for name in sorted(theirs.keys() - ours.keys()):
        found.append(Finding(name, False, "is in the cluster and not offered by this host"))
    return found


def _compared(ours: MachineClass, theirs: MachineClass | None) -> Finding:
    if theirs is None:
        return Finding(ours.name, True, "is not in the cluster")
    wrong = []
    if ours.cpu_millis != theirs.cpu_millis:
        wrong.append(f"has cpu {cpu_text(ours.cpu_millis)} here and {cpu_text(theirs.cpu_millis)} in the cluster")
    if ours.memory_bytes != theirs.memory_bytes:
        wrong.append(f"has memory {byte_text(ours.memory_bytes)} here and {byte_text(theirs.memory_bytes)} there")
    return Finding(ours.name, bool(wrong), "; ".join(wrong) or "is equal")
