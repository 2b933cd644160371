"""The inventory agrees with lstopo, on this host and on trees of hosts that nobody here has."""

from __future__ import annotations

from pathlib import Path

import pytest

from sri_libvirt.host import inventory
from sri_libvirt.host.inventory import Inventory
from tests.contract.host import lstopo
from tests.contract.host.lstopo import NoTopology, Topology
from tests.unit.host import trees


def agree(ours: Inventory, theirs: Topology) -> None:
    assert ours.cpu.online == theirs.online
    assert len(ours.cpu.cores) == theirs.cores
    assert len(ours.cpu.packages) == theirs.packages
    assert [node.id for node in ours.nodes] == sorted(theirs.nodes)
    for node in ours.nodes:
        known = theirs.nodes[node.id]
        assert not node.cpus or node.cpus == known.cpus  # lstopo shows the nearest CPUs of a node without
        assert (node.memory_bytes or 0) == known.memory_bytes
        assert {size: pages.total for size, pages in node.hugepages.items()} == known.hugepages
        if theirs.distances:
            assert node.distances == theirs.distances[node.id]


@pytest.mark.parametrize("name", sorted(trees.TREES))
def test_saved_tree(name: str, tmp_path: Path) -> None:
    tree = trees.build(name, tmp_path / "host")
    agree(inventory.read(tree.sysfs, tree.procfs), lstopo.ask(tree.root))


def test_this_host() -> None:
    theirs = lstopo.ask()
    agree(inventory.read(), theirs)


def test_saved_tree_of_this_host_tells_the_same() -> None:
    agree(inventory.read(Path("//sys"), Path("//proc")), lstopo.ask(Path("/")))


def test_cpus_count_also_where_lstopo_gives_up(tmp_path: Path) -> None:
    tree = trees.Tree(tmp_path / "host")
    for number in range(4):
        (tree.root / f"{trees.CPUS}/cpu{number}").mkdir(parents=True)
    tree.online((0, 1, 3))
    with pytest.raises(NoTopology):
        lstopo.ask(tree.root)
    found = inventory.read(tree.sysfs, tree.procfs)
    assert (found.cpu.online, found.cpu.offline) == ((0, 1, 3), (2,))
    assert (found.cpu.cores, found.cpu.packages) == ((), ())
    assert [(node.id, node.cpus) for node in found.nodes] == [(0, (0, 1, 3))]
