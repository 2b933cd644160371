"""What is chosen for a disk is what QEMU opens it with, on file systems that have O_DIRECT and on one without.

That is asked of QEMU's own process: by the flags of its descriptors, and the rings that it has made.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import libvirt
import libvirt_qemu
import pytest
from lxml import etree

from sri_libvirt import config, devices
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import BackingFile, DiskSettings, DiskSource, FileIdentity
from sri_libvirt.domain.compiler import DomainCompiler
from sri_libvirt.paths import TRAVERSABLE, StatePaths, make_directory
from sri_libvirt.records import Attachment
from tests.backends.loop import LoopDevice
from tests.e2e.libvirtd import PrivateLibvirt
from tests.e2e.provider import Provider, spec, wait_for
from tests.unit.domain import samples

pytestmark = pytest.mark.e2e

MIB = 1 << 20
SCHEMAS = Path(config.BY_NAME["schema_dir"].default)

SETTLE = """
import sys
from pathlib import Path
from sri_libvirt import devices
from sri_libvirt.looks import Looks
from sri_libvirt.reconcile.diskio import DiskIo
from sri_libvirt.records import ClassPolicy
io = DiskIo(Looks(), Path("/proc"))
for line in sys.argv[1:]:
    print(devices.to_json(io.settle(ClassPolicy(), devices.from_json(line))))
"""
"""Where the test's file systems are mounted: in the namespaces of its libvirtd."""

SYNCHRONOUS = """
import os, sys
path = os.path.join(sys.argv[1], "direct")
try:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT))
    print("none")
except OSError:
    print("writeback")
os.unlink(path)
"""
"""Told apart from what is tested: by a new file in the directory."""


def settled(private: PrivateLibvirt, *sources: DiskSource) -> list[DiskSource]:
    """Prepared disks with the settings that a provider would give them."""
    argv = [sys.executable, "-c", SETTLE, *map(devices.to_json, sources)]
    found = [devices.from_json(line) for line in private.run(argv).splitlines()]
    return [each for each in found if isinstance(each, DiskSource)]


@dataclass
class Disks:
    """A disk of each kind, by what it lies on, and the cache that each of them can have."""

    private: PrivateLibvirt
    sources: dict[str, DiskSource]
    caches: dict[str, str]

    def rows(self) -> dict[str, Attachment]:
        found = settled(self.private, *self.sources.values())
        letters = iter("abcdefghij")
        return {
            name: samples.volume_row(name, f"od{next(letters)}", backing=source, port=port)
            for port, (name, source) in enumerate(zip(self.sources, found, strict=True), start=1)
        }


@pytest.fixture
def disks(private_libvirt: PrivateLibvirt) -> Iterator[Disks]:
    private, run = private_libvirt, private_libvirt.run
    places = {name: private.directory(name) for name in ("own", "tmpfs", "ramfs", "overlay")}
    layers = private.directory("layers")
    for each in ("upper", "work"):
        make_directory(layers / each, TRAVERSABLE)
    lower = f"lowerdir={places['overlay']},upperdir={layers}/upper,workdir={layers}/work"
    run(["mount", "-t", "tmpfs", "-o", "mode=711", "none", places["tmpfs"]])
    run(["mount", "-t", "ramfs", "-o", "mode=711", "none", places["ramfs"]])
    run(["mount", "-t", "overlay", "-o", lower, "none", places["overlay"]])
    sources, caches = {}, {}
    for name, place in places.items():
        caches[name] = run([sys.executable, "-c", SYNCHRONOUS, place]).strip()
        run(["qemu-img", "create", "-q", "-f", "qcow2", place / "d.qcow2", str(MIB)])
        sources[name] = DiskSource(name, str(place / "d.qcow2"), "qcow2", MIB)
    base = places["ramfs"] / "base.raw"
    run(["truncate", "-s", str(MIB), base])
    overlay = places["own"] / "overlay.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", overlay])
    backing = BackingFile(str(base), "raw", FileIdentity(1, 2, 3))
    sources["base on ramfs"] = DiskSource("i", str(overlay), "qcow2", MIB, backing=backing)
    caches["base on ramfs"] = "writeback"
    with ExitStack() as stack:
        file = places["own"] / "block.img"
        file.write_bytes(bytes(MIB))
        node = places["own"] / "volume"
        stack.enter_context(LoopDevice(file)).node(node, private.inside)
        sources["block"], caches["block"] = DiskSource("b", str(node), "raw", MIB, kind="block"), "none"
        yield Disks(private, sources, caches)
        private.remove_domains()
        for name in ("tmpfs", "ramfs", "overlay"):
            run(["umount", places[name]])


@contextmanager
def started(private: PrivateLibvirt, *rows: Attachment) -> Iterator[tuple[libvirt.virDomain, DomainCompiler]]:
    """A machine that stands at its first instruction and has these disks, which QEMU has opened."""
    paths = StatePaths(private.directory("state")).machine(str(uuid.uuid4()))
    make_directory(paths.root.parent, TRAVERSABLE)
    make_directory(paths.root, TRAVERSABLE)
    profile = replace(samples.BIOS, machine_type="q35", memory_bytes=64 << 20)
    machine = replace(samples.machine(profile=profile), id=paths.root.name, attachments=rows)
    compiler = DomainCompiler(samples.INSTANCE, None, SCHEMAS)
    connection = libvirt.open(private.uri)
    try:
        domain = connection.defineXML(compiler.domain_xml(machine, rows, paths, samples.RUN))
        domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        yield domain, compiler
    finally:
        connection.close()


def drivers(xml: str) -> dict[str, DiskSettings]:
    """What an XML says of each disk, by its alias."""
    found = {}
    for disk in etree.fromstring(xml).iterfind("devices/disk"):
        driver, alias = disk.find("driver"), disk.find("alias")
        assert driver is not None
        assert alias is not None
        assert (driver.get("error_policy"), driver.get("rerror_policy")) == ("stop", "stop")
        words = driver.get("cache"), driver.get("io", ""), driver.get("discard"), driver.get("detect_zeroes", "off")
        found[alias.get("name", "")] = DiskSettings(*words)  # type: ignore[arg-type]
    return found


def caches(pid: int) -> dict[str, str]:
    """The cache of each file and device that a process has open, by the flags of its descriptor."""
    found: dict[str, str] = {}
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        target = str(fd.readlink())
        lines = Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text().splitlines()
        flags = next(int(line.split()[1], 8) for line in lines if line.startswith("flags:"))
        found[target] = "none" if flags & os.O_DIRECT else "writeback"
    return found


def rings(pid: int) -> int:
    return sum(str(fd.readlink()) == "anon_inode:[io_uring]" for fd in Path(f"/proc/{pid}/fd").iterdir())


def qemu(private: PrivateLibvirt, domain: libvirt.virDomain) -> int:
    return int((private.base / "run" / "qemu" / f"{domain.name()}.pid").read_text())


def opened(rows: Mapping[str, Attachment]) -> dict[str, str]:
    """The caches that QEMU's descriptors must show."""
    found: dict[str, str] = {}
    for row in rows.values():
        source = row.backing
        assert isinstance(source, DiskSource)
        for path in (source.path, source.backing.path if source.backing else source.path):
            found[path] = source.settings.cache
    return found


def settings_of(rows: Mapping[str, Attachment]) -> dict[str, DiskSettings]:
    return {row.alias: row.backing.settings for row in rows.values() if isinstance(row.backing, DiskSource)}


def test_qemu_starts_and_plugs_disks_as_they_were_settled(disks: Disks) -> None:
    private, rows = disks.private, disks.rows()
    assert {name: each.cache for name, each in zip(rows, settings_of(rows).values(), strict=True)} == disks.caches
    assert disks.caches["ramfs"] == "writeback"
    (io,) = {each.io for each in settings_of(rows).values()}
    with started(private, *rows.values()) as (domain, _):
        pid = qemu(private, domain)
        assert opened(rows).items() <= caches(pid).items()
        ours = settings_of(rows)
        assert drivers(domain.XMLDesc(0)) == drivers(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)) == ours
        cold = rings(pid)
        domain.destroy()
    with started(private) as (domain, compiler):
        pid = qemu(private, domain)
        before = rings(pid)
        for row in rows.values():
            domain.attachDeviceFlags(compiler.device_xml(samples.machine(), row), libvirt.VIR_DOMAIN_AFFECT_LIVE)
        assert opened(rows).items() <= caches(pid).items()
        assert drivers(domain.XMLDesc(0)) == ours
        # QEMU has one for its own waiting, too, where the kernel has any.
        assert (rings(pid) > before) == (io == "io_uring")
        assert rings(pid) == cold


@pytest.mark.parametrize("io", ["native", "threads"])
def test_what_is_chosen_where_there_is_no_io_uring_starts_too(disks: Disks, io: devices.DiskIo) -> None:
    rows = {
        name: replace(row, backing=replace(row.backing, settings=replace(row.backing.settings, io=io)))
        for name, row in disks.rows().items()
        if isinstance(row.backing, DiskSource) and (io != "native" or row.backing.settings.cache == "none")
    }
    with started(disks.private, *rows.values()) as (domain, _):
        assert opened(rows).items() <= caches(qemu(disks.private, domain)).items()
        assert drivers(domain.XMLDesc(0)) == settings_of(rows)


@pytest.mark.parametrize("settings", [DiskSettings("none", "native", "ignore", "on"), DiskSettings()])
def test_a_guest_has_the_same_device_whatever_the_settings(disks: Disks, settings: DiskSettings) -> None:
    """So that a machine of an earlier version, or of a host that has changed, loses and gains no hardware."""
    rows = {name: row for name, row in disks.rows().items() if disks.caches[name] == "none"}
    others = [
        replace(row, backing=replace(row.backing, settings=settings))
        for row in rows.values()
        if isinstance(row.backing, DiskSource)
    ]
    with started(disks.private, *rows.values()) as (domain, _):
        chosen = drivers(domain.XMLDesc(0))
        hardware = libvirt_qemu.qemuMonitorCommand(
            domain, "info qtree", libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
        )
        domain.destroy()
    assert "discard_granularity" in hardware
    with started(disks.private, *others) as (domain, _):
        assert drivers(domain.XMLDesc(0)) != chosen
        again = libvirt_qemu.qemuMonitorCommand(domain, "info qtree", libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
    assert again == hardware


def attach(provider: Provider, machine_id: str, name: str, device: str) -> None:
    volume = pb.Volume(name=name, device=device, empty_disk=pb.EmptyDisk(size_bytes=64 * MIB))
    provider.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=volume), timeout=10)


def test_a_disk_of_an_earlier_version_gets_its_settings_with_the_next_start_and_not_before(
    provider: Provider, tiny_image: Path
) -> None:
    provider.start("--firmware", "bios")
    machine_id = provider.create(spec(image=tiny_image, disks={"a": "oda"})).metadata.id
    provider.wait_console(machine_id, "tiny: up")
    chosen = both_sides(provider, machine_id)
    assert DiskSettings() not in chosen.values()
    provider.stop()
    with closing(sqlite3.connect(StatePaths(provider.state).database)) as store, store:
        store.execute("UPDATE attachment SET backing = json_remove(backing, '$.settings')")
    provider.start_again()
    attach(provider, machine_id, "b", "odb")
    provider.wait_console(machine_id, "serial=odb-")
    wait_for("the disk in the persistent domain", lambda: len(sides(provider, machine_id)[1]) == 3)
    live, persistent = sides(provider, machine_id)
    assert {alias: live[alias] for alias in chosen} == chosen
    assert {alias: persistent[alias] for alias in chosen} == dict.fromkeys(chosen, DiskSettings())
    (new,) = live.keys() - chosen.keys()
    assert live[new] == persistent[new] != DiskSettings()
    provider.power(machine_id, pb.POWER_OFF)
    provider.wait_state(machine_id, "MACHINE_SUSPENDED")
    provider.power(machine_id, pb.POWER_ON)
    provider.wait_console(machine_id, "tiny: up", count=2)
    assert both_sides(provider, machine_id) == live
    assert not [event for event in provider.events(machine_id) if event.kind == "drift"]


def sides(provider: Provider, machine_id: str) -> tuple[dict[str, DiskSettings], dict[str, DiskSettings]]:
    with provider.domain(machine_id) as domain:
        return drivers(domain.XMLDesc(0)), drivers(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))


def both_sides(provider: Provider, machine_id: str) -> dict[str, DiskSettings]:
    """The disks of the live domain, which are those of the persistent one."""
    live, persistent = sides(provider, machine_id)
    assert live == persistent
    return live
