"""Builds sysfs and procfs trees of hosts that nobody here has.

Each function of `TREES` is one kind of host, as the kernels of such hosts lay it out. What is expected of them does
not belong here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

CPUS = "sys/devices/system/cpu"
NODES = "sys/devices/system/node"

NEW_NAMES = ("core_cpus", "package_cpus")
OLD_NAMES = ("thread_siblings", "core_siblings")


def mask(numbers: Iterable[int], words: int = 1) -> str:
    """The kernel's mask format, padded to a number of words."""
    bits = sum(1 << number for number in numbers)
    found: list[str] = []
    while bits or len(found) < words:
        found.append(f"{bits & 0xFFFFFFFF:08x}")
        bits >>= 32
    return ",".join(reversed(found))


def listed(numbers: Iterable[int]) -> str:
    """The kernel's list format, without ranges, which are optional."""
    return ",".join(map(str, sorted(numbers)))


class Tree:
    """A directory with sys/ and proc/."""

    def __init__(self, root: Path, *, end: str = "\n") -> None:
        self.root = root
        self.sysfs = root / "sys"
        self.procfs = root / "proc"
        self._end = end
        self.sysfs.mkdir(parents=True)
        self.procfs.mkdir()

    def write(self, path: str, value: object) -> Path:
        """A file, with the end that this kernel gives its files."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(f"{value}{self._end}".encode())
        return file

    def link(self, path: str, target: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(target)

    def cpu(
        self,
        number: int,
        core: Collection[int] | None,
        package: Collection[int] | None,
        *,
        ids: tuple[int, int] = (0, 0),
        names: Iterable[str] = NEW_NAMES + OLD_NAMES,
        words: int = 1,
    ) -> None:
        """A CPU with a place: who shares its core and its package, and their ids."""
        topology = f"{CPUS}/cpu{number}/topology"
        (self.root / topology).mkdir(parents=True)
        for name in names:
            siblings = core if name in ("core_cpus", "thread_siblings") else package
            if siblings is not None:
                self.write(f"{topology}/{name}", mask(siblings, words))
        self.write(f"{topology}/core_id", ids[0])
        self.write(f"{topology}/physical_package_id", ids[1])

    def cpus(
        self,
        cores: Iterable[Collection[int]],
        packages: Iterable[Collection[int]],
        *,
        names: Iterable[str] = NEW_NAMES + OLD_NAMES,
        words: int = 1,
        ids: bool = True,
    ) -> None:
        """All CPUs of some cores in some packages; core ids count anew in each package."""
        found = list(packages)
        seen = [0] * len(found)
        for core in cores:
            index, package = next((at, each) for at, each in enumerate(found) if set(core) <= set(each))
            for number in sorted(core):
                place = (seen[index], index) if ids else (-1, -1)
                self.cpu(number, core, package, ids=place, names=names, words=words)
            seen[index] += 1

    def online(self, numbers: Iterable[int]) -> None:
        """Which CPUs are; those that have a directory are there, at least."""
        there = {int(path.name[3:]) for path in (self.root / CPUS).glob("cpu[0-9]*")}
        self.write(f"{CPUS}/online", listed(numbers))
        for name in ("present", "possible"):
            self.write(f"{CPUS}/{name}", listed(sorted({*numbers, *there})))

    def node(
        self,
        number: int,
        cpus: Iterable[int],
        kilobytes: int | None,
        *,
        huge: Mapping[int, tuple[int, int]] | None = None,
        distances: Iterable[int] = (),
        words: int = 1,
    ) -> None:
        """A NUMA node; `huge` is total and free by size in kB."""
        base = f"{NODES}/node{number}"
        self.write(f"{base}/cpumap", mask(cpus, words))
        if kilobytes is not None:
            lines = (("MemTotal", kilobytes), ("MemFree", kilobytes // 2), ("MemUsed", kilobytes - kilobytes // 2))
            self.write(f"{base}/meminfo", "\n".join(f"Node {number} {name}: {amount:14} kB" for name, amount in lines))
        self.huge(f"{base}/hugepages", huge or {})
        if distances:
            self.write(f"{base}/distance", " ".join(map(str, distances)))

    def huge(self, directory: str, sizes: Mapping[int, tuple[int, int]]) -> None:
        for size, (total, free) in sizes.items():
            self.write(f"{directory}/hugepages-{size}kB/nr_hugepages", total)
            self.write(f"{directory}/hugepages-{size}kB/free_hugepages", free)

    def memory(self, kilobytes: int) -> None:
        self.write(
            "proc/meminfo", f"MemTotal:       {kilobytes} kB\nMemFree:         1024 kB\nHugePages_Total:       0"
        )

    def cpuinfo(self, blocks: Iterable[Mapping[str, object]], *, separator: str = "\t: ") -> None:
        text = "\n\n".join("\n".join(f"{key}{separator}{value}" for key, value in block.items()) for block in blocks)
        self.write("proc/cpuinfo", text + "\n")

    def told(self, architecture: str) -> None:
        """As hwloc-gather-topology(1) saves it."""
        self.write("proc/hwloc-nofile-info", f"OSName: Linux\nArchitecture: {architecture}")


def pairs(first: Iterable[int], step: int) -> list[tuple[int, int]]:
    """Cores of two threads whose second thread is `step` further."""
    return [(number, number + step) for number in first]


def x86_smt(tree: Tree) -> None:
    """Two packages of four cores and eight threads, siblings far apart, huge pages of two sizes."""
    tree.cpus(pairs(range(8), 8), [(0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15)])
    tree.online(range(16))
    tree.write(f"{NODES}/online", "0-1")
    tree.node(0, (0, 1, 2, 3, 8, 9, 10, 11), 1 << 20, huge={2048: (64, 60), 1048576: (0, 0)}, distances=(10, 21))
    tree.node(1, (4, 5, 6, 7, 12, 13, 14, 15), 1 << 21, huge={2048: (32, 0), 1048576: (1, 1)}, distances=(21, 10))
    tree.memory(3 << 20)
    tree.cpuinfo([{"processor": 0, "vendor_id": "GenuineIntel", "cpu family": 6, "flags": "fpu lm vmx"}])


def x86_cpu_0_offline(tree: Tree) -> None:
    """The first CPU and its sibling are down, as is all of a node's: no place is told of them."""
    tree.cpus([(2, 3), (6, 7)], [(2, 3), (6, 7)])
    for number in (0, 1, 4, 5):
        (tree.root / f"{CPUS}/cpu{number}").mkdir()
        tree.write(f"{CPUS}/cpu{number}/online", 0)
    tree.online((2, 3, 6, 7))
    tree.node(0, (), 1 << 18, distances=(10, 20, 20))
    tree.node(1, (2, 3), 1 << 18, distances=(20, 10, 20))
    tree.node(2, (6, 7), 1 << 18, distances=(20, 20, 10))
    tree.memory(3 << 18)


def x86_old_kernel(tree: Tree) -> None:
    """No lists at all: CPUs and nodes are what there are directories of, and one CPU is down by its own file."""
    tree.cpus([(0,), (1,), (2,)], [(0, 2), (1,)], names=OLD_NAMES)
    (tree.root / f"{CPUS}/cpu3/topology").mkdir(parents=True)
    tree.write(f"{CPUS}/cpu3/online", 0)
    for number in (1, 2):
        tree.write(f"{CPUS}/cpu{number}/online", 1)
    (tree.root / f"{CPUS}/cpufreq").mkdir()
    tree.node(0, (0, 2), 1 << 18)
    tree.node(1, (1, 3), 1 << 18)


def x86_one_cpu_without_place(tree: Tree) -> None:
    """Of one of four online CPUs the kernel tells no place."""
    tree.cpus([(0,), (1,), (3,)], [(0, 1, 2, 3)])
    (tree.root / f"{CPUS}/cpu2").mkdir()
    tree.online(range(4))
    tree.node(0, range(4), 1 << 18)


def x86_overlapping_nodes(tree: Tree) -> None:
    """Firmware gives two nodes the same CPUs."""
    tree.cpus([(0,), (1,), (2,), (3,)], [(0, 1, 2, 3)])
    tree.online(range(4))
    tree.write(f"{NODES}/online", "0-2")
    tree.node(0, (0, 1), 1 << 18, huge={2048: (1, 1)}, distances=(10, 20, 30))
    tree.node(1, (1, 2), 1 << 18, huge={2048: (2, 2)}, distances=(20, 10, 30))
    tree.node(2, (2, 3), 1 << 18, huge={2048: (3, 3)}, distances=(30, 30, 10))


def amd_modules(tree: Tree, *, told: bool = True) -> None:
    """Two cores share a module: siblings, but with core ids of their own."""
    for number in range(4):
        module = (number & ~1, number | 1)
        tree.cpu(number, module, range(4), ids=(number, 0))
    tree.online(range(4))
    tree.node(0, range(4), 1 << 18)
    tree.cpuinfo([{"processor": 0, "vendor_id": "AuthenticAMD", "cpu family": 21, "model": 1, "flags": "fpu lm svm"}])
    if told:
        tree.told("x86_64")


def amd_modules_untold(tree: Tree) -> None:
    """The same, of a tree that does not say which architecture it is."""
    amd_modules(tree, told=False)


def arm64_clusters(tree: Tree) -> None:
    """Core ids repeat in each cluster and in each package, ids are high, and there are 64 kB pages."""
    for number in range(16):
        tree.cpu(number, (number,), range(number & ~7, (number & ~7) + 8), ids=(number % 4, 36 if number < 8 else 3180))
        tree.write(f"{CPUS}/cpu{number}/topology/cluster_cpus", mask(range(number & ~3, (number & ~3) + 4)))
        tree.write(f"{CPUS}/cpu{number}/topology/die_cpus", mask((number,)))
    tree.online(range(16))
    tree.write(f"{NODES}/online", "0-1")
    sizes = {64: (0, 0), 2048: (5, 5), 32768: (0, 0), 1048576: (2, 1)}
    tree.node(0, range(8), 1 << 23, huge=sizes, distances=(10, 40))
    tree.node(1, range(8, 16), 1 << 23, huge=sizes, distances=(40, 10))
    tree.memory(1 << 24)
    tree.cpuinfo([{"processor": 0, "CPU implementer": "0x48", "CPU architecture": 8, "CPU part": "0xd01"}])
    tree.told("aarch64")


def arm_without_ids(tree: Tree) -> None:
    """A guest whose device tree has no ids: they are -1, and the packages can only be told apart by their masks."""
    tree.cpus([(0,), (1,), (2,), (3,)], [(0, 1), (2, 3)], ids=False)
    tree.online(range(4))
    tree.memory(1 << 19)


def ppc64_sparse(tree: Tree) -> None:
    """SMT8 with half of the threads down, holes in CPU numbers, nodes 0, 8 and 252 to 253, files that end in NUL."""
    cores = [tuple(range(first, first + 4)) for first in (0, 8, 80, 88)]
    for number in (*range(16), *range(80, 96)):
        if number % 8 < 4:
            core = next(each for each in cores if number in each)
            package = (*cores[0], *cores[1]) if number < 16 else (*cores[2], *cores[3])
            tree.cpu(number, core, package, ids=(core[0], 0 if number < 16 else 8), words=4)
        else:
            tree.write(f"{CPUS}/cpu{number}/online", 0)
    tree.write(f"{CPUS}/online", "0-3,8-11,80-83,88-91")
    tree.write(f"{CPUS}/present", "0-15,80-95")
    tree.write(f"{NODES}/online", "0,8,252-253")
    huge = {16384: (128, 100), 16777216: (0, 0)}
    tree.node(0, range(16), 1 << 24, huge=huge, distances=(10, 40, 80, 80), words=4)
    tree.node(8, range(80, 96), 1 << 24, huge=huge, distances=(40, 10, 80, 80), words=4)
    tree.node(252, (), 0, huge=huge, distances=(80, 80, 10, 80), words=4)
    tree.node(253, (), 1 << 24, huge=huge, distances=(80, 80, 80, 10), words=4)
    tree.memory(3 << 24)
    tree.cpuinfo([{"processor": 0, "cpu": "POWER9, altivec supported", "clock": "3800.0MHz"}])
    tree.told("ppc64le")


def s390_books(tree: Tree) -> None:
    """Books and drawers above the packages; no NUMA directory, and no processor lines as others have."""
    for number in range(12):
        package = range(number // 3 * 3, number // 3 * 3 + 3)
        tree.cpu(number, (number,), package, ids=(number, number // 3), names=OLD_NAMES, words=2)
        tree.write(f"{CPUS}/cpu{number}/topology/book_siblings", mask(range(number // 6 * 6, number // 6 * 6 + 6), 2))
        tree.write(f"{CPUS}/cpu{number}/topology/book_id", number // 6)
        tree.write(f"{CPUS}/cpu{number}/topology/drawer_siblings", mask(range(12), 2))
        tree.write(f"{CPUS}/cpu{number}/topology/drawer_id", 0)
    tree.online(range(12))
    tree.memory(1 << 21)
    tree.huge("sys/kernel/mm/hugepages", {1024: (7, 3)})
    lines = [f"processor {number}: version = 00,  identification = 279F25,  machine = 2817" for number in range(12)]
    tree.write("proc/cpuinfo", "\n".join(["vendor_id       : IBM/S390", "# processors    : 12", *lines]))
    tree.told("s390x")


def s390_without_cores(tree: Tree) -> None:
    """Old ones tell packages and no cores."""
    for number in range(2):
        tree.cpu(number, None, (0, 1), names=OLD_NAMES)
    tree.write(f"{CPUS}/online", "0-1")
    tree.memory(1 << 20)


def ia64_many(tree: Tree) -> None:
    """Masks of many words, a package for each CPU, and nodes whose last has memory alone."""
    tree.cpus([(number,) for number in range(128)], [(n, n + 1) for n in range(0, 128, 2)], names=OLD_NAMES, words=16)
    tree.write(f"{CPUS}/online", "0-127")
    for number in range(16):
        tree.node(number, range(number * 8, number * 8 + 8), 1 << 18, words=16)
    tree.node(16, (), 1 << 20, words=16)
    tree.write(f"{NODES}/online", "0-16")
    lines = {"processor  ": 0, "vendor     ": "GenuineIntel", "arch       ": "IA-64", "family     ": 32}
    tree.cpuinfo([lines], separator=": ")


def grace_hopper(tree: Tree) -> None:
    """A CPU node, GPU memory that the driver shows as a node, a CXL node without CPUs and one without anything."""
    tree.cpus([(number,) for number in range(8)], [range(8)], words=2)
    tree.online(range(8))
    tree.write(f"{NODES}/online", "0-3")
    huge = {2048: (0, 0), 524288: (4, 4)}
    tree.node(0, range(8), 1 << 26, huge=huge, distances=(10, 80, 20, 30), words=2)
    tree.node(1, (), 1 << 25, huge=huge, distances=(80, 10, 80, 80), words=2)
    tree.node(2, (), 1 << 24, huge=huge, distances=(20, 80, 10, 30), words=2)
    tree.node(3, (), None, distances=(30, 80, 30, 10), words=2)
    tree.write("proc/driver/nvidia/gpus/0009:01:00.0/numa_status", "Node:  1\nStatus: online")
    tree.memory(1 << 26)
    tree.told("aarch64")


def no_numa(tree: Tree) -> None:
    """A kernel without NUMA: all memory and its huge pages are one node's."""
    tree.cpus(pairs((0, 2), 1), [range(4)])
    tree.online(range(4))
    tree.memory(123456)
    tree.huge("sys/kernel/mm/hugepages", {2048: (10, 4), 4194304: (0, 0)})


def broken_hugepages(tree: Tree) -> None:
    """A size without a number, a directory where a file should be, and a node without meminfo."""
    tree.cpus([(0,), (1,)], [(0, 1)])
    tree.online((0, 1))
    tree.node(0, (0,), 1 << 18, huge={2048: (3, 3)})
    tree.node(1, (1,), None, huge={2048: (4, 4)})
    (tree.root / f"{NODES}/node0/hugepages/hugepages-1048576kB").mkdir()
    (tree.root / f"{NODES}/node1/hugepages/hugepages-1048576kB/nr_hugepages").mkdir(parents=True)


TREES: Mapping[str, Callable[[Tree], None]] = {
    build.__name__: build
    for build in (
        x86_smt,
        x86_cpu_0_offline,
        x86_old_kernel,
        x86_one_cpu_without_place,
        x86_overlapping_nodes,
        amd_modules,
        amd_modules_untold,
        arm64_clusters,
        arm_without_ids,
        ppc64_sparse,
        s390_books,
        s390_without_cores,
        ia64_many,
        grace_hopper,
        no_numa,
        broken_hugepages,
    )
}

_ENDS = {"ppc64_sparse": "\n\0"}


def build(name: str, root: Path) -> Tree:
    """One of the trees in a directory."""
    tree = Tree(root, end=_ENDS.get(name, "\n"))
    TREES[name](tree)
    return tree
