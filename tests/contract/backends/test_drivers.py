"""Every driver on a real backend, from the message to what QEMU may be given, by the real probe."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from sri_libvirt import names
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DiskSource, Encryption, SecretPurpose
from sri_libvirt.errors import NotReady
from sri_libvirt.paths import MachinePaths
from sri_libvirt.volumes.base import Found
from sri_libvirt.volumes.probe import probe
from sri_libvirt.volumes.registry import HostAccess, VolumeRegistry
from tests.backends import luks
from tests.backends.ceph import Ceph
from tests.backends.iscsi import Targets
from tests.backends.loop import LoopDevice
from tests.backends.nbd import NbdServer
from tests.connected import MACHINE, volume

SIZE = 1 << 20
PASSPHRASE = "a pass phrase \N{SNOWMAN}\n".encode()
BYTES = b"\xff\0\n"
"""A passphrase that librbd alone can be given."""

INITIATOR = names.initiator("a test's store")


class AskedAtOnce:
    """Asks a backend as the probing does, and waits for it."""

    def ready(
        self,
        waiter: str,
        key: Hashable,
        source: DiskSource,
        secrets: Mapping[SecretPurpose, bytes],
        *,
        plugged: bool = False,
        since: int = 0,
    ) -> Found:
        return probe(source, secrets, deadline=60)

    def busy_until(self, key: Hashable) -> int | None:
        return None

    def size_of(self, key: Hashable) -> int:
        return 0

    def forget(self, key: Hashable) -> None: ...


@dataclass
class Bench:
    """Backends, and the drivers of a host that may use them."""

    root: Path
    ceph: Ceph
    targets: Targets
    stack: ExitStack

    def file(self, name: str, passphrase: bytes) -> Path:
        path = self.root / f"{name}.raw"
        if passphrase:
            luks.make(path, SIZE, passphrase, 1)
        else:
            path.touch()
            os.truncate(path, SIZE)
        return path

    def prepare(self, asked: pb.Volume) -> DiskSource:
        access = HostAccess(
            file_dirs=(self.root,),
            socket_dirs=(self.root,),
            block_devices=("/dev/loop*",),
            ceph_conf=self.ceph.client_settings,
            initiator=INITIATOR,
            asking=AskedAtOnce(),
        )
        driver = VolumeRegistry.load([], access).select(asked)
        driver.validate(asked)
        return driver.prepare(MACHINE, asked, MachinePaths(self.root / "machine"))


@pytest.fixture
def bench(tmp_path: Path, ceph: Ceph, targets: Targets) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(tmp_path, ceph, targets, stack)


def of_ceph(bench: Bench, name: str, passphrase: bytes) -> pb.Volume:
    make = bench.ceph.luks_image(name, SIZE, passphrase, 2) if passphrase else bench.ceph.image(name, SIZE)
    secrets = {"userID": b"guest", "userKey": base64.b64encode(bench.ceph.key()) + b"\n"}
    return volume("ceph", {"monitors": bench.ceph.monitors, "image": make}, secrets)


def of_nbd(bench: Bench, name: str, passphrase: bytes) -> pb.Volume:
    server = bench.stack.enter_context(NbdServer(bench.file(name, passphrase), "an export, by name"))
    return volume("nbd", {"address": f"{server.host}:{server.port}", "export": "an export, by name"})


def of_nbd_socket(bench: Bench, name: str, passphrase: bytes) -> pb.Volume:
    server = NbdServer(bench.file(name, passphrase), "", socket=bench.root / "s")
    bench.stack.enter_context(server)
    return volume("nbd", {"socket": str(server.socket)})


def of_iscsi(bench: Bench, name: str, passphrase: bytes) -> pb.Volume:
    """A target that lets this host in alone, with CHAP."""
    user, password = f"iqn.2024-01.test:{name}", "fourteen chars"
    target = bench.targets.target(
        name, [bench.file(name, passphrase)], user=user, password=password, initiator=INITIATOR
    )
    attributes = {"portal": bench.targets.portal, "target": target, "lun": "1"}
    return volume("iscsi", attributes, {"username": user.encode(), "password": password.encode()})


def of_file(bench: Bench, name: str, passphrase: bytes) -> pb.Volume:
    return volume("file", {"path": str(bench.file(name, passphrase)), "format": "raw"})


def of_block(bench: Bench, name: str, passphrase: bytes) -> pb.Volume:
    device = bench.stack.enter_context(LoopDevice(bench.file(name, passphrase)))
    return volume("block", {"path": str(device.path)})


Make = Callable[[Bench, str, bytes], pb.Volume]
MAKERS: dict[str, Make] = {
    "ceph": of_ceph, "nbd": of_nbd, "nbd-socket": of_nbd_socket, "iscsi": of_iscsi, "file": of_file, "block": of_block,
}  # fmt: skip


@pytest.mark.parametrize("kind", MAKERS)
def test_a_plain_one(kind: str, bench: Bench) -> None:
    found = bench.prepare(MAKERS[kind](bench, f"plain-{kind}", b""))
    assert (found.size, found.encryption) == (SIZE, None)


@pytest.mark.parametrize("kind", MAKERS)
def test_an_encrypted_one_and_its_key_to_the_byte(kind: str, bench: Bench) -> None:
    asked = MAKERS[kind](bench, f"luks-{kind}", PASSPHRASE)
    asked.connection.encryption_data["encryptionKey"] = PASSPHRASE
    found = bench.prepare(asked)
    expected = Encryption("librbd", "luks2") if kind == "ceph" else Encryption("qemu", "luks")
    assert (found.size, found.encryption) == (SIZE, expected)
    asked.connection.encryption_data["encryptionKey"] = PASSPHRASE.rstrip()
    with pytest.raises(NotReady) as caught:
        bench.prepare(asked)
    assert caught.value.code == "volume-refused"


def test_librbd_takes_a_passphrase_of_any_bytes(bench: Bench) -> None:
    asked = of_ceph(bench, "bytes", BYTES)
    asked.connection.encryption_data["encryptionKey"] = BYTES
    assert bench.prepare(asked).size == SIZE


@pytest.mark.parametrize("kind", MAKERS)
def test_one_that_is_not_encrypted_is_never_made_so(kind: str, bench: Bench) -> None:
    asked = MAKERS[kind](bench, f"bare-{kind}", b"")
    asked.connection.encryption_data["encryptionKey"] = PASSPHRASE
    with pytest.raises(NotReady) as caught:
        bench.prepare(asked)
    assert caught.value.code == "volume-refused"
    del asked.connection.encryption_data["encryptionKey"]
    assert bench.prepare(asked).size == SIZE


def test_a_target_that_does_not_let_this_host_in_is_told_of_with_its_name(bench: Bench) -> None:
    asked = of_iscsi(bench, "own", b"")
    asked.connection.attributes["initiator"] = "iqn.2024-01.test:somebody-else"
    with pytest.raises(NotReady) as caught:
        bench.prepare(asked)
    assert "The target sees the initiator iqn.2024-01.test:somebody-else." in caught.value.advice


def test_a_device_is_the_same_by_all_its_names(bench: Bench, request: pytest.FixtureRequest) -> None:
    made = []
    for name in ("one", "two"):
        asked = of_block(bench, name, b"")
        device = Path(asked.connection.attributes["path"])
        other = Path(f"/dev/loop-{secrets.token_hex(4)}")
        other.symlink_to(device)
        request.addfinalizer(other.unlink)
        made.append(bench.prepare(asked).identity)
        asked.connection.attributes["path"] = str(other)
        assert bench.prepare(asked).identity == made[-1]
    assert made[0] != made[1]
