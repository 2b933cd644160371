"""The contract of every plugin (`base.py` of volumes, nics and images): the same tests run on each.

A driver that is registered and has no sample here fails `test_every_driver_is_tested`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from sri_libvirt import devices, names
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import BackingFile, DiskSource
from sri_libvirt.errors import InvalidSpec, NotReady
from sri_libvirt.hypervisor.networks import PlannedNetworks
from sri_libvirt.images.registry import ImageAccess, ImageRegistry
from sri_libvirt.images.rules import Rules
from sri_libvirt.images.sources import Sources
from sri_libvirt.nics.base import NicDriver
from sri_libvirt.nics.registry import LinkAccess, NicRegistry
from sri_libvirt.paths import MachinePaths, unfinished
from sri_libvirt.volumes.base import Found, VolumeDriver
from sri_libvirt.volumes.connected import ConnectedVolumes
from sri_libvirt.volumes.registry import HostAccess, VolumeRegistry
from tests.backends import artifacts
from tests.backends.registry import Registry
from tests.backends.webserver import WebServer
from tests.connected import StubAsking, volume
from tests.contract.plugins.conftest import MACHINE
from tests.contract.plugins.loop_device import loop_device
from tests.image_house import House

OTHER = "00000000-8d3c-4f52-9d0a-0d2f3c1f0a02"
SIZE = 64 << 20

VOLUMES = {
    "empty_disk": pb.Volume(name="data", device="oda", empty_disk=pb.EmptyDisk(size_bytes=SIZE)),
    "ceph": volume("ceph", {"monitors": "mon:6789", "image": "pool/image"}, {"userID": b"id", "userKey": b"a2V5IQ=="}),
    "nbd": volume("nbd", {"address": "nbd:10809"}),
    "iscsi": volume(
        "iscsi",
        {"portal": "[::1]", "target": "iqn.2001-04.com.example:a", "lun": "1"},
        {"username": b"who", "password": b"a long password"},
    ),
    "file": volume("file", {"path": "", "format": "raw"}),
    "block": volume("block", {"path": ""}),
}
"""A sample for each driver; the paths are of a file and a device that a fixture makes."""

CONNECTED = [name for name, sample in VOLUMES.items() if sample.HasField("connection")]
KEY = "a passphrase \N{SNOWMAN}\n".encode()
MAPPED = {
    "bridge": "bridge: br0",
    "ovs": "bridge: ovs0",
    "direct": "device: eth1",
    "tap": "device: theirs",
    "user": "allow: [mac]",
}
"""What the network map says for drivers that it alone can choose."""

NICS = {
    "network": pb.NetworkInterface(name="eth", network_id="network://lan", ips=["10.0.0.1"]),
    "isolated": pb.NetworkInterface(name="eth", network_id="isolated"),
    **{name: pb.NetworkInterface(name="eth", network_id=f"mapped://{name}") for name in MAPPED},
}


RAW = b"\xeb\x3c\x90" + b"x" * 4093


def _raw(directory: Path) -> str:
    path = directory / "disk.raw"
    path.write_bytes(RAW)
    path.chmod(0o444)
    return str(path)


IMAGES = ("local", "oci", "web")


MAC = "52:54:00:00:00:01"
NETWORKS = PlannedNetworks()


def files(paths: MachinePaths) -> set[str]:
    return {path.name for path in paths.root.iterdir()}


def test_every_driver_is_tested(images: Path) -> None:
    assert {driver.name for driver in VolumeRegistry.load([]).drivers} == VOLUMES.keys()
    assert {driver.name for driver in NicRegistry.load([]).drivers} == NICS.keys()
    assert {driver.name for driver in ImageRegistry.load(ImageAccess()).drivers} == set(IMAGES)


@pytest.fixture(autouse=True)
def access(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostAccess]:
    """A host whose operator lets volumes name a directory and a device, and whose backends answer at once."""
    directory = tmp_path / "files"
    directory.mkdir()
    disk = directory / "disk.raw"
    disk.touch()
    os.truncate(disk, SIZE)
    monkeypatch.setitem(VOLUMES, "file", volume("file", {"path": str(disk), "format": "raw"}))
    host = HostAccess(file_dirs=(directory,), block_devices=("/dev/loop*",), asking=StubAsking())
    if getattr(request.node, "callspec", None) and request.node.callspec.params.get("name") == "block":
        with loop_device(disk) as device:
            monkeypatch.setitem(VOLUMES, "block", volume("block", {"path": device}))
            yield host
    else:
        yield host


class VolumeContract:
    """What every volume driver keeps to; `VOLUMES[name]` is its sample."""

    access: HostAccess | None = None

    def driver(self, name: str) -> VolumeDriver:
        return VolumeRegistry.load([], self.access).select(VOLUMES[name])

    def test_it_is_the_one(self, name: str) -> None:
        assert self.driver(name).name == name

    def test_the_message_is_only_looked_at(self, name: str, paths: MachinePaths) -> None:
        volume = pb.Volume.FromString(VOLUMES[name].SerializeToString())
        driver = self.driver(name)
        driver.validate(volume)
        driver.handle(MACHINE, volume)
        assert files(paths) == set()
        driver.prepare(MACHINE, volume, paths)
        driver.release(MACHINE, volume, paths, final=True)
        assert volume == VOLUMES[name]

    def test_the_handle_is_known_beforehand_and_stays(self, name: str, paths: MachinePaths) -> None:
        handle = self.driver(name).handle(MACHINE, VOLUMES[name])
        assert handle
        assert handle == self.driver(name).prepare(MACHINE, VOLUMES[name], paths).handle
        assert handle == self.driver(name).handle(MACHINE, VOLUMES[name])

    def test_prepare_again_is_the_same(self, name: str, paths: MachinePaths) -> None:
        source = self.driver(name).prepare(MACHINE, VOLUMES[name], paths)
        before = {path: path.read_bytes() for path in paths.root.iterdir()}
        assert self.driver(name).prepare(MACHINE, VOLUMES[name], paths) == source
        assert {path: path.read_bytes() for path in paths.root.iterdir()} == before

    def test_the_source_can_be_stored(self, name: str, paths: MachinePaths) -> None:
        source = self.driver(name).prepare(MACHINE, VOLUMES[name], paths)
        assert devices.from_json(devices.to_json(source)) == source

    def test_the_source_can_be_opened(self, name: str, paths: MachinePaths) -> None:
        source = self.driver(name).prepare(MACHINE, VOLUMES[name], paths)
        assert source.size > 0
        assert source.source
        if source.kind == "network":
            assert source.protocol
            assert all(str(host) in source.source for host in source.hosts)
            return
        assert source.path == source.source
        assert source.kind == "block" or source.path.endswith((".qcow2", ".raw"))
        os.close(os.open(source.path, os.O_RDONLY))

    def test_its_secrets_are_named_and_never_told(self, name: str, paths: MachinePaths) -> None:
        driver, volume = self.driver(name), VOLUMES[name]
        source = driver.prepare(MACHINE, volume, paths)
        values: dict[str, bytes] = driver.secrets(volume) if hasattr(driver, "secrets") else {}
        assert {each.purpose for each in source.secrets} == values.keys()
        assert all(values.values())
        for each in source.secrets:
            assert each.uuid == names.secret_uuid(MACHINE, volume.name, each.purpose)
        told = devices.to_json(source) + repr(source) + driver.handle(MACHINE, volume) + repr(driver)
        assert [value for value in values.values() if value in told.encode()] == []

    def test_release_is_idempotent_and_needs_no_prepare(self, name: str, paths: MachinePaths) -> None:
        driver = self.driver(name)
        driver.release(MACHINE, VOLUMES[name], paths, final=True)
        driver.prepare(MACHINE, VOLUMES[name], paths)
        for final in (False, False, True, True):
            driver.release(MACHINE, VOLUMES[name], paths, final=final)
        assert files(paths) == set()

    def test_prepare_after_release(self, name: str, paths: MachinePaths) -> None:
        driver = self.driver(name)
        source = driver.prepare(MACHINE, VOLUMES[name], paths)
        driver.release(MACHINE, VOLUMES[name], paths, final=False)
        assert driver.prepare(MACHINE, VOLUMES[name], paths) == source

    def test_an_interrupted_prepare_is_made_good(self, name: str, paths: MachinePaths) -> None:
        driver = self.driver(name)
        source = driver.prepare(MACHINE, VOLUMES[name], paths)
        driver.release(MACHINE, VOLUMES[name], paths, final=True)
        if not Path(source.path).is_relative_to(paths.root):
            assert files(paths) == set()
            return  # nothing is made of it
        disk = Path(source.path)
        unfinished(disk).write_bytes(b"half")
        assert driver.prepare(MACHINE, VOLUMES[name], paths) == source
        assert files(paths) <= {disk.name}


@pytest.mark.parametrize("name", VOLUMES)
class TestVolumes(VolumeContract):
    @pytest.fixture(autouse=True)
    def on_a_host(self, access: HostAccess) -> None:
        self.access = access


@pytest.mark.parametrize("name", CONNECTED)
class TestConnectedVolumes:
    """What the drivers of storage that others keep have in common."""

    @pytest.fixture
    def driver(self, name: str, access: HostAccess) -> ConnectedVolumes:
        driver = VolumeRegistry.load([], access).select(VOLUMES[name])
        assert isinstance(driver, ConnectedVolumes)
        return driver

    def sample(self, name: str) -> pb.Volume:
        return pb.Volume.FromString(VOLUMES[name].SerializeToString())

    def with_key(self, name: str, key: bytes = KEY) -> pb.Volume:
        found = self.sample(name)
        found.connection.encryption_data["encryptionKey"] = key
        return found

    def test_the_handle_is_the_drivers_and_the_connections(self, name: str, driver: ConnectedVolumes) -> None:
        assert driver.handle(MACHINE, self.sample(name)) == f"{name}/4711" == driver.handle(OTHER, self.sample(name))

    def test_a_handle_is_needed(self, name: str, driver: ConnectedVolumes) -> None:
        nameless = self.sample(name)
        nameless.connection.handle = ""
        with pytest.raises(InvalidSpec, match=r"^connection\.handle: "):
            driver.validate(nameless)

    def test_what_is_needed_is_named_when_it_is_not_there(self, name: str, driver: ConnectedVolumes) -> None:
        for part in ("attributes", "secret_data"):
            for key in getattr(self.sample(name).connection, part):
                for lacking in (self.sample(name), self.with_key(name)):
                    del getattr(lacking.connection, part)[key]
                    with pytest.raises(InvalidSpec) as caught:
                        driver.validate(lacking)
                    assert caught.value.field == f'connection.{part}["{key}"]'

    def test_unknown_attributes_and_secrets_are_ignored(self, name: str, driver: ConnectedVolumes) -> None:
        more = self.sample(name)
        more.connection.attributes.update({"rawVolumeLabels": "{}\n", "": ""})
        more.connection.secret_data.update({"more": b"\xff"})
        driver.validate(more)
        assert driver.source(MACHINE, more) == driver.source(MACHINE, self.sample(name))

    def test_encryption_needs_its_key(self, name: str, driver: ConnectedVolumes) -> None:
        keyless = self.sample(name)
        keyless.connection.encryption_data["other"] = b"x"
        for wrong in (keyless, self.with_key(name, b"")):
            with pytest.raises(InvalidSpec, match=r'^connection\.encryption_data\["encryptionKey"\]: must be set'):
                driver.validate(wrong)

    def test_secrets_are_referred_to_and_stand_nowhere(
        self, name: str, driver: ConnectedVolumes, paths: MachinePaths
    ) -> None:
        asked = self.with_key(name)
        driver.validate(asked)
        secrets = driver.secrets(asked)
        assert secrets["encryption"] == KEY
        prepared = driver.prepare(MACHINE, asked, paths)
        assert [each.purpose for each in prepared.secrets] == sorted(secrets)
        assert prepared.encryption is not None
        shown = f"{prepared!r} {devices.to_json(prepared)} {prepared.source} {driver!r} {vars(driver)!r}"
        for value in (*secrets.values(), *asked.connection.secret_data.values()):
            if value != prepared.user.encode():
                assert value.decode() not in shown
                assert repr(value)[2:-1] not in shown

    def test_the_source_is_known_but_for_what_only_its_backend_knows(
        self, name: str, driver: ConnectedVolumes, paths: MachinePaths
    ) -> None:
        for asked in (self.sample(name), self.with_key(name)):
            planned = driver.source(MACHINE, asked)
            assert planned.size == 0
            made = driver.prepare(MACHINE, asked, paths)
            assert replace(planned, size=SIZE, device=made.device) == made

    def test_it_waits_until_its_backend_answers(
        self, name: str, driver: ConnectedVolumes, access: HostAccess, paths: MachinePaths
    ) -> None:
        asking = access.asking
        assert isinstance(asking, StubAsking)
        asking.answer = NotReady("it does not answer", "Wait.", "backend-silent")
        with pytest.raises(NotReady, match="it does not answer"):
            driver.prepare(MACHINE, self.sample(name), paths)
        asking.answer = Found(SIZE)
        assert driver.prepare(MACHINE, self.sample(name), paths).size == SIZE
        (key,) = {each[1] for each in asking.asked}
        driver.release(MACHINE, self.sample(name), paths, final=False)
        assert asking.forgotten == [key]

    def test_without_who_asks_it_is_only_planned(self, name: str, paths: MachinePaths) -> None:
        driver = VolumeRegistry.load([]).select(VOLUMES[name])
        assert isinstance(driver, ConnectedVolumes)
        assert driver.source(MACHINE, self.sample(name)).handle == driver.handle(MACHINE, self.sample(name))
        with pytest.raises(NotReady, match="only plans"):
            driver.prepare(MACHINE, self.sample(name), paths)


class NicContract:
    """What every NIC driver keeps to; `NICS[name]` is its sample."""

    def driver(self, name: str) -> NicDriver:
        raise NotImplementedError

    def test_it_is_the_one(self, name: str) -> None:
        assert self.driver(name).name == name

    def test_the_message_is_only_looked_at(self, name: str) -> None:
        nic = pb.NetworkInterface.FromString(NICS[name].SerializeToString())
        driver = self.driver(name)
        driver.validate(nic)
        driver.prepare(MACHINE, nic, MAC, NETWORKS)
        driver.release(MACHINE, nic, MAC, NETWORKS)
        assert nic == NICS[name]

    def test_the_handle_is_unique_known_beforehand_and_stays(self, name: str) -> None:
        driver, nic = self.driver(name), NICS[name]
        other = pb.NetworkInterface(name="other", network_id=nic.network_id)
        handles = [driver.handle(MACHINE, nic), driver.handle(OTHER, nic), driver.handle(MACHINE, other)]
        assert all(handles)
        assert len(set(handles)) == 3
        assert handles[0] == driver.prepare(MACHINE, nic, MAC, NETWORKS).handle == driver.handle(MACHINE, nic)

    def test_prepare_again_is_the_same_and_can_be_stored(self, name: str) -> None:
        backend = self.driver(name).prepare(MACHINE, NICS[name], MAC, NETWORKS)
        assert backend == self.driver(name).prepare(MACHINE, NICS[name], MAC, NETWORKS)
        assert devices.from_json(devices.to_json(backend)) == backend
        assert [backend.network, backend.device, backend.bridge].count("") == (3 if name == "user" else 2)
        assert bool(backend.source) == (name != "user")

    def test_release_is_idempotent_and_needs_no_prepare(self, name: str) -> None:
        driver = self.driver(name)
        driver.release(MACHINE, NICS[name], MAC, NETWORKS)
        first = driver.prepare(MACHINE, NICS[name], MAC, NETWORKS)
        driver.release(MACHINE, NICS[name], MAC, NETWORKS)
        driver.release(MACHINE, NICS[name], MAC, NETWORKS)
        assert driver.prepare(MACHINE, NICS[name], MAC, NETWORKS) == first


@pytest.mark.parametrize("name", NICS)
class TestNics(NicContract):
    @pytest.fixture(autouse=True)
    def on_a_host(self, tmp_path: Path) -> None:
        """With all that the map leads to."""
        net = tmp_path / "sys/class/net"
        for each in ("br0/bridge", "ovs0", "eth1", "theirs"):
            (net / each).mkdir(parents=True)
        (net / "theirs/tun_flags").write_text("0x1002\n")
        entries = (f"{{network_id: 'mapped://{name}', driver: {name}, {words}}}" for name, words in MAPPED.items())
        (tmp_path / "networks.yaml").write_text(f"networks: [{', '.join(entries)}]")
        self.access = LinkAccess(map=tmp_path / "networks.yaml", sysfs=tmp_path / "sys", user_net=True)

    def driver(self, name: str) -> NicDriver:
        return NicRegistry.load([], self.access).select(NICS[name])


class Images:
    """A reference that a driver is for, in a house where it is to be had."""

    def __init__(self, house: House, reference: str) -> None:
        self.house = house
        self.reference = reference
        self.driver = house.images.select(reference)
        self.pin = house.resolve(reference)

    def prepare(self, paths: MachinePaths, made: DiskSource | None = None) -> DiskSource:
        return self.house.prepare(self.reference, paths, SIZE, made, self.pin)


@pytest.fixture
def image(name: str, images: Path, tmp_path: Path) -> Iterator[Images]:
    with ExitStack() as stack:
        rules = Rules()
        reference = _raw(images)
        if name == "oci":
            (tmp_path / "registry").mkdir()
            registry = stack.enter_context(Registry(tmp_path / "registry"))
            artifacts.ironcore(registry, "org/image", "v1", parts={"rootfs": RAW})
            rules, reference = Rules(insecure=(registry.host,)), f"{registry.host}/org/image:v1"
        elif name == "web":
            server = stack.enter_context(WebServer({"/disk.raw": RAW}))
            rules = Rules(Sources((f"{server.url}/*",)), insecure=(server.host,))
            reference = f"{server.url}/disk.raw"
        house = stack.enter_context(House(tmp_path / "state", rules, directories=[images]))
        yield Images(house, reference)


@pytest.mark.parametrize("name", IMAGES)
class TestImages:
    def test_it_is_the_one(self, name: str, image: Images) -> None:
        assert image.driver.name == name

    def test_it_is_resolved_once_and_then_says_it_by_its_content(self, image: Images) -> None:
        if image.pin is None:
            return  # a path says it all
        assert re.search("[@#]sha256[:=][0-9a-f]{64}$", image.pin.reference)
        assert image.house.resolve(image.pin.reference) == image.pin
        assert devices.pin_from_json(devices.pin_to_json(image.pin)) == image.pin

    def test_prepare_again_is_the_same(self, image: Images, paths: MachinePaths) -> None:
        made = image.prepare(paths)
        before = paths.image_disk.read_bytes()
        assert image.prepare(paths, made) == made
        # ... also when the answer was lost before it was stored
        assert image.prepare(paths) == made
        assert paths.image_disk.read_bytes() == before
        assert files(paths) == {"image.qcow2", ".image.qcow2.base"}

    def test_it_is_an_overlay_of_the_size_asked_for(self, image: Images, paths: MachinePaths) -> None:
        made = image.prepare(paths)
        assert made.size == SIZE
        assert isinstance(made.backing, BackingFile)
        assert Path(made.backing.path).read_bytes() == RAW
        assert not made.read_only
        assert Path(made.path).stat().st_blocks * 512 < 1 << 20
        assert devices.from_json(devices.to_json(made)) == made

    def test_the_base_is_for_everybody_and_not_touched(self, image: Images, paths: MachinePaths) -> None:
        made = image.prepare(paths)
        assert made.backing is not None
        before = Path(made.backing.path).stat()
        assert before.st_mode & 0o777 == 0o444
        image.prepare(paths, made)
        paths.image_disk.unlink()
        after = Path(made.backing.path).stat()
        assert (after.st_mode, after.st_mtime_ns, after.st_size) == (
            before.st_mode,
            before.st_mtime_ns,
            before.st_size,
        )

    def test_a_base_that_is_larger_than_the_disk_is_refused(self, image: Images, paths: MachinePaths) -> None:
        base = image.house.base(image.reference, image.pin)
        with pytest.raises(NotReady, match="more than the class's root disk") as caught:
            image.house.overlays.prepare(base, image.reference, paths.image_disk, 2048, None)
        assert caught.value.advice
        assert files(paths) == set()

    def test_an_interrupted_prepare_is_made_good(self, image: Images, paths: MachinePaths) -> None:
        disk = paths.image_disk
        unfinished(disk).write_bytes(b"half")
        image.prepare(paths)
        assert files(paths) == {"image.qcow2", ".image.qcow2.base"}
