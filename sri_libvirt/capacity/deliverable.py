"""What no host can deliver, whatever room it has: the limits of one machine. Pure.

A class file with such a class is refused when it is read, and one that a store has kept from before is offered with
quantity 0. What this host's hypervisor lacks does not belong here (`pool.py` is told), nor how much
room there is (`placement.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from sri_libvirt.records import MOST_VCPUS, MachineClass
from sri_libvirt.resources import CPU, DISK, MEMORY, byte_words

LEAST_MEMORY_BYTES = 32 << 20
"""OVMF comes up in as much and not in 24 MiB (measured); less is a forgotten unit."""

LEAST_ROOT_DISK_BYTES = 1 << 20
"""Less holds no system; it is a forgotten unit."""


@dataclass(frozen=True, slots=True)
class Lack:
    """Why a class cannot be delivered: the resource or part that limits it, and the whole sentence."""

    name: str
    words: str


def wrong_cpu(millis: int) -> str:
    """Why no machine has that many CPUs, "" when one can."""
    vcpus = -(-millis // 1000)
    return f"a machine can have {MOST_VCPUS} vCPUs, not {vcpus}" if vcpus > MOST_VCPUS else ""


def wrong_memory(amount: int) -> str:
    """The same of its memory."""
    least = byte_words(LEAST_MEMORY_BYTES)
    return f"a machine needs {least} of memory, not {byte_words(amount)}" if amount < LEAST_MEMORY_BYTES else ""


def wrong_root_disk(amount: int) -> str:
    """The same of its root disk."""
    least = byte_words(LEAST_ROOT_DISK_BYTES)
    return f"a root disk needs {least}, not {byte_words(amount)}" if amount < LEAST_ROOT_DISK_BYTES else ""


def lack(machine_class: MachineClass) -> Lack | None:
    """Why no host can deliver a class, None when one can."""
    found = (
        Lack(CPU, wrong_cpu(machine_class.cpu_millis)),
        Lack(MEMORY, wrong_memory(machine_class.memory_bytes)),
        Lack(DISK, wrong_root_disk(machine_class.policy.root_disk_bytes)),
    )
    return next((each for each in found if each.words), None)
