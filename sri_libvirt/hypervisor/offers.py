"""What libvirt and QEMU offer, as text that the store keeps: the report shows it while neither is asked.

Written by the daemon when it has asked (reconcile/virtualisation.py). How it is asked does not belong here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sri_libvirt.hypervisor.base import Firmware, Offer

META_KEY = "offer"


def text(offer: Offer) -> str:
    """The same text for equal offers."""
    return json.dumps(asdict(offer), default=sorted, sort_keys=True)


def of_text(kept: str | None) -> Offer | None:
    """None when nothing is kept. Raises KeyError, TypeError or ValueError for what `text` did not write."""
    if kept is None:
        return None
    found = json.loads(kept)
    return Offer(
        libvirt_version=int(found["libvirt_version"]),
        qemu_version=int(found["qemu_version"]),
        architecture=str(found["architecture"]),
        emulator=str(found["emulator"]),
        domain_types=frozenset(found["domain_types"]),
        machine_type=str(found["machine_type"]),
        machine_types=frozenset(found["machine_types"]),
        cpu_modes=_sets(found["cpu_modes"]),
        cpu_models=_sets(found["cpu_models"]),
        firmware=tuple(
            Firmware(**{**each, "machine_patterns": tuple(each["machine_patterns"])}) for each in found["firmware"]
        ),
        qemu_user=found.get("qemu_user"),
    )


def _sets(found: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    return {name: frozenset(values) for name, values in found.items()}


def version(number: int) -> str:
    """As its makers write it: libvirt counts major * 1000000 + minor * 1000 + micro."""
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"
