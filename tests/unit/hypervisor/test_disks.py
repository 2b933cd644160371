"""A running guest's disks: errors in our words, and that none is ever asked to be smaller than QEMU has it."""

from __future__ import annotations

import ast
from pathlib import Path

import libvirt
import pytest

from sri_libvirt.errors import HypervisorError, Unreachable
from sri_libvirt.hypervisor.base import DiskError
from tests.unit.hypervisor.test_connection import connection
from tests.unit.hypervisor.test_faults import CLOSED, Fault

GIB = 1 << 30
SOURCES = Path(__file__).parents[3] / "sri_libvirt"


class Domain:
    """A virDomain whose QEMU has one disk, "vda"."""

    def __init__(self, size: int, errors: dict[str, int] | None = None, refuses: Fault | None = None) -> None:
        self.size = size
        self.errors = errors
        self.refuses = refuses
        self.asked: list[tuple[str, int, int]] = []

    def isActive(self) -> int:  # noqa: N802 (libvirt's name)
        return bool(self.size)

    def blockInfo(self, target: str, _flags: int) -> list[int]:  # noqa: N802
        assert target == "vda"
        return [self.size, 0, 0]

    def blockResize(self, target: str, size: int, flags: int) -> int:  # noqa: N802
        if self.refuses:
            raise self.refuses
        self.asked.append((target, size, flags))
        return 0

    def diskErrors(self, _flags: int) -> dict[str, int] | None:  # noqa: N802
        return self.errors


def test_a_disk_grows_by_bytes_and_nothing_is_asked_twice() -> None:
    domain = Domain(GIB)
    asked, _ = connection(domain)
    asked.resize_disk("id", "vda", 2 * GIB)
    assert domain.asked == [("vda", 2 * GIB, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)]


@pytest.mark.parametrize("size", [0, 1, GIB - 1, GIB])
def test_a_disk_that_qemu_has_as_large_is_not_cut(size: int) -> None:
    domain = Domain(GIB)
    asked, _ = connection(domain)
    asked.resize_disk("id", "vda", size)
    assert domain.asked == []


def test_a_domain_that_is_off_or_gone_has_no_disk_to_grow() -> None:
    off = Domain(0)
    asked, _ = connection(off)
    asked.resize_disk("id", "vda", GIB)
    assert (off.asked, asked.disk_errors("id")) == ([], {})


def test_a_refusal_is_told_with_what_qemu_says() -> None:
    words = "internal error: unable to execute QEMU command 'block_resize': Cannot grow NBD nodes"
    asked, _ = connection(Domain(GIB, refuses=Fault(1, 10, words)))
    with pytest.raises(HypervisorError, match=r"could not grow the disk vda: .*Cannot grow NBD nodes") as refused:
        asked.resize_disk("id", "vda", 2 * GIB)
    assert not isinstance(refused.value, Unreachable)
    lost, _ = connection(Domain(GIB, refuses=CLOSED))
    with pytest.raises(Unreachable):
        lost.resize_disk("id", "vda", 2 * GIB)


@pytest.mark.parametrize(
    ("told", "found"),
    [
        (None, {}),
        ({}, {}),
        ({"vda": libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE}, {"vda": DiskError.NO_SPACE}),
        ({"vda": libvirt.VIR_DOMAIN_DISK_ERROR_UNSPEC, "vdb": 99}, {"vda": DiskError.OTHER, "vdb": DiskError.OTHER}),
    ],
)
def test_errors_in_our_words(told: dict[str, int] | None, found: dict[str, DiskError]) -> None:
    asked, _ = connection(Domain(GIB, told))
    assert asked.disk_errors("id") == found


def test_nobody_else_resizes_anything() -> None:
    """One door: what stands in it asks QEMU first."""
    callers = [
        path.relative_to(SOURCES).as_posix()
        for path in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "blockResize"
    ]
    assert callers == ["hypervisor/disks.py"]
