"""How many machines of a class a host holds. Pure.

What the hardware is does not belong here (that is `host/`), nor does what a class is (`classes.py`).
"""

from __future__ import annotations

from sri_libvirt.records import MachineClass


def quantity(machine_class: MachineClass, cpus: int, memory_bytes: int) -> int:
    """How many machines of this class an empty host of `cpus` logical CPUs and `memory_bytes` bytes runs.

    A total of the host, whatever runs on it, and never negative: the API subtracts what it has assigned itself
    (contract A.8).
    """
    by_cpu = cpus * 1000 // machine_class.cpu_millis
    by_memory = memory_bytes // machine_class.memory_bytes
    return max(0, min(by_cpu, by_memory))
