"""NUMA nodes. Which node a machine is put on does not belong here (capacity/).

The rules are hwloc's, so that the nodes agree with `lstopo`: a node counts when it is online and says which CPUs it has
(none is an answer), has none of an earlier node's (some firmware lies), and is not the memory of an NVIDIA GPU, which
Linux can show as a node. A CPU-less node has no CPUs here, where lstopo shows the nearest ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sri_libvirt.host import files, memory
from sri_libvirt.host.cpu import Cpu
from sri_libvirt.host.files import ascending
from sri_libvirt.host.memory import HugePages, Memory

PROC = Path("/proc")
SYS = Path("/sys")


@dataclass(frozen=True, slots=True)
class Node:
    """One NUMA node: CPU-less and memory-less ones too, with the kernel's number."""

    id: int
    cpus: tuple[int, ...]
    """Online ones, ascending."""
    memory_bytes: int | None
    free_bytes: int | None
    hugepages: Mapping[int, HugePages]
    """By size in kB; empty where the kernel has none."""
    distances: Mapping[int, int]
    """By node id, itself included (10 there); empty when unknown."""


def read(cpu: Cpu, whole: Memory, sysfs: Path = SYS, procfs: Path = PROC) -> tuple[Node, ...]:
    """The nodes of these roots, at least one: all CPUs and all memory are node 0 where Linux knows no nodes."""
    root = sysfs / "devices/system/node"
    listed = ascending(files.ids(root / "online") or files.numbered(root, "node"))
    foreign = _gpu_nodes(procfs)
    kept: dict[int, frozenset[int]] = {}
    taken: set[int] = set()
    for number in listed:
        cpus = files.numbers(root / f"node{number}/cpumap", root / f"node{number}/cpulist")
        if cpus is None or cpus & taken:
            continue
        taken |= cpus
        if number not in foreign:
            kept[number] = cpus & frozenset(cpu.online)
    if not kept:
        return (Node(0, cpu.online, whole.total_bytes, whole.available_bytes, whole.hugepages, {0: 10}),)
    return tuple(_node(root / f"node{number}", number, kept, listed) for number in kept)


def _node(directory: Path, number: int, kept: Mapping[int, frozenset[int]], listed: tuple[int, ...]) -> Node:
    amounts = memory.parse(files.text(directory / "meminfo") or "")
    distances = parse_distances(files.text(directory / "distance") or "", listed)
    return Node(
        id=number,
        cpus=ascending(kept[number]),
        memory_bytes=amounts.get("MemTotal"),
        free_bytes=amounts.get("MemFree"),
        hugepages=memory.hugepages(directory / "hugepages"),
        distances={node: distance for node, distance in distances.items() if node in kept},
    )


def parse_distances(text: str, listed: tuple[int, ...]) -> Mapping[int, int]:
    """The distances of one node; the kernel gives one for each online node, in their order, without their numbers."""
    numbers = [files.parse_number(word) for word in text.split()]
    if len(numbers) != len(listed):
        return {}
    return {node: number for node, number in zip(listed, numbers, strict=True) if number is not None}


def _gpu_nodes(procfs: Path) -> frozenset[int]:
    """Nodes that are memory of NVIDIA GPUs, as the driver says."""
    gpus = procfs / "driver/nvidia/gpus"
    found = (re.search(r"^Node:\s*([0-9]{1,5})\s*$", _status(gpus / name), re.M | re.A) for name in files.names(gpus))
    return frozenset(int(status[1]) for status in found if status)


def _status(gpu: Path) -> str:
    return files.text(gpu / "numa_status") or ""
