"""What a PCI device is, by its class and maker."""

from __future__ import annotations

from pathlib import Path

import pytest

from sri_libvirt.host import memory, pci
from sri_libvirt.host.memory import HugePages
from tests.unit.host import devices
from tests.unit.host.trees import Tree


@pytest.mark.parametrize(
    ("ids", "device_class", "gpu"),
    [
        ("10de:2235", "030200", True),  # NVIDIA A40
        ("1002:74a1", "120000", True),  # AMD MI300X
        ("1002:740f", "038000", True),  # AMD MI210
        ("8086:56c0", "038000", True),  # Intel Flex 170
        ("10de:1eb8", "030200", True),
        ("102b:0536", "030000", False),  # Matrox of a BMC
        ("1a03:2000", "030000", False),  # ASPEED of a BMC
        ("1234:1111", "030000", False),  # QEMU
        ("1af4:1050", "038000", False),  # virtio
        ("10ee:5020", "120000", False),  # Xilinx FPGA
        ("8086:09c4", "120000", False),  # Intel FPGA
        ("1da3:1020", "120000", False),  # Habana
        ("10de:1aef", "040300", False),  # the sound of a GPU
    ],
)
def test_what_a_gpu_is(tmp_path: Path, ids: str, device_class: str, gpu: bool) -> None:
    tree = Tree(tmp_path)
    devices.pci(tree, "0000:af:00.0", ids=ids, device_class=device_class)
    (found,) = pci.read(tree.sysfs)
    assert found.gpu is gpu


def test_pages_of_nodes_are_summed_and_what_one_does_not_tell_is_not_known() -> None:
    one, other = {2048: HugePages(4, 3), 1048576: HugePages(1, 1)}, {2048: HugePages(6, None)}
    assert memory.summed([one, other]) == {2048: HugePages(10, None), 1048576: HugePages(1, 1)}
    assert memory.summed([]) == {}
