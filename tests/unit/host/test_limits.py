"""What the cgroup of a process leaves it, and signs of virtualisation."""

from __future__ import annotations

from pathlib import Path

import pytest

from sri_libvirt.host import cpu, limits, virtualisation
from sri_libvirt.host.limits import Limits
from sri_libvirt.host.virtualisation import Virtualisation
from tests.unit.host.trees import Tree

GROUPS = "sys/fs/cgroup"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "host")


def read(tree: Tree) -> Limits:
    return limits.read(tree.sysfs, tree.procfs)


def test_nothing_at_all(tree: Tree) -> None:
    assert read(tree) == Limits(None, None, None, None, None)


def test_affinity(tree: Tree) -> None:
    tree.write("proc/self/status", "Name:\tx\nCpus_allowed:\tf\nCpus_allowed_list:\t0-3\nMems_allowed_list:\t0,8")
    assert (read(tree).cpus, read(tree).nodes) == ((0, 1, 2, 3), (0, 8))
    tree.write("proc/self/status", "Cpus_allowed_list:\tall")
    assert read(tree).cpus is None


def test_the_least_of_the_groups_above_counts(tree: Tree) -> None:
    tree.write("proc/self/cgroup", "0::/kubepods/pod1/c1")
    tree.write(f"{GROUPS}/cgroup.controllers", "cpu memory")
    for path, cpu_max, memory_max in (
        ("kubepods", "max 100000", 8 << 30),
        ("kubepods/pod1", "150000 100000", 16 << 30),
        ("kubepods/pod1/c1", "200000 100000", "max"),
    ):
        tree.write(f"{GROUPS}/{path}/cpu.max", cpu_max)
        tree.write(f"{GROUPS}/{path}/memory.max", memory_max)
    found = read(tree)
    assert (found.cpu_millis, found.memory_bytes, found.cgroup) == (1500, 8 << 30, "/kubepods/pod1/c1")


def test_version_1(tree: Tree) -> None:
    tree.write("proc/self/cgroup", "5:memory:/docker/c1\n4:cpu,cpuacct:/docker/c1\n1:name=systemd:/x\n0::/")
    tree.write(f"{GROUPS}/memory/memory.limit_in_bytes", 0x7FFFFFFFFFFFF000)
    tree.write(f"{GROUPS}/memory/docker/c1/memory.limit_in_bytes", 1 << 30)
    tree.write(f"{GROUPS}/cpu/cpu.cfs_quota_us", -1)
    tree.write(f"{GROUPS}/cpu/docker/c1/cpu.cfs_quota_us", 50000)
    tree.write(f"{GROUPS}/cpu/docker/c1/cpu.cfs_period_us", 100000)
    found = read(tree)
    assert (found.cpu_millis, found.memory_bytes) == (500, 1 << 30)


def test_a_group_outside_our_namespace_is_not_looked_for(tree: Tree) -> None:
    tree.write("proc/self/cgroup", "0::/../../other")
    tree.write(f"{GROUPS}/cgroup.controllers", "cpu")
    tree.write(f"{GROUPS}/memory.max", 4096)
    tree.write("sys/memory.max", 1)
    assert read(tree).memory_bytes == 4096


def signs(tree: Tree) -> Virtualisation:
    return virtualisation.read(cpu.read(tree.sysfs, tree.procfs), tree.sysfs, tree.procfs)


def test_signs_of_a_server(tree: Tree) -> None:
    tree.cpuinfo([{"processor": 0, "flags": "fpu lm vmx"}])
    tree.write("sys/module/kvm_intel/parameters/nested", "Y")
    (tree.sysfs / "class/misc/kvm").mkdir(parents=True)
    (tree.sysfs / "kernel/iommu_groups/0").mkdir(parents=True)
    tree.write("proc/sys/kernel/osrelease", "6.12.1")
    assert signs(tree) == Virtualisation("vmx", guest=False, kvm=True, nested=True, iommu=True, kernel="6.12.1")


def test_signs_of_a_guest(tree: Tree) -> None:
    tree.cpuinfo([{"processor": 0, "flags": "fpu lm hypervisor"}])
    (tree.sysfs / "class/misc/fuse").mkdir(parents=True)
    (tree.sysfs / "kernel/iommu_groups").mkdir(parents=True)
    tree.write("proc/hwloc-nofile-info", "OSRelease: 4.9.0-3-amd64")
    found = signs(tree)
    assert found == Virtualisation(None, guest=True, kvm=False, nested=None, iommu=False, kernel="4.9.0-3-amd64")


def test_no_signs(tree: Tree) -> None:
    assert signs(tree) == Virtualisation(None, None, None, None, None, None)
    tree.write("sys/hypervisor/type", "xen")
    assert signs(tree).guest is True
