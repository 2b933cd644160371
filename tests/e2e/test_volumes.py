"""Volumes of every driver on real guests: what one machine's guest writes, the next one's reads, and nothing is left;
and one that grows is seen by its guest.

What goes wrong with backends does not belong here.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import libvirt
import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.volumes.ceph import HOT_LIBRBD
from tests import guest
from tests.backends import luks
from tests.backends.ceph import Ceph
from tests.backends.iscsi import Targets
from tests.e2e.connected import libvirt_version
from tests.e2e.libvirtd import PrivateLibvirt
from tests.e2e.provider import Provider, spec, type_line, wait_for
from tests.e2e.storage import KINDS, Storage, Stored

# The first test of a worker waits for Ceph and two guests; one test gives each of two guests a disk of every kind.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

MIB = 1 << 20
SIZE = 4 * MIB
MARK = "written by a guest"
DISK = re.compile(r"tiny: disk (\S+) (?:serial=(\S+) size=(\d+)|gone)")
SERIAL = re.compile("od[a-z]+-[0-9a-f]{15}")
TEN = 10
SECONDS = 180.0

PROMPT = "tiny# "
"""From then on the guest's shell takes what is typed, and the disks of its boot are told."""


@dataclass(frozen=True)
class Disk:
    """As a guest sees it."""

    name: str
    serial: str
    size: int


@dataclass
class Guest:
    """A machine whose guest is up, and what happens to its volumes."""

    provider: Provider
    id: str

    def attach(self, device: str, stored: Stored) -> None:
        volume = volume_of(device, stored)
        self.provider.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=self.id, volume=volume), timeout=10)

    def detach(self, device: str) -> None:
        self.provider.stub.DetachVolume(pb.DetachVolumeRequest(machine_id=self.id, name=device), timeout=10)

    def disks(self) -> dict[str, Disk]:
        """The disks that the guest has of its volumes, by their names in the spec."""
        present: dict[str, Disk] = {}
        for name, serial, size in DISK.findall(self.provider.console(self.id)):
            present.pop(name, None)
            if serial:
                present[name] = Disk(name, serial, int(size))
        return {disk.serial.rpartition("-")[0]: disk for disk in present.values() if SERIAL.fullmatch(disk.serial)}

    def wait_disks(self, sizes: Mapping[str, int]) -> dict[str, Disk]:
        """Wait until the volumes are attached, these and no others, for the provider and for the guest."""
        told = dict.fromkeys(sizes, "ATTACHED")
        self._wait(f"volumes {told}", lambda: self.states() == told)
        self._wait(f"disks {sizes}", lambda: {key: disk.size for key, disk in self.disks().items()} == sizes)
        return self.disks()

    def states(self) -> dict[str, str]:
        machine = self.provider.get(self.id)
        assert machine is not None
        return {each.name: pb.VolumeState.Name(each.state).removeprefix("VOLUME_") for each in machine.status.volumes}

    def write(self, disk: Disk, token: str) -> str:
        """Fill a disk, each by its token with something else; the sum of what it holds."""
        kept = f"/run/p{disk.size}"
        pattern = f"[ -e {kept} ]||head -c {disk.size} /dev/urandom >{kept}"
        fill = f"(echo {MARK} {token};cat {kept})|head -c {disk.size}|dd bs=64k of=/dev/{disk.name} conv=fsync 2>&-"
        return self.sum(disk, token, f"{pattern};{fill};")

    def sum(self, disk: Disk, token: str, before: str = "") -> str:
        """The sum of what a disk holds, past the guest's cache. `token` tells its line on the console from others.

        Of one that has grown, of what it was.
        """
        drop = "echo 3 >/proc/sys/vm/drop_caches"
        line = f"{before}{drop};echo sum-{token} $(head -c {disk.size} /dev/{disk.name}|sha256sum)"
        said = re.compile(rf"^sum-{token} ([0-9a-f]{{64}})", re.MULTILINE)

        def heard() -> bool:
            return bool(said.search(self.provider.console(self.id)))

        type_line(self.provider.libvirt.uri, self.id, line, heard, again=SECONDS)
        found: str = said.findall(self.provider.console(self.id))[0]
        return found

    def rescan(self, device: str) -> tuple[str, int]:
        """Have the provider look at the size of a volume; what that is to the guest, and how many bytes it found."""
        argv = ("volume", "rescan", self.id, device, "-o", "json", "--state-dir", str(self.provider.state))
        done = subprocess.run([sys.executable, "-m", "sri_libvirt", *argv], capture_output=True, text=True, check=True)
        (told,) = json.loads(done.stdout)
        return told["outcome"], told["bytes"]

    def power_cycle(self) -> None:
        self.provider.power(self.id, pb.POWER_OFF)
        self.provider.wait_state(self.id, "MACHINE_SUSPENDED")
        boots = self.provider.console(self.id).count(PROMPT)
        self.provider.power(self.id, pb.POWER_ON)
        self.provider.wait_console(self.id, PROMPT, count=boots + 1)

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        try:
            wait_for(what, condition, SECONDS)
        except AssertionError as error:
            tail = self.provider.console(self.id)[-2000:]
            found = f"{self.states()}, {self.disks()}\n{self.provider.why(self.id)}\n{tail}\n{self.provider.log()}"
            raise AssertionError(f"{error}: {found}") from None


@dataclass
class Host:
    """A provider, an image for its guests, storage."""

    provider: Provider
    image: Path
    storage: Storage

    def guest(self, volumes: Mapping[str, Stored] | None = None) -> Guest:
        """A new machine, once its guest is up."""
        wanted = spec(image=self.image)
        wanted.volumes.extend(volume_of(device, stored) for device, stored in (volumes or {}).items())
        machine_id = self.provider.create(wanted).metadata.id
        self.provider.wait_console(machine_id, PROMPT)
        return Guest(self.provider, machine_id)

    def delete(self, guest: Guest) -> None:
        self.provider.delete(guest.id)
        self.provider.wait_state(guest.id, "GONE")

    def expect_unused(self, *volumes: Stored) -> None:
        """Of volumes that no machine has: nobody has them open, and no secret is left."""
        for stored in volumes:
            wait_for(f"end of all use of {stored.connection.handle}", lambda each=stored: not each.users(), 30)  # type: ignore[misc]
        assert self._secrets() == []

    def expect_nothing_left(self, *volumes: Stored) -> None:
        """The same, and nothing for a sweep."""
        self.expect_unused(*volumes)
        assert self._swept() == []

    def _secrets(self) -> list[str]:
        connection = libvirt.open(self.provider.libvirt.uri)
        try:
            return [secret.usageID() for secret in connection.listAllSecrets()]
        finally:
            connection.close()

    def _swept(self) -> list[object]:
        argv = ("sweep", "-o", "json", "--state-dir", str(self.provider.state))
        done = subprocess.run([sys.executable, "-m", "sri_libvirt", *argv], capture_output=True, text=True, check=True)
        found: list[object] = json.loads(done.stdout)
        return found


def volume_of(device: str, stored: Stored) -> pb.Volume:
    """As a spec names it: called as its device."""
    return pb.Volume(name=device, device=device, connection=stored.connection)


@pytest.fixture(scope="module")
def host(
    libvirt_of_worker: PrivateLibvirt, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    """One for all tests here: what a test leaves behind, the next one finds."""

    def ceph() -> Ceph:
        found: Ceph = request.getfixturevalue("ceph_of_worker")
        return found

    def targets() -> Targets:
        found: Targets = request.getfixturevalue("targets_of_worker")
        return found

    libvirt_of_worker.start()
    provider = Provider(libvirt_of_worker, libvirt_of_worker.directory("sri"))
    image = provider.images / "tiny.raw"
    shutil.copyfile(guest.image(), image)
    image.chmod(0o444)
    with closing(Storage(libvirt_of_worker, ceph, targets)) as storage:
        provider.start("--firmware", "bios", "--detach-settle", "0s", *storage.options)
        try:
            yield Host(provider, image, storage)
            provider.expect_rest()
        finally:
            provider.kill()
            libvirt_of_worker.remove_domains()


@pytest.fixture(scope="module")
def guests(host: Host) -> tuple[Guest, Guest]:
    """Two that are up, for tests that give back what they attach."""
    return host.guest(), host.guest()


def cannot_be_plugged(host: Host, kind: str) -> bool:
    return kind == "ceph-luks" and libvirt_version(host.provider) < HOT_LIBRBD


@pytest.mark.parametrize("kind", KINDS)
def test_a_volume_goes_from_one_running_guest_to_the_next(host: Host, guests: tuple[Guest, Guest], kind: str) -> None:
    if cannot_be_plugged(host, kind):
        pytest.skip("this libvirt cannot plug it into a running guest")
    stored = host.storage.make(kind, SIZE)
    device = f"od{chr(ord('b') + KINDS.index(kind))}"
    sums = []
    for guest_of, look in zip(guests, (Guest.write, Guest.sum), strict=True):
        guest_of.attach(device, stored)
        disk = guest_of.wait_disks({device: SIZE})[device]
        assert stored.users() == 1
        sums.append(look(guest_of, disk, kind))
        guest_of.detach(device)
        guest_of.wait_disks({})
        host.expect_unused(stored)
    host.expect_nothing_left(stored)
    assert sums[0] == sums[1]
    assert (MARK.encode() in stored.content()) == (not stored.connection.encryption_data)


def test_volumes_of_every_driver_go_from_a_machine_to_the_next_by_its_cold_start(host: Host) -> None:
    volumes = {f"od{chr(ord('a') + number)}": host.storage.make(kind, SIZE) for number, kind in enumerate(KINDS)}
    sizes = dict.fromkeys(volumes, SIZE)
    sums: list[dict[str, str]] = []
    for look in (Guest.write, Guest.sum):
        machine = host.guest(volumes)
        disks = machine.wait_disks(sizes)
        assert {device: stored.users() for device, stored in volumes.items()} == dict.fromkeys(volumes, 1)
        sums.append({device: look(machine, disks[device], f"t{device}") for device in volumes})
        host.delete(machine)
        host.expect_unused(*volumes.values())
    host.expect_nothing_left(*volumes.values())
    assert sums[0] == sums[1]
    assert len(set(sums[0].values())) == len(volumes)
    for stored in volumes.values():
        assert (MARK.encode() in stored.content()) == (not stored.connection.encryption_data)


@pytest.mark.parametrize("kind", ["ceph", "nbd-address", "iscsi", "block"])
def test_ten_volumes_of_one_backend_come_and_go_at_once(host: Host, kind: str) -> None:
    sizes = {f"od{chr(ord('a') + number)}": (number + 1) * MIB for number in range(TEN)}
    volumes = {device: host.storage.make(kind, size) for device, size in sizes.items()}
    machine = host.guest(volumes)
    cold = machine.wait_disks(sizes)
    for device in volumes:
        machine.detach(device)
    machine.wait_disks({})
    host.expect_unused(*volumes.values())
    for device, stored in volumes.items():
        machine.attach(device, stored)
    hot = machine.wait_disks(sizes)
    assert all(SERIAL.fullmatch(disk.serial) for disk in (*cold.values(), *hot.values()))
    assert sum(stored.users() for stored in volumes.values()) == TEN
    host.delete(machine)
    host.expect_nothing_left(*volumes.values())


@pytest.mark.parametrize("kind", ["ceph", "file-raw", "file-luks", "block"])
def test_a_volume_that_grows_is_seen_by_its_guest(host: Host, guests: tuple[Guest, Guest], kind: str) -> None:
    stored, device, (first, second) = host.storage.make(kind, SIZE), "odx", guests
    assert stored.grow is not None
    first.attach(device, stored)
    small = first.wait_disks({device: SIZE})[device]
    written = first.write(small, f"small-{kind}")
    assert first.rescan(device) == ("same", SIZE)
    stored.grow(SIZE)
    assert first.rescan(device) == ("grown", 2 * SIZE)
    large = first.wait_disks({device: 2 * SIZE})[device]
    assert first.sum(small, f"kept-{kind}") == written
    filled = first.write(large, f"large-{kind}")
    first.detach(device)
    first.wait_disks({})
    second.attach(device, stored)
    assert second.sum(second.wait_disks({device: 2 * SIZE})[device], f"read-{kind}") == filled
    second.detach(device)
    second.wait_disks({})
    host.expect_nothing_left(stored)


def test_a_volume_that_cannot_grow_in_use_does_at_the_next_start(host: Host) -> None:
    stored, device = host.storage.make("ceph-luks", SIZE), "oda"
    assert stored.grow is not None
    machine = host.guest({device: stored})
    small = machine.wait_disks({device: SIZE})[device]
    written = machine.write(small, "small")
    stored.grow(SIZE)
    outcome, size = machine.rescan(device)
    # Ceph 18 lets who has the image open do it, who takes the size for that of what it decrypts: the header is added.
    assert (outcome, size) in [("grows-at-start", 2 * SIZE), ("grows-at-start", 2 * SIZE + luks.OFFSET[2])]
    assert machine.sum(small, "as-before") == written
    machine.power_cycle()
    (large,) = machine.disks().values()
    assert (large.name, large.size) == (small.name, size)
    assert machine.sum(small, "kept") == written
    assert machine.write(large, "large") == machine.sum(large, "read")
    host.delete(machine)
    host.expect_nothing_left(stored)
