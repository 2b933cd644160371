"""The classes of a host whose operator made none: a fixed ladder, as far up as the host reaches.

`c<vCPUs>-m<GiB>`: 2, 4 and 8 GiB for each vCPU, in powers of two, and c1-m1. What fits is decided at the first run and
kept in the store, so that an update of kernel or BIOS, which takes some memory, changes no pool. How many machines of a
step fit does not belong here (`placement.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Protocol

from sri_libvirt.records import GIB, ClassPolicy, MachineClass

META_KEY = "classes"

_VCPUS = (1, 2, 4, 8, 16, 32, 64, 128)
_GIB_EACH = (2, 4, 8)


class Meta(Protocol):
    """What is asked of a transaction of the store."""

    def meta(self, key: str) -> str | None: ...

    def set_meta(self, key: str, value: str) -> None: ...


def steps(cpus: int | None = None, memory_bytes: int | None = None) -> dict[str, MachineClass]:
    """The steps that a host of so many CPUs and so much memory reaches; all without them. Never none at all."""
    sizes = [(1, 1)] + [(vcpus, vcpus * each) for vcpus in _VCPUS for each in _GIB_EACH]
    found = [MachineClass(f"c{vcpus}-m{gib}", vcpus * 1000, gib * GIB) for vcpus, gib in sizes]
    reached = [
        step
        for step in found
        if (cpus is None or step.cpu_millis <= cpus * 1000)
        and (memory_bytes is None or step.memory_bytes <= memory_bytes)
    ]
    return {step.name: step for step in reached or found[:1]}


def frozen(text: str | None) -> dict[str, MachineClass] | None:
    """The ladder that a store keeps under META_KEY, None when it keeps none."""
    if not text:
        return None
    kept = [MachineClass(**{**each, "policy": ClassPolicy(**each["policy"])}) for each in json.loads(text)]
    return {step.name: step for step in kept}


def freeze(store: Meta, ladder: Mapping[str, MachineClass]) -> dict[str, MachineClass]:
    """The ladder of the first run: this one, unless the store keeps one."""
    kept = frozen(store.meta(META_KEY))
    if kept is None:
        store.set_meta(META_KEY, json.dumps([asdict(step) for step in ladder.values()]))
        kept = dict(ladder)
    return kept
