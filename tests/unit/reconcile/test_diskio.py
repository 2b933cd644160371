"""A prepared disk gets its settings: of all files that it is made of, asked where they lie, and never for long."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from sri_libvirt.devices import BackingFile, DiskSettings, DiskSource, FileIdentity
from sri_libvirt.errors import NotReady
from sri_libvirt.looks import Looks
from sri_libvirt.process import ProcessError
from sri_libvirt.reconcile.diskio import HOLDS, REFUSED, DiskIo, Tried
from sri_libvirt.records import ClassPolicy

AUTO = ClassPolicy()
EMPTY = DiskSource("h", "/state/m/empty.qcow2", "qcow2", 512)
OVERLAY = replace(
    EMPTY, path="/state/m/image.qcow2", backing=BackingFile("/images/base.raw", "raw", FileIdentity(1, 2, 3))
)
BLOCK = replace(EMPTY, path="/dev/vg/volume", format="raw", kind="block")
NETWORK = DiskSource("h", "", "raw", 512, kind="network", protocol="nbd", name="export")


@dataclass
class Host:
    """A host whose file systems and QEMU are what a test says."""

    procfs: Path
    buffered: set[str] = field(default_factory=set)
    works: dict[Tried, bool | ProcessError] = field(default_factory=lambda: {"io_uring": True, "native": True})
    now: float = 0.0
    opened: list[str] = field(default_factory=list)
    tried: list[tuple[str, str, bool]] = field(default_factory=list)
    hangs: threading.Event | None = None

    def __post_init__(self) -> None:
        self.disabled = self.procfs / "sys/kernel/io_uring_disabled"
        for name, value in {"kernel/io_uring_disabled": 0, "fs/aio-nr": 0, "fs/aio-max-nr": 65536}.items():
            path = self.procfs / "sys" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{value}\n")
        self.io = DiskIo(Looks(patience=0.05), self.procfs, self._works, self._takes_direct, lambda: self.now)

    def _works(self, io: Tried, path: Path, block: bool) -> bool:
        self.tried.append((io, str(path), block))
        verdict = self.works[io]
        if isinstance(verdict, ProcessError):
            raise verdict
        return verdict

    def _takes_direct(self, path: Path) -> bool:
        if self.hangs:
            self.hangs.wait()
        self.opened.append(str(path))
        return str(path) not in self.buffered

    def settle(self, source: DiskSource, policy: ClassPolicy = AUTO) -> tuple[str, str]:
        found = self.io.settle(policy, source)
        assert replace(found, settings=source.settings) == source
        return found.settings.cache, found.settings.io


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    if host.hangs:
        host.hangs.set()


def test_a_disk_of_an_earlier_version_gets_what_new_ones_have(host: Host) -> None:
    assert EMPTY.settings == DiskSettings("writeback", "", "unmap", "off")
    assert host.settle(EMPTY) == ("none", "io_uring")
    assert host.io.settle(AUTO, EMPTY).settings == DiskSettings("none", "io_uring", "unmap", "off")


def test_an_overlay_is_opened_as_its_base_can_be(host: Host) -> None:
    assert host.settle(OVERLAY) == ("none", "io_uring")
    assert host.opened == ["/state/m/image.qcow2", "/images/base.raw"]
    host.buffered = {"/images/base.raw"}
    assert host.settle(OVERLAY) == ("writeback", "io_uring")
    host.buffered = {"/state/m/image.qcow2"}
    assert host.settle(OVERLAY) == ("writeback", "io_uring")


def test_of_a_network_disk_nothing_is_looked_at(host: Host) -> None:
    assert host.settle(NETWORK) == ("none", "")
    assert (host.opened, host.tried) == ([], [])


def test_qemu_is_tried_once_in_a_while_on_the_disk_at_hand(host: Host) -> None:
    host.settle(BLOCK)
    host.settle(EMPTY)
    assert host.tried == [("io_uring", "/dev/vg/volume", True)]
    host.now += HOLDS
    host.works["io_uring"] = False  # another QEMU was installed
    assert host.settle(EMPTY) == ("none", "native")
    assert host.settle(EMPTY) == ("none", "native")
    assert host.tried[1:] == [("io_uring", EMPTY.path, False), ("native", EMPTY.path, False)]


def test_a_no_is_soon_asked_again_for_it_may_be_the_disks_own_fault(host: Host) -> None:
    host.works["io_uring"] = False
    assert host.settle(BLOCK) == ("none", "native")
    host.works["io_uring"] = True
    host.now += REFUSED
    assert host.settle(EMPTY) == ("none", "io_uring")


def test_a_try_that_was_late_is_of_its_disk_alone(host: Host) -> None:
    host.works["io_uring"] = ProcessError("qemu-img did not end within 10 s", late=True)
    assert host.settle(BLOCK) == ("none", "native")
    host.works["io_uring"] = True
    assert host.settle(EMPTY) == ("none", "io_uring")


def test_a_device_that_hangs_holds_up_none_that_is_listed_beside_it(host: Host) -> None:
    host.hangs = threading.Event()
    with pytest.raises(NotReady, match="nothing more is begun at the device /dev/vg/volume before"):
        host.settle(BLOCK)
    hanging, host.hangs = host.hangs, None
    assert host.settle(replace(BLOCK, path="/dev/vg/other")) == ("none", "io_uring")
    hanging.set()


def test_what_the_kernel_says_is_read_each_time(host: Host) -> None:
    assert host.settle(EMPTY) == ("none", "io_uring")
    host.disabled.write_text("2\n")
    assert host.settle(EMPTY) == ("none", "native")
    (host.procfs / "sys/fs/aio-nr").write_text("64000\n")
    assert host.settle(EMPTY) == ("none", "threads")
    host.disabled.write_text("0\n")
    assert host.settle(EMPTY) == ("none", "io_uring")


def test_a_class_has_its_way(host: Host) -> None:
    assert host.settle(EMPTY, ClassPolicy(disk_cache="writeback", disk_io="threads")) == ("writeback", "threads")
    assert (host.opened, host.tried) == ([], [])


def test_a_file_system_that_hangs_keeps_its_machine_waiting_and_nobody_else(host: Host) -> None:
    host.hangs = threading.Event()
    with pytest.raises(NotReady, match=r"opening /state/m/empty\.qcow2 past the page cache goes on since") as waits:
        host.settle(EMPTY)
    assert waits.value.code == "slow-storage"
    with pytest.raises(NotReady, match=r"nothing more is begun at the directory /state/m before"):
        host.settle(OVERLAY)
    hanging, host.hangs = host.hangs, None
    assert host.settle(replace(EMPTY, path="/state/other/empty.qcow2")) == ("none", "io_uring")
    hanging.set()
