"""The whole inventory: whatever a tree holds, it is read, and says only what it can."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sri_libvirt.host import inventory
from sri_libvirt.host.inventory import Inventory
from tests.unit.host import devices, trees
from tests.unit.host.trees import Tree


def rich(root: Path) -> Tree:
    """A host with something of everything."""
    tree = trees.build("x86_smt", root)
    tree.huge("sys/kernel/mm/hugepages", {2048: (96, 60)})
    card = devices.pci(
        tree,
        "0000:3b:00.0",
        ids="8086:10fb",
        device_class="020000",
        links={"driver": "ixgbe", "iommu_group": 1},
        facts={"numa_node": 0, "sriov_totalvfs": 8, "sriov_numvfs": 1},
    )
    vf = {"physfn": "0000:3b:00.0"}
    devices.pci(tree, "0000:3b:10.0", ids="8086:10ed", device_class="020000", links=vf)
    devices.functions(tree, card, "0000:3b:10.0")
    facts = {"speed": 10000, "carrier": 1, "address": "a0:36:9f:00:00:01", "uevent": "X=1"}
    devices.interface(tree, "ens1f0", device=card, facts=facts)
    devices.interface(tree, "br0", facts={"bridge/stp_state": 0})
    tree.write("sys/block/sda/size", 2048)
    tree.write("proc/net/route", "Iface\tDestination\nens1f0 00000000 0 0003 0 0 0 00000000")
    tree.write("proc/self/status", "Cpus_allowed_list:\t0-3")
    tree.write("proc/self/cgroup", "0::/a")
    tree.write("sys/fs/cgroup/cgroup.controllers", "cpu")
    tree.write("sys/fs/cgroup/a/cpu.max", "1000 1000")
    tree.write(f"{trees.CPUS}/isolated", "3")
    for name, value in {"level": 3, "type": "Unified", "size": "1M", "shared_cpu_map": "ffff"}.items():
        tree.write(f"{trees.CPUS}/cpu0/cache/index3/{name}", value)
    return tree


def read(tree: Tree) -> Inventory:
    return inventory.read(tree.sysfs, tree.procfs, state_dir=tree.root)


def in_json(found: Inventory) -> str:
    return json.dumps(asdict(found), default=sorted, ensure_ascii=False)


def sound(found: Inventory) -> None:
    """What holds of every host."""
    online = set(found.cpu.online)
    assert sum(len(core.cpus) for core in found.cpu.cores) <= len(online)
    assert not online & set(found.cpu.offline)
    assert found.nodes
    assert sum(len(node.cpus) for node in found.nodes) <= len(online)
    for node in found.nodes:
        assert set(node.cpus) <= online
        assert all(pages.total >= 0 for pages in node.hugepages.values())
    for nic in found.nics:
        assert nic.sriov is None or 0 <= nic.sriov.free <= len(nic.sriov.functions)
    in_json(found).encode()


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return rich(tmp_path_factory.mktemp("pristine") / "host")


def test_something_of_everything(pristine: Tree) -> None:
    found = read(pristine)
    sound(found)
    assert (len(found.cpu.online), len(found.cpu.caches), len(found.cpu.isolated)) == (16, 1, 1)
    assert [nic.name for nic in found.nics] == ["br0", "ens1f0"]
    assert (found.nics[1].default_route, found.nics[1].sriov and found.nics[1].sriov.free) == (True, 1)
    assert [device.address for device in found.pci] == ["0000:3b:00.0", "0000:3b:10.0"]
    assert (found.limits.cpus, found.limits.cpu_millis) == ((0, 1, 2, 3), 1000)
    assert len(found.storage.devices) == 1


def test_a_tree_is_only_read(pristine: Tree) -> None:
    def state() -> list[tuple[str, int]]:
        return sorted((str(path), path.lstat().st_mtime_ns) for path in pristine.root.rglob("*"))

    before = state()
    read(pristine)
    assert state() == before


def _files(tree: Tree) -> list[Path]:
    return sorted(path for path in tree.root.rglob("*") if path.is_file() and not path.is_symlink())


CONTENT = st.one_of(
    st.binary(max_size=80),
    st.sampled_from([b"", b"\0", b"-1\n", b"0-4294967295\n", b"ffffffff," * 40, b"0x", b"\xff\xfe", b"9" * 30, b"\n"]),
    st.text("0123456789abcdefx,-: \n\0", max_size=40).map(str.encode),
)
WHAT = st.one_of(CONTENT, st.sampled_from(["missing", "directory", "fifo", "loop", "unreadable"]))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_no_broken_tree_stops_the_reader(pristine: Tree, data: st.DataObject) -> None:
    files = _files(pristine)
    places = st.integers(0, len(files) - 1)
    with ExitStack() as repairs:
        for place, what in data.draw(st.dictionaries(places, WHAT, min_size=1, max_size=6)).items():
            repairs.enter_context(_broken(files[place], what))
        sound(read(pristine))


@contextmanager
def _broken(path: Path, what: bytes | str) -> Iterator[None]:
    """Put something else in a file's place for a while."""
    whole = path.read_bytes()
    path.unlink()
    if isinstance(what, bytes):
        path.write_bytes(what)
    elif what == "directory":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "loop":
        path.symlink_to(path.name)
    elif what == "unreadable":
        path.write_text("0")
        path.chmod(0)
    try:
        yield
    finally:
        if what == "directory":
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        path.write_bytes(whole)


@pytest.mark.parametrize("name", sorted(trees.TREES))
def test_every_odd_tree_is_sound(name: str, tmp_path: Path) -> None:
    sound(read(trees.build(name, tmp_path / "host")))
