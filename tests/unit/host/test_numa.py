"""NUMA nodes of hosts that nobody here has, and memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from sri_libvirt.host import inventory, memory, numa
from sri_libvirt.host.inventory import Inventory
from sri_libvirt.host.memory import HugePages
from sri_libvirt.host.numa import Node
from tests.unit.host import trees
from tests.unit.host.trees import NODES, Tree


def read(tree: Tree) -> Inventory:
    return inventory.read(tree.sysfs, tree.procfs)


def test_a_node(tmp_path: Path) -> None:
    node = read(trees.build("x86_smt", tmp_path / "host")).nodes[1]
    assert node == Node(
        id=1,
        cpus=(4, 5, 6, 7, 12, 13, 14, 15),
        memory_bytes=2 << 30,
        free_bytes=1 << 30,
        hugepages={2048: HugePages(32, 0), 1048576: HugePages(1, 1)},
        distances={0: 21, 1: 10},
    )


def test_sparse_ids_memoryless_and_cpuless_nodes(tmp_path: Path) -> None:
    nodes = read(trees.build("ppc64_sparse", tmp_path / "host")).nodes
    assert [(node.id, len(node.cpus), node.memory_bytes) for node in nodes] == [
        (0, 8, 16 << 30),
        (8, 8, 16 << 30),
        (252, 0, 0),
        (253, 0, 16 << 30),
    ]
    assert nodes[1].distances == {0: 40, 8: 10, 252: 80, 253: 80}
    assert nodes[0].hugepages == {16384: HugePages(128, 100), 16777216: HugePages(0, 0)}


def test_memory_of_gpus_is_not_for_machines(tmp_path: Path) -> None:
    nodes = read(trees.build("grace_hopper", tmp_path / "host")).nodes
    assert [(node.id, node.memory_bytes) for node in nodes] == [(0, 64 << 30), (2, 16 << 30), (3, None)]
    assert nodes[0].distances == {0: 10, 2: 20, 3: 30}


def test_a_node_with_the_cpus_of_another_is_left_out(tmp_path: Path) -> None:
    nodes = read(trees.build("x86_overlapping_nodes", tmp_path / "host")).nodes
    assert [(node.id, node.cpus) for node in nodes] == [(0, (0, 1)), (2, (2, 3))]


def test_without_numa_all_is_node_0(tmp_path: Path) -> None:
    found = read(trees.build("no_numa", tmp_path / "host"))
    huge = {2048: HugePages(10, 4), 4194304: HugePages(0, 0)}
    assert found.nodes == (Node(0, (0, 1, 2, 3), 123456 << 10, None, huge, {0: 10}),)
    assert found.memory.hugepages == huge


def test_without_meminfo_the_nodes_tell_the_memory(tmp_path: Path) -> None:
    assert read(trees.build("x86_old_kernel", tmp_path / "host")).memory.total_bytes == 512 << 20


def test_part_of_the_memory_is_not_all_of_it(tmp_path: Path) -> None:
    assert read(trees.build("broken_hugepages", tmp_path / "host")).memory.total_bytes is None


def test_nothing_at_all(tmp_path: Path) -> None:
    found = inventory.read(tmp_path, tmp_path)
    assert found.nodes == (Node(0, (), None, None, {}, {0: 10}),)
    assert found.memory.total_bytes is None


@pytest.mark.parametrize("text", ["", "10", "10 20 20", "ten twenty", "10 -"])
def test_distances_that_do_not_fit_are_unknown(text: str, tmp_path: Path) -> None:
    tree = trees.build("x86_old_kernel", tmp_path / "host")
    tree.write(f"{NODES}/node0/distance", text)
    assert set(read(tree).nodes[0].distances) <= {0}


def test_distances_are_of_nodes_that_are_online() -> None:
    assert numa.parse_distances("10 40 80\n", (0, 8, 250)) == {0: 10, 8: 40, 250: 80}


def test_free_hugepages_can_be_unknown(tmp_path: Path) -> None:
    tree = trees.build("x86_smt", tmp_path / "host")
    (tree.root / f"{NODES}/node0/hugepages/hugepages-2048kB/free_hugepages").unlink()
    assert read(tree).nodes[0].hugepages[2048] == HugePages(64, None)


def test_meminfo() -> None:
    text = "MemTotal:       16 kB\nNode 0 MemFree:  4 kB\nHugePages_Total: 3\nMemUsed: 1 MB\nActive(anon): 1 kB\nodd\n"
    assert memory.parse(text) == {"MemTotal": 16384, "MemFree": 4096}
