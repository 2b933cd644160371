"""What can be wrong with a volume and its backend, made so on real backends, and what a user is told of it.

How a backend is asked does not belong here.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from sri_libvirt.devices import DiskHost, DiskSource, Encryption, SecretPurpose
from tests.backends import luks
from tests.backends.ceph import POOL, Ceph
from tests.backends.daemon import loopback, run
from tests.backends.iscsi import Targets
from tests.backends.loop import LoopDevice
from tests.backends.nbd import NbdServer, certificates

MIB = 1 << 20
PASSPHRASE = b"open, sesame"
CHAP = "secret-of-twelve"
QEMU_LUKS = Encryption("qemu", "luks")
LIBRBD_LUKS = Encryption("librbd", "luks")
PATIENCE = 1.0
"""Seconds for what never answers; what says so by itself has ten."""


@dataclass(frozen=True)
class Volume:
    """What is asked for. `seconds` is how long that may take; `content` reads what must stay as it is."""

    source: DiskSource
    secrets: Mapping[SecretPurpose, bytes] = field(default_factory=dict)
    seconds: float = 10.0
    content: Callable[[], bytes] = bytes


@dataclass(frozen=True)
class Backends:
    """All kinds of them; files of a test are made below `root`."""

    ceph: Ceph
    targets: Targets
    root: Path

    @property
    def pki(self) -> Path:
        """Where the host looks for certificates."""
        return self.root / "pki"

    def rbd(self, image: str, **changes: object) -> DiskSource:
        source = DiskSource("ceph/1", "", "raw", 0, kind="network", protocol="rbd", name=image, user="guest")
        settings = str(self.ceph.client_settings)
        hosts = (DiskHost(self.ceph.address, 6789),)
        return replace(replace(source, hosts=hosts, config=settings), **changes)  # type: ignore[arg-type]

    def ceph_volume(self, image: str, **changes: object) -> Volume:
        """By the key of its user."""
        source = self.rbd(image, **changes)
        known = source.user in ("guest", "stranger")
        return Volume(source, {"auth": self.ceph.key(source.user if known else "guest")})

    def new_image(self) -> str:
        return self.ceph.image(new_name(), 4 * MIB)

    def luks_image(self, version: luks.LuksVersion) -> str:
        return self.ceph.luks_image(new_name(), 4 * MIB, PASSPHRASE, version)

    def encrypted_image(self, image: str, passphrase: bytes = PASSPHRASE) -> Volume:
        """An image that shall be encrypted."""
        volume = replace(self.ceph_volume(image), content=lambda: self.ceph.read(image))
        return encrypted(volume, LIBRBD_LUKS, passphrase)

    def file(self, size: int = MIB) -> Path:
        """A raw file that is not empty."""
        path = self.root / f"{new_name()}.raw"
        path.write_bytes(b"\xa5" * size)
        return path

    def luks_file(self, version: luks.LuksVersion = 1) -> Path:
        path = self.root / f"{new_name()}.luks"
        luks.make(path, MIB, PASSPHRASE, version)
        return path

    def iscsi(self, target: str, lun: int = 1, **changes: object) -> DiskSource:
        source = DiskSource("iscsi/1", "", "raw", 0, kind="network", protocol="iscsi", name=f"{target}/{lun}")
        hosts = (DiskHost(self.targets.address, int(self.targets.portal.rpartition(":")[2])),)
        return replace(replace(source, hosts=hosts, initiator="iqn.2024-01.test:host"), **changes)  # type: ignore[arg-type]


def new_name() -> str:
    return f"n{secrets.token_hex(4)}"


def nbd(server: NbdServer, export: str = "export", **changes: object) -> DiskSource:
    """What a server exports."""
    host = DiskHost(socket=str(server.socket)) if server.socket else DiskHost(server.host, server.port)
    source = DiskSource("nbd/1", "", "raw", 0, kind="network", protocol="nbd", name=export, hosts=(host,))
    return replace(source, **changes)  # type: ignore[arg-type]


def local(path: Path, **changes: object) -> DiskSource:
    """A file of this host."""
    return replace(DiskSource("file/1", str(path), "raw", 0), **changes)  # type: ignore[arg-type]


def encrypted(volume: Volume, encryption: Encryption, passphrase: bytes = PASSPHRASE) -> Volume:
    """The same, its passphrase given."""
    source = replace(volume.source, encryption=encryption)
    return replace(volume, source=source, secrets={**volume.secrets, "encryption": passphrase})


Make = Callable[[Backends], Iterator[Volume]]


@dataclass(frozen=True)
class Fault:
    """`made` is a volume with it; `code` and `problem` are what a user is told, the source's fields in braces."""

    made: Callable[[Backends], AbstractContextManager[Volume]]
    code: str
    problem: str

    def told(self, source: DiskSource) -> str:
        """How the message begins."""
        target, _, lun = source.name.rpartition("/")
        return self.problem.format(
            name=source.name,
            path=source.path,
            hosts=", ".join(map(str, source.hosts)),
            target=target,
            what=f"LUN {lun} of the iSCSI target {target}",
        )


FAULTS: dict[str, Fault] = {}

_SILENT, _REFUSED = "backend-silent", "volume-refused"


def _fault(code: str, problem: str) -> Callable[[Make], Make]:
    def register(make: Make) -> Make:
        FAULTS[make.__name__] = Fault(contextmanager(make), code, problem)
        return make

    return register


# Ceph.


@_fault(_SILENT, "no answer from the Ceph monitors {hosts}")
def ceph_monitors_dead(b: Backends) -> Iterator[Volume]:
    yield b.ceph_volume(f"{POOL}/a", hosts=(DiskHost(loopback(), 6789), DiskHost(loopback(), 3300)))


@_fault(_SILENT, "no answer from the Ceph monitors {hosts}")
def ceph_monitor_frozen(b: Backends) -> Iterator[Volume]:
    volume = b.ceph_volume(b.new_image())
    b.ceph.monitor.freeze()
    try:
        yield volume
    finally:
        b.ceph.monitor.thaw()


@_fault(_SILENT, "no answer from the Ceph monitors {hosts} within 1 s")
def ceph_osd_frozen(b: Backends) -> Iterator[Volume]:
    volume = b.ceph_volume(b.new_image())
    b.ceph.osd.freeze()
    try:
        yield replace(volume, seconds=PATIENCE)
    finally:
        b.ceph.osd.thaw()


@_fault(_SILENT, "a name among the Ceph monitors {hosts} cannot be resolved")
def ceph_monitor_of_no_known_name(b: Backends) -> Iterator[Volume]:
    yield b.ceph_volume(f"{POOL}/a", hosts=(DiskHost("monitor.invalid", 6789),))


@_fault(_REFUSED, "Ceph does not let in the user guest with the key that is given")
def ceph_wrong_key(b: Backends) -> Iterator[Volume]:
    yield replace(b.ceph_volume(b.new_image()), secrets={"auth": b.ceph.key("admin")})


@_fault(_REFUSED, "the key that is given for the Ceph user guest is none")
def ceph_key_that_is_none(b: Backends) -> Iterator[Volume]:
    yield replace(b.ceph_volume(b.new_image()), secrets={"auth": b"these bytes are no key"})


@_fault(_REFUSED, "Ceph does not let in the user nobody with the key that is given")
def ceph_unknown_user(b: Backends) -> Iterator[Volume]:
    yield b.ceph_volume(b.new_image(), user="nobody")


@_fault(_REFUSED, "the Ceph user stranger may not open the Ceph image {name}")
def ceph_user_without_rights(b: Backends) -> Iterator[Volume]:
    yield b.ceph_volume(b.new_image(), user="stranger")


@_fault(_REFUSED, "the pool of the Ceph image {name} does not exist")
def ceph_no_pool(b: Backends) -> Iterator[Volume]:
    yield b.ceph_volume("nowhere/image")


@_fault(_REFUSED, "the Ceph image {name} does not exist")
def ceph_no_image(b: Backends) -> Iterator[Volume]:
    yield b.ceph_volume(f"{POOL}/{new_name()}")


@_fault(_REFUSED, "the Ceph settings /nonexistent.conf cannot be read")
def ceph_no_settings(b: Backends) -> Iterator[Volume]:
    yield b.ceph_volume(b.new_image(), config="/nonexistent.conf")


@_fault(_REFUSED, "the Ceph image {name} is there and has no bytes")
def ceph_no_bytes(b: Backends) -> Iterator[Volume]:
    yield b.ceph_volume(b.ceph.image(new_name(), 0))


@_fault(_REFUSED, "the Ceph image {name} has no LUKS header, so it is not encrypted")
def ceph_no_luks_header(b: Backends) -> Iterator[Volume]:
    yield b.encrypted_image(b.new_image())


@_fault(_REFUSED, "the encryption key does not open the Ceph image {name}")
def ceph_wrong_passphrase_of_luks_1(b: Backends) -> Iterator[Volume]:
    yield b.encrypted_image(b.luks_image(1), b"wrong")


@_fault(_REFUSED, "the encryption key does not open the Ceph image {name}")
def ceph_wrong_passphrase_of_luks_2(b: Backends) -> Iterator[Volume]:
    yield b.encrypted_image(b.luks_image(2), b"wrong")


# NBD.


@_fault(_SILENT, "no answer from the NBD server {hosts}")
def nbd_server_dead(b: Backends) -> Iterator[Volume]:
    yield Volume(nbd(NbdServer(b.file(), "export")))


@_fault(_SILENT, "no answer from the NBD server {hosts} within 1 s")
def nbd_server_frozen(b: Backends) -> Iterator[Volume]:
    with NbdServer(b.file(), "export") as server:
        server.daemon.freeze()
        yield Volume(nbd(server), seconds=PATIENCE)


@_fault(_SILENT, "the name of the NBD server {hosts} cannot be resolved")
def nbd_server_of_no_known_name(b: Backends) -> Iterator[Volume]:
    yield Volume(nbd(NbdServer(b.file(), "export"), hosts=(DiskHost("server.invalid", 10809),)))


@_fault(_SILENT, "the NBD server {hosts} is not there (yet)")
def nbd_socket_absent(b: Backends) -> Iterator[Volume]:
    yield Volume(nbd(NbdServer(b.file(), "export", socket=b.root / new_name())))


@_fault(_SILENT, "no answer from the NBD server {hosts}")
def nbd_socket_left_behind(b: Backends) -> Iterator[Volume]:
    with NbdServer(b.file(), "export", socket=b.root / new_name()) as server:
        server.daemon.kill()
        yield Volume(nbd(server))


@_fault(_SILENT, "the NBD server {hosts} speaks no NBD, or lets in no more clients: ")
def nbd_server_of_another_kind(b: Backends) -> Iterator[Volume]:
    yield Volume(nbd(NbdServer(b.file(), "export"), hosts=b.rbd("").hosts), seconds=PATIENCE)


@_fault(_REFUSED, "the NBD server {hosts} has no such export (other)")
def nbd_export_absent(b: Backends) -> Iterator[Volume]:
    with NbdServer(b.file(), "export") as server:
        yield Volume(nbd(server, "other"))


@_fault(_REFUSED, "the NBD server {hosts} has no such export (the default)")
def nbd_default_export_absent(b: Backends) -> Iterator[Volume]:
    with NbdServer(b.file(), "export") as server:
        yield Volume(nbd(server, ""))


@_fault(_REFUSED, "the NBD server {hosts} demands TLS")
def nbd_server_demands_tls(b: Backends) -> Iterator[Volume]:
    with NbdServer(b.file(), "export", tls=certificates(b.root / "tls", "127.0.0.1")) as server:
        yield Volume(nbd(server))


@_fault(_REFUSED, "this host has no certificates for NBD by TLS: ")
def nbd_host_without_certificates(b: Backends) -> Iterator[Volume]:
    with NbdServer(b.file(), "export", tls=certificates(b.root / "tls", "localhost")) as server:
        yield Volume(nbd(server, tls=True))


@_fault(_REFUSED, "the NBD server {hosts} does not offer TLS")
def nbd_server_without_tls(b: Backends) -> Iterator[Volume]:
    certificates(b.pki, "localhost")
    with NbdServer(b.file(), "export") as server:
        yield Volume(nbd(server, tls=True))


@_fault(_REFUSED, "the NBD server {hosts} and this host do not accept each other's certificates: ")
def nbd_server_of_another_authority(b: Backends) -> Iterator[Volume]:
    certificates(b.pki, "localhost")
    server = NbdServer(b.file(), "export", tls=b.root / "tls")
    certificates(b.root / "tls", server.host)
    with server:
        yield Volume(nbd(server, tls=True))


@_fault(_REFUSED, "the NBD server {hosts} and this host do not accept each other's certificates: ")
def nbd_server_of_another_name(b: Backends) -> Iterator[Volume]:
    with NbdServer(b.file(), "export", tls=certificates(b.pki, "localhost")) as server:
        yield Volume(nbd(server, tls=True))


@_fault(_REFUSED, "the NBD export export has no LUKS header, so it is not encrypted")
def nbd_no_luks_header(b: Backends) -> Iterator[Volume]:
    file = b.file()
    with NbdServer(file, "export") as server:
        yield encrypted(Volume(nbd(server), content=file.read_bytes), QEMU_LUKS)


# iSCSI.


@_fault(_SILENT, "no answer from the iSCSI portal {hosts}")
def iscsi_portal_dead(b: Backends) -> Iterator[Volume]:
    yield Volume(b.iscsi("iqn.2024-01.test:none", hosts=(DiskHost(loopback(), 3260),)))


@_fault(_SILENT, "no answer from the iSCSI portal {hosts} within 1 s")
def iscsi_portal_frozen(b: Backends) -> Iterator[Volume]:
    target = b.targets.target(new_name(), [b.file()])
    b.targets.daemon.freeze()
    try:
        yield Volume(b.iscsi(target), seconds=PATIENCE)
    finally:
        b.targets.daemon.thaw()


@_fault(_SILENT, "the name of the iSCSI portal {hosts} cannot be resolved")
def iscsi_portal_of_no_known_name(b: Backends) -> Iterator[Volume]:
    yield Volume(b.iscsi("iqn.2024-01.test:none", hosts=(DiskHost("portal.invalid", 3260),)))


@_fault(_REFUSED, "the iSCSI portal {hosts} has no target iqn.2024-01.test:none for this host")
def iscsi_target_absent(b: Backends) -> Iterator[Volume]:
    yield Volume(b.iscsi("iqn.2024-01.test:none"))


@_fault(_REFUSED, "{what} does not exist")
def iscsi_lun_absent(b: Backends) -> Iterator[Volume]:
    yield Volume(b.iscsi(b.targets.target(new_name(), [b.file()]), 7))


@_fault(_REFUSED, "{what} is there and has no bytes")
def iscsi_lun_is_the_controller(b: Backends) -> Iterator[Volume]:
    yield Volume(b.iscsi(b.targets.target(new_name(), [b.file()]), 0))


@_fault(_REFUSED, "the iSCSI portal {hosts} refuses user name and password (CHAP) for {target}")
def iscsi_wrong_password(b: Backends) -> Iterator[Volume]:
    target = b.targets.target(new_name(), [b.file()], user=(user := new_name()), password=CHAP)
    yield Volume(b.iscsi(target, user=user), {"auth": b"wrong-of-twelve!"})


@_fault(_REFUSED, "the iSCSI portal {hosts} refuses user name and password (CHAP) for {target}")
def iscsi_password_missing(b: Backends) -> Iterator[Volume]:
    yield Volume(b.iscsi(b.targets.target(new_name(), [b.file()], user=new_name(), password=CHAP)))


@_fault(_REFUSED, "the iSCSI portal {hosts} has no target {target} for this host")
def iscsi_initiator_refused(b: Backends) -> Iterator[Volume]:
    yield Volume(b.iscsi(b.targets.target(new_name(), [b.file()], initiator="iqn.2024-01.test:other")))


@_fault(_REFUSED, "the encryption key does not open {what}")
def iscsi_wrong_passphrase(b: Backends) -> Iterator[Volume]:
    file = b.luks_file()
    volume = Volume(b.iscsi(b.targets.target(new_name(), [file])), content=file.read_bytes)
    yield encrypted(volume, QEMU_LUKS, b"wrong")


# Files and block devices.


@_fault(_REFUSED, "the file {path} is not there (yet)")
def file_absent(b: Backends) -> Iterator[Volume]:
    yield Volume(local(b.root / "absent.raw"))


@_fault(_REFUSED, "the file {path} is no regular file")
def file_is_a_directory(b: Backends) -> Iterator[Volume]:
    yield Volume(local(b.root))


@_fault(_REFUSED, "the file {path} is there and has no bytes")
def file_empty(b: Backends) -> Iterator[Volume]:
    yield Volume(local(b.file(0)))


@_fault(_REFUSED, "the file {path} is not qcow2, which its volume says it is")
def file_not_qcow2(b: Backends) -> Iterator[Volume]:
    file = b.file()
    yield Volume(local(file, format="qcow2"), content=file.read_bytes)


@_fault(_REFUSED, "the file {path} has a backing file, which is not followed")
def file_with_a_backing_file(b: Backends) -> Iterator[Volume]:
    file = b.root / f"{new_name()}.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", b.file(), "-F", "raw", file])
    yield Volume(local(file, format="qcow2"), content=file.read_bytes)


@_fault(_REFUSED, "the file {path} has an external data file, which is not followed")
def file_with_an_external_data_file(b: Backends) -> Iterator[Volume]:
    file = b.root / f"{new_name()}.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={b.root}/{new_name()}", file, "1M"])
    yield Volume(local(file, format="qcow2"), content=file.read_bytes)


@_fault(_REFUSED, "the file {path} is encrypted by qcow2's own means")
def file_encrypted_by_qcow2(b: Backends) -> Iterator[Volume]:
    file = b.root / f"{new_name()}.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", file, "1M"])
    with file.open("r+b") as header:
        header.seek(32)  # crypt_method
        header.write(b"\0\0\0\1")
    yield Volume(local(file, format="qcow2"), content=file.read_bytes)


@_fault(_REFUSED, "the file {path} has no LUKS header, so it is not encrypted")
def file_no_luks_header(b: Backends) -> Iterator[Volume]:
    file = b.file()
    yield encrypted(Volume(local(file), content=file.read_bytes), QEMU_LUKS)


@_fault(_REFUSED, "the file {path} has no LUKS header, so it is not encrypted")
def file_shorter_than_a_luks_header(b: Backends) -> Iterator[Volume]:
    file = b.file(512)
    yield encrypted(Volume(local(file), content=file.read_bytes), QEMU_LUKS)


@_fault(_REFUSED, "the file {path} has a LUKS header of version 2, and QEMU opens version 1 alone")
def file_with_luks_2(b: Backends) -> Iterator[Volume]:
    file = b.luks_file(2)
    yield encrypted(Volume(local(file), content=file.read_bytes), QEMU_LUKS)


@_fault(_REFUSED, "the encryption key does not open the file {path}")
def file_wrong_passphrase(b: Backends) -> Iterator[Volume]:
    file = b.luks_file()
    yield encrypted(Volume(local(file), content=file.read_bytes), QEMU_LUKS, b"wrong")


@_fault(_REFUSED, "the device {path} is not there (yet)")
def device_absent(b: Backends) -> Iterator[Volume]:
    yield Volume(local(b.root / "absent", kind="block"))


@_fault(_REFUSED, "the device {path} is no block device")
def device_is_a_file(b: Backends) -> Iterator[Volume]:
    yield Volume(local(b.file(), kind="block"))


@_fault(_REFUSED, "there is nothing behind the device {path}")
def device_gone(b: Backends) -> Iterator[Volume]:
    node = b.root / new_name()
    run(["mknod", node, "b", "254", "99"])
    yield Volume(local(node, kind="block"))


@_fault(_REFUSED, "the encryption key of the file {path} could not be tried within 1 s")
def file_with_a_key_that_takes_minutes(b: Backends) -> Iterator[Volume]:
    file = b.luks_file()
    with file.open("r+b") as header:
        header.seek(212)  # the iterations of the first key slot
        header.write(b"\xff\xff\xff\xff")
    volume = encrypted(Volume(local(file), content=file.read_bytes), QEMU_LUKS)
    yield replace(volume, seconds=PATIENCE)


@_fault(_REFUSED, "the encryption key does not open the device {path}")
def device_wrong_passphrase(b: Backends) -> Iterator[Volume]:
    file = b.luks_file()
    with LoopDevice(file) as device:
        yield encrypted(Volume(local(device.path, kind="block"), content=file.read_bytes), QEMU_LUKS, b"wrong")
