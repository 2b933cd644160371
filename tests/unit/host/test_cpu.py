"""CPUs of hosts that nobody here has; lstopo judges the numbers (tests/contract/host)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from sri_libvirt.host import cpu, cpuinfo, files, inventory
from sri_libvirt.host.cpu import Cache, Core, Cpu, Kind, Package
from tests.unit.host import trees
from tests.unit.host.trees import CPUS, Tree, mask


def read(tree: Tree) -> Cpu:
    return cpu.read(tree.sysfs, tree.procfs)


def plain(tmp_path: Path, cpus: int = 4) -> Tree:
    """One thread a core, one package, all online."""
    tree = Tree(tmp_path / "host")
    tree.cpus([(number,) for number in range(cpus)], [range(cpus)])
    tree.online(range(cpus))
    return tree


def test_packages_cores_and_siblings(tmp_path: Path) -> None:
    found = read(trees.build("x86_smt", tmp_path / "host"))
    assert found.packages == (Package(0, (0, 1, 2, 3, 8, 9, 10, 11)), Package(1, (4, 5, 6, 7, 12, 13, 14, 15)))
    assert found.cores[:2] == (Core((0, 8)), Core((1, 9)))
    assert (found.vendor, found.architecture, "vmx" in found.flags) == ("GenuineIntel", "x86_64", True)


def test_offline_cpus_are_in_no_core(tmp_path: Path) -> None:
    found = read(trees.build("ppc64_sparse", tmp_path / "host"))
    assert found.offline == (*range(4, 8), *range(12, 16), *range(84, 88), *range(92, 96))
    assert [core.cpus for core in found.cores] == [(0, 1, 2, 3), (8, 9, 10, 11), (80, 81, 82, 83), (88, 89, 90, 91)]
    assert [package.id for package in found.packages] == [0, 8]


def test_a_cpu_without_place_is_neither_online_nor_offline(tmp_path: Path) -> None:
    found = read(trees.build("x86_one_cpu_without_place", tmp_path / "host"))
    assert (found.online, found.offline) == ((0, 1, 3), ())


def test_ids_of_minus_one_are_unknown(tmp_path: Path) -> None:
    found = read(trees.build("arm_without_ids", tmp_path / "host"))
    assert found.packages == (Package(None, (0, 1)), Package(None, (2, 3)))


def test_nothing_at_all(tmp_path: Path) -> None:
    found = cpu.read(tmp_path, tmp_path)
    assert found == Cpu(None, None, None, frozenset(), (), (), (), (), (), (), ())


@pytest.mark.parametrize(
    ("file", "text"),
    [("cpuinfo", "processor\t: 0\n\nprocessor\t: 2\n"), ("stat", "cpu  1 2\ncpu0 1 2\ncpu2 1 2\nintr 5\n")],
)
def test_without_sysfs_procfs_tells_the_cpus(file: str, text: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text)
    found = cpu.read(tmp_path / "none", tmp_path)
    assert (found.online, found.cores) == ((0, 2), ())


def test_shared_caches(tmp_path: Path) -> None:
    tree = plain(tmp_path)
    for number in range(4):
        pair = (0, 1) if number < 2 else (2, 3)
        rows = [(0, 1, "Data", "32K", (number,)), (1, 2, "Unified", "1024K", pair), (2, 3, "Unified", "32M", range(4))]
        for index, level, kind, size, shared in rows:
            for name, value in {"level": level, "type": kind, "size": size, "shared_cpu_map": mask(shared)}.items():
                tree.write(f"{CPUS}/cpu{number}/cache/index{index}/{name}", value)
    assert read(tree).caches == (
        Cache(2, "unified", 1 << 20, (0, 1)),
        Cache(2, "unified", 1 << 20, (2, 3)),
        Cache(3, "unified", 32 << 20, (0, 1, 2, 3)),
    )


def test_a_cache_without_size(tmp_path: Path) -> None:
    tree = plain(tmp_path, 1)
    for name, value in {"level": 2, "type": "Unified", "size": "many", "shared_cpu_map": mask((0,))}.items():
        tree.write(f"{CPUS}/cpu0/cache/index2/{name}", value)
    assert read(tree).caches == (Cache(2, "unified", None, (0,)),)


def test_hybrid_cores_of_intel(tmp_path: Path) -> None:
    tree = plain(tmp_path)
    tree.write("sys/devices/cpu_core/cpus", "0-1")
    assert read(tree).kinds == ()
    tree.write("sys/devices/cpu_atom/cpus", "2-3,7")
    assert read(tree).kinds == (Kind("performance", (0, 1)), Kind("efficiency", (2, 3)))


def test_hybrid_cores_of_arm(tmp_path: Path) -> None:
    tree = plain(tmp_path)
    for number in range(4):
        tree.write(f"{CPUS}/cpu{number}/cpu_capacity", 1024)
    assert read(tree).kinds == ()
    for number in (0, 1):
        tree.write(f"{CPUS}/cpu{number}/cpu_capacity", 446)
    assert read(tree).kinds == (Kind("capacity-446", (0, 1)), Kind("capacity-1024", (2, 3)))


@pytest.mark.parametrize(("text", "isolated"), [("", ()), ("2-3,9", (2, 3))])
def test_isolated(text: str, isolated: tuple[int, ...], tmp_path: Path) -> None:
    tree = plain(tmp_path)
    tree.write(f"{CPUS}/isolated", text)
    assert read(tree).isolated == isolated


S390 = {
    "vendor_id       ": "IBM/S390",
    "features\t": "esan3 zarch stfle",
    "processor 0": "version = 00,  identification = 279F25,  machine = 2817",
}


@pytest.mark.parametrize(
    ("block", "architecture", "vendor", "model"),
    [
        ({"vendor_id": "Intel", "model name": " Xeon  X1", "flags": "fpu lm"}, "x86_64", "Intel", "Xeon X1"),
        ({"vendor_id": "GenuineIntel", "flags": "fpu vme"}, "i686", "GenuineIntel", None),
        ({"CPU implementer": "0x41", "CPU architecture": "8", "CPU part": "0xd0c"}, "aarch64", "ARM", "Neoverse-N1"),
        ({"CPU implementer": "0x99", "CPU architecture": "8", "CPU part": "0x1"}, "aarch64",
         "implementer 0x99", "implementer 0x99 part 0x001"),
        ({"Processor": "ARMv7 Processor rev 1 (v7l)", "processor": 0}, "arm", None, "ARMv7 Processor rev 1 (v7l)"),
        ({"vendor   ": "Intel", "arch   ": "IA-64", "model name ": "Madison"}, "ia64", "Intel", "Madison"),
        (S390, "s390x", "IBM/S390", "2817"),
        ({"cpu": "POWER9, altivec supported"}, None, None, "POWER9, altivec supported"),
        ({"isa": "rv64imafdc", "uarch": "sifive,u74-mc"}, "riscv64", "sifive,u74-mc", "sifive,u74-mc"),
        ({"isa": "rv64gc", "mvendorid": "0x5b7", "marchid": "0x0"}, "riscv64", "0x5b7", "mvendorid 0x5b7 marchid 0x0"),
        ({"CPU Family": "Loongson-64bit", "Model Name": "Loongson-3A5000"}, "loongarch64", None, "Loongson-3A5000"),
        ({"vendor_id": ""}, None, None, None),
    ],
)  # fmt: skip
def test_cpuinfo(
    block: Mapping[str, object], architecture: str | None, vendor: str | None, model: str | None, tmp_path: Path
) -> None:
    tree = Tree(tmp_path / "host")
    tree.cpuinfo([block])
    found = cpuinfo.read(tree.procfs)
    assert (found.architecture, found.vendor, found.model) == (architecture, vendor, model)
    assert not found.architecture_is_told


def test_features_of_itanium_have_commas(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("arch       : IA-64\nfeatures   : branchlong, 16-byte atomic ops\n")
    assert cpuinfo.read(tmp_path).flags == {"branchlong", "16-byte", "atomic", "ops"}


@pytest.mark.parametrize(
    ("file", "text", "architecture"),
    [
        ("hwloc-nofile-info", "OSName: Linux\nArchitecture: ppc64le\n", "ppc64le"),
        ("sys/kernel/arch", "ppc64le\n", "ppc64le"),
        ("sys/kernel/osrelease", "3.10.0-327.el7.ppc64\n", "ppc64"),
        ("sys/kernel/osrelease", "6.1.0-13-amd64\n", None),
    ],
)
def test_the_kernel_knows_its_architecture(file: str, text: str, architecture: str | None, tmp_path: Path) -> None:
    tree = Tree(tmp_path / "host")
    tree.write("proc/cpuinfo", "cpu\t: POWER9\n")
    tree.write(f"proc/{file}", text)
    assert cpuinfo.read(tree.procfs).architecture == architecture


def test_a_cpu_that_is_not_there_is_not_offline(tmp_path: Path) -> None:
    """POWER has a directory for each that there could be."""
    tree = trees.Tree(tmp_path)
    for number in range(16):
        tree.write(f"{CPUS}/cpu{number}/online", int(number < 4))
    tree.write(f"{CPUS}/online", "0-3")
    tree.write(f"{CPUS}/present", "0-7")
    assert read(tree).offline == (4, 5, 6, 7)
    (tree.root / CPUS / "present").unlink()
    assert read(tree).offline == tuple(range(4, 16)), "an old kernel has directories for what is there"


@pytest.mark.parametrize("name", ["x86_smt", "arm64_clusters", "grace_hopper", "ppc64_sparse"])
def test_a_tree_that_keeps_lists_alone_says_the_same(name: str, tmp_path: Path) -> None:
    both, lists = trees.build(name, tmp_path / "both"), trees.build(name, tmp_path / "lists")
    pairs = {"core_cpus": "core_cpus_list", "thread_siblings": "thread_siblings_list", "cpumap": "cpulist",
             "package_cpus": "package_cpus_list", "core_siblings": "core_siblings_list",
             "shared_cpu_map": "shared_cpu_list"}  # fmt: skip
    turned = 0
    for path in [each for each in lists.root.rglob("*") if each.name in pairs and each.is_file()]:
        numbers = files.mask(path)
        assert numbers is not None
        path.with_name(pairs[path.name]).write_text(trees.listed(sorted(numbers)) + "\n")
        path.unlink()
        turned += 1
    assert turned
    assert inventory.read(lists.sysfs, lists.procfs) == inventory.read(both.sysfs, both.procfs)
