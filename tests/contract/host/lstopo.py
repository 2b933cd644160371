"""What hwloc's lstopo says of a host: the oracle of the inventory."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

PROGRAM = "lstopo-no-graphics"


@dataclass(frozen=True)
class Node:
    """A NUMA node; its CPUs are the nearest ones where it has none. Huge pages: number by size in kB."""

    cpus: tuple[int, ...]
    memory_bytes: int
    hugepages: Mapping[int, int]


@dataclass(frozen=True)
class Topology:
    online: tuple[int, ...]
    cores: int
    packages: int
    nodes: Mapping[int, Node]
    distances: Mapping[int, Mapping[int, int]]
    """Empty where lstopo shows none."""


class NoTopology(Exception):
    """lstopo gives up on such a host."""


def ask(root: Path | None = None) -> Topology:
    """Of a saved tree, or of the host that this runs on. Raises NoTopology."""
    # Newer ones show the memory of NVIDIA's GPUs as nodes unless told otherwise.
    env = {"PATH": os.environ["PATH"], "HWLOC_COMPONENTS": "linux,stop", "HWLOC_KEEP_NVIDIA_GPU_NUMA_NODES": "0"}
    if root is not None:
        env |= {"HWLOC_FSROOT": str(root), "HWLOC_THISSYSTEM": "0"}
    argv = [PROGRAM, "--of", "xml", "--disallowed", "--no-io", "--no-caches"]
    done = subprocess.run(argv, env=env, capture_output=True, check=False)
    if done.returncode:
        raise NoTopology(done.stderr.decode())
    found = ElementTree.fromstring(done.stdout)
    return Topology(
        online=tuple(sorted(_ids(found, "PU"))),
        cores=len(_ids(found, "Core")),
        packages=len(_ids(found, "Package")),
        nodes={int(each.get("os_index", "")): _node(each) for each in _objects(found, "NUMANode")},
        distances=_distances(found),
    )


def _objects(found: Element, kind: str) -> list[Element]:
    return [each for each in found.iter("object") if each.get("type") == kind]


def _ids(found: Element, kind: str) -> list[int]:
    return [int(each.get("os_index", "-1")) for each in _objects(found, kind)]


def _node(node: Element) -> Node:
    pages = list(node.iter("page_type"))[1:]  # the first is of normal pages
    return Node(
        cpus=_bits(node.get("cpuset", "")),
        memory_bytes=int(node.get("local_memory", "0")),
        hugepages={int(each.get("size", "")) // 1024: int(each.get("count", "")) for each in pages},
    )


def _bits(text: str) -> tuple[int, ...]:
    bits = 0
    for word in text.split(","):
        bits = bits << 32 | (int(word, 16) if word else 0)
    return tuple(number for number in range(bits.bit_length()) if bits >> number & 1)


def _distances(found: Element) -> Mapping[int, Mapping[int, int]]:
    for matrix in found.iter("distances2"):
        if matrix.get("name") == "NUMALatency":
            nodes, values = _numbers(matrix, "indexes"), _numbers(matrix, "u64values")
            rows = (values[at : at + len(nodes)] for at in range(0, len(values), len(nodes)))
            return {node: dict(zip(nodes, row, strict=True)) for node, row in zip(nodes, rows, strict=True)}
    return {}


def _numbers(matrix: Element, name: str) -> list[int]:
    return [int(word) for part in matrix.iter(name) for word in (part.text or "").split()]
