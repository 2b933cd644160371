"""Disks of every kind as real libvirt has them: what it keeps of a define, what a live domain says, what follows it.

What the backends do to guests does not belong here.
"""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import libvirt
import pytest
from lxml import etree

from sri_libvirt import config
from sri_libvirt.devices import DiskHost, DiskSource
from sri_libvirt.domain import observed
from sri_libvirt.domain.compiler import DomainCompiler
from sri_libvirt.hypervisor.base import Secret, SecretUsage
from sri_libvirt.hypervisor.connection import LibvirtConnection
from sri_libvirt.hypervisor.libvirt import LibvirtHypervisor
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import Attachment, Machine
from tests import luks
from tests.e2e.libvirtd import PrivateLibvirt, wait_until
from tests.unit.domain import samples

pytestmark = pytest.mark.e2e

SCHEMAS = Path(config.BY_NAME["schema_dir"].default)
RECONNECT_SINCE = 9_002_000
SIZE = 1 << 22


@dataclass
class Bench:
    """One machine on the private libvirt, whose volumes a test puts together."""

    private: PrivateLibvirt
    connection: LibvirtConnection
    root: Path

    def __post_init__(self) -> None:
        self.servers: list[subprocess.Popen[bytes]] = []
        self.id = str(uuid.uuid4())
        self.offer = self.connection.offer()
        self.compiler = DomainCompiler(samples.INSTANCE, None, SCHEMAS)
        self.paths = StatePaths(self.root).machine(self.id)
        for directory in (self.paths.root.parent, self.paths.root):
            directory.mkdir(mode=0o711)

    def machine(self, *rows: Attachment) -> Machine:
        profile = replace(samples.BIOS, machine_type=self.offer.machine_type, memory_bytes=64 << 20, ports=24)
        return replace(samples.machine(*rows, profile=profile), id=self.id)

    def xml(self, machine: Machine) -> str:
        return self.compiler.domain_xml(machine, machine.attachments, self.paths, samples.RUN)

    def started(self, machine: Machine) -> str:
        """The XML that was asked for, of a guest that runs."""
        asked = self.xml(machine)
        assert self.compiler.differences(asked, self.connection.define(asked)) == []
        self.connection.start(self.id)
        return asked

    @property
    def live(self) -> str:
        found = self.connection.snapshot(self.id)
        assert found is not None
        return found.live_xml

    @property
    def domain(self) -> libvirt.virDomain:
        return self.connection._connection.lookupByUUIDString(self.id)

    def serves(self, image: str, *options: str, name: str = "") -> None:
        """An export of an NBD server, called as its image unless it has a name of its own, until the test's end."""
        file, pid = self.root / f"{image}.raw", self.root / f"{image}.pid"
        if not file.exists():
            file.write_bytes(bytes(SIZE))
        named = ["-x", name or image, "--pid-file", str(pid), "--persistent", "--shared=8"]
        self.servers.append(self.private.popen(["qemu-nbd", "-f", "raw", *named, *options, str(file)]))
        wait_until(pid.exists, "the server listens")


@pytest.fixture
def bench(private_libvirt: PrivateLibvirt) -> Iterator[Bench]:
    connection = LibvirtHypervisor(private_libvirt.uri, qemu_log_dir=private_libvirt.log_dir).connect()
    assert isinstance(connection, LibvirtConnection)
    made = Bench(private_libvirt, connection, private_libvirt.directory("disks"))
    yield made
    private_libvirt.remove_domains()
    for server in made.servers:
        server.terminate()
        server.wait(10)
    connection.close()


def plain(disk: etree._Element) -> bytes:
    """A disk of a domain's XML without white space between its nodes, its attributes in order."""
    for node in disk.iter():
        node.tail = None
        node.text = (node.text or "").strip() or None
    return etree.tostring(disk, method="c14n")


def test_libvirt_keeps_all_of_every_kind_of_disk(bench: Bench) -> None:
    more = [samples.RECONNECTING] if bench.offer.libvirt_version >= RECONNECT_SINCE else []
    machine = bench.machine(*samples.every_disk(*more).attachments)
    asked = bench.xml(machine)  # checked against the schemas of this libvirt
    kept = bench.connection.define(asked)
    assert bench.compiler.differences(asked, kept) == []
    ours, theirs = (list(etree.fromstring(text).iterfind("devices/disk")) for text in (asked, kept))
    assert [*map(plain, ours)] == [*map(plain, theirs)]
    told = observed.glance(kept).devices
    for row in machine.attachments:
        assert isinstance(row.backing, DiskSource)
        assert told[row.alias].source == row.backing.source


def test_what_this_libvirt_does_not_know_is_told(bench: Bench) -> None:
    if bench.offer.libvirt_version >= RECONNECT_SINCE:
        pytest.skip("this libvirt knows all of it")
    without_schemas = DomainCompiler(samples.INSTANCE, None, bench.root)
    machine = bench.machine(samples.source_row(samples.RECONNECTING))
    asked = without_schemas.domain_xml(machine, machine.attachments, bench.paths, samples.RUN)
    found = without_schemas.differences(asked, bench.connection.define(asked))
    assert found == [f"reconnect of {machine.attachments[0].alias} is '', not '60'"]


def nbd(name: str, host: DiskHost, **changes: object) -> DiskSource:
    return replace(samples.NBD, name=name, hosts=(host,), **changes)  # type: ignore[arg-type]


def test_a_guests_network_disks_are_told_by_its_live_domain(bench: Bench) -> None:
    """At a start and at a plug, with a name that needs escapes, and one that is encrypted."""
    odd, socket = "o'd\"d & <name>@h/%, ä", bench.root / "n b.sock"
    bench.serves("tcp", "-b", "127.0.0.1")
    bench.serves("unix", "-k", str(socket))
    socket.chmod(0o666)
    luks.make(bench.root / "luks.raw", b"p" * 8, "4M")
    bench.serves("luks", "-b", "127.0.0.1", "-p", "10810")
    bench.serves("odd", "-b", "127.0.0.1", "-p", "10811", name=odd)
    sources = [
        nbd("tcp", DiskHost("127.0.0.1")),
        nbd("unix", DiskHost(socket=str(socket))),
        nbd("luks", DiskHost("127.0.0.1", 10810), encryption=samples.LUKS, secrets=(samples.PASSPHRASE,)),
        nbd(odd, DiskHost("127.0.0.1", 10811)),
    ]
    rows = [samples.volume_row(f"v{n}", f"od{'abcd'[n]}", backing=source) for n, source in enumerate(sources)]
    lent = Secret(samples.PASSPHRASE.uuid, SecretUsage.VOLUME, samples.INSTANCE)
    bench.connection.set_secret(lent, b"p" * 8)
    whole = bench.machine(*rows)
    first = replace(whole, attachments=whole.attachments[:1])
    bench.started(first)
    for row in whole.attachments[1:]:
        bench.connection.attach_device(bench.id, bench.compiler.device_xml(whole, row))
    assert_live(bench, whole)
    bench.connection.destroy(bench.id)
    asked = bench.started(whole)
    bench.connection.drop_secret(lent.uuid, lent.instance)
    assert_live(bench, whole)
    assert "p" * 8 not in bench.live
    assert bench.compiler.differences(asked, bench.live) == []


def assert_live(bench: Bench, machine: Machine) -> None:
    told = observed.glance(bench.live).devices
    assert {row.alias: row.backing.source for row in machine.attachments if isinstance(row.backing, DiskSource)} == {
        alias: place.source for alias, place in told.items()
    }


def test_the_persistent_domain_follows_a_network_disk_to_a_snapshot_and_a_file_to_a_network_disk(bench: Bench) -> None:
    bench.serves("shot", "-b", "127.0.0.1")
    bench.serves("target", "-b", "127.0.0.1", "-p", "10810")
    local = bench.root / "local.raw"
    local.write_bytes(bytes(SIZE))
    rows = [
        samples.volume_row("shot", "oda", backing=nbd("shot", DiskHost("127.0.0.1"))),
        samples.volume_row("local", "odb", backing=replace(samples.FILE, path=str(local))),
    ]
    machine = bench.machine(*rows)
    asked = bench.started(machine)
    overlay = bench.root / "overlay.qcow2"
    shot, moved = machine.attachments
    bench.domain.snapshotCreateXML(
        f"""<domainsnapshot><disks><disk name='{shot.target}' snapshot='external'><source file='{overlay}'/></disk>
        <disk name='{moved.target}' snapshot='no'/></disks></domainsnapshot>""",
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA,
    )
    target = "<source protocol='nbd' name='target'><host name='127.0.0.1' port='10810'/></source>"
    bench.domain.blockCopy(
        moved.target,
        f"<disk type='network'>{target}<driver type='raw'/></disk>",
        {},
        libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT | libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB,
    )
    wait_until(lambda: bench.domain.blockJobInfo(moved.target).get("end") == SIZE, "the copy is begun")
    assert observed.glance(bench.live).devices[moved.alias].job

    def pivoted() -> bool:
        try:
            bench.domain.blockJobAbort(moved.target, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
        except libvirt.libvirtError:  # not ready yet
            return False
        return True

    wait_until(pivoted, "the copy is ready")
    wait_until(lambda: not observed.glance(bench.live).devices[moved.alias].job, "the copy has ended")
    expected = {shot.alias: str(overlay), moved.alias: "nbd:target@127.0.0.1:10810"}
    assert {alias: place.source for alias, place in observed.glance(bench.live).devices.items()} == expected

    kept = asked
    for row in (shot, moved):
        kept = bench.connection.define(bench.compiler.follow(bench.live, kept, row.alias))
    assert {alias: place.source for alias, place in observed.glance(kept).devices.items()} == expected
    bench.connection.destroy(bench.id)
    bench.connection.start(bench.id)
    assert {alias: place.source for alias, place in observed.glance(bench.live).devices.items()} == expected
