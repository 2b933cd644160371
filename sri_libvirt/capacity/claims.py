"""What a machine takes of the host, by its class alone (contract G.7). Pure.

What its volumes and network interfaces take besides is their drivers' to say. Whether it fits does not belong here.
"""

from __future__ import annotations

from sri_libvirt.records import MachineClass
from sri_libvirt.resources import CPU, DISK, MACHINES, MEMORY, Claim

MIB = 1 << 20

QEMU_BYTES = 128 * MIB
"""What a QEMU takes before its guest has any memory: program, libraries, firmware, device state, I/O buffers."""

VCPU_BYTES = 8 * MIB
"""For each vCPU: its thread, its stack, its part of the code cache."""

PAGE_TABLE_PART = 512
"""A page table has 8 bytes for each 4096 of memory."""


def overhead(cpu_millis: int, memory_bytes: int) -> int:
    """Bytes that the host needs beside a guest's own memory: memory / 512 + 128 MiB + 8 MiB for each vCPU.

    KubeVirt's formula (GetMemoryOverhead) with what was measured here for its constant part. A class can say its own.
    """
    vcpus = -(-cpu_millis // 1000)
    return -(-memory_bytes // PAGE_TABLE_PART) + QEMU_BYTES + VCPU_BYTES * vcpus


def memory_of(machine_class: MachineClass) -> int:
    """A machine's memory with its overhead, in bytes."""
    own = machine_class.policy.memory_overhead_bytes
    beside = overhead(machine_class.cpu_millis, machine_class.memory_bytes) if own is None else own
    return machine_class.memory_bytes + beside


def of_class(machine_class: MachineClass) -> tuple[Claim, ...]:
    """The claims of every machine of a class, with or without an image."""
    return (
        Claim(CPU, machine_class.cpu_millis),
        Claim(MEMORY, memory_of(machine_class)),
        Claim(DISK, machine_class.policy.root_disk_bytes),
        Claim(MACHINES, 1),
    )


def of_neighbour(vcpus: int, memory_bytes: int) -> tuple[Claim, ...]:
    """The claims of a running domain that is not ours: nothing is known of its disks, nor whether it may be throttled.

    It is no machine of this pool, so it does not count against their number.
    """
    return (Claim(CPU, vcpus * 1000), Claim(MEMORY, memory_bytes + overhead(vcpus * 1000, memory_bytes)))
