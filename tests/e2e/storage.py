"""A volume of every driver on real storage, as a machine's spec names it, and who has it open as its server sees it.

What guests do with volumes does not belong here.
"""

from __future__ import annotations

import base64
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests.backends import luks
from tests.backends.ceph import Ceph
from tests.backends.daemon import connections, run
from tests.backends.iscsi import Targets
from tests.backends.loop import LoopDevice
from tests.backends.nbd import NbdServer
from tests.e2e.libvirtd import PrivateLibvirt

CHAP = "secret-of-twelve"
PASSPHRASE = b"open, sesame"


@dataclass(frozen=True)
class Stored:
    """One volume. `users` tells how many have it open, beside its own server; `content` reads it as it is stored.

    `grow` lets it have more bytes, where its storage can do that while it is in use.
    """

    connection: pb.VolumeConnection
    users: Callable[[], int]
    content: Callable[[], bytes]
    grow: Callable[[int], None] | None = None


class Storage:
    """Volumes of all drivers, by kind. `options` let a provider use them. `close()` it always."""

    def __init__(self, private: PrivateLibvirt, ceph: Callable[[], Ceph], targets: Callable[[], Targets]) -> None:
        self._private = private
        self._ceph = ceph
        self._targets = targets
        self._root = private.directory("volumes")
        self._stack = ExitStack()
        self._devices = f"sri-{secrets.token_hex(4)}"

    @property
    def options(self) -> tuple[str, ...]:
        root = str(self._root)
        devices = ("--block-device", f"/dev/{self._devices}-*")
        # What a cluster has beside it, and where no other may be: its file is looked for when a volume needs it.
        return ("--file-dir", root, "--nbd-socket-dir", root, *devices, "--ceph-conf", f"{root}/librados.conf")

    def make(self, kind: str, size: int) -> Stored:
        """A new volume of `size` bytes."""
        return _KINDS[kind](self, f"v{secrets.token_hex(4)}", size)

    def close(self) -> None:
        self._stack.close()

    # Kinds.

    def ceph(self, name: str, size: int) -> Stored:
        return self._image(self._ceph().image(name, size))

    def ceph_luks(self, name: str, size: int) -> Stored:
        """As `rbd encryption format` makes one."""
        return self._image(self._ceph().luks_image(name, size, PASSPHRASE, 2), PASSPHRASE)

    def nbd_address(self, name: str, size: int) -> Stored:
        file = self._file(name, size)
        server = self._stack.enter_context(NbdServer(file, name, self._private.inside))
        attributes = {"address": f"{server.host}:{server.port}", "export": name}
        return Stored(
            _connection("nbd", name, attributes),
            lambda: connections(server.daemon.pid, server.host, server.port),
            file.read_bytes,
        )

    def nbd_socket(self, name: str, size: int) -> Stored:
        file, socket = self._file(name, size), self._root / f"{name}.sock"
        server = self._stack.enter_context(NbdServer(file, name, self._private.inside, socket=socket))
        socket.chmod(0o666)
        return Stored(
            _connection("nbd", name, {"socket": str(socket), "export": name}),
            lambda: _connected(server.daemon.pid, socket),
            file.read_bytes,
        )

    def iscsi(self, name: str, size: int, user: str = "", password: str = "") -> Stored:
        targets, file = self._targets(), self._file(name, size)
        target = targets.target(name, [file], user=user, password=password)
        made = _connection("iscsi", name, {"portal": targets.portal, "target": target, "lun": "1"})
        if user:
            made.secret_data.update(username=user.encode(), password=password.encode())
        return Stored(made, lambda: targets.sessions(target), file.read_bytes)

    def iscsi_chap(self, name: str, size: int) -> Stored:
        return self.iscsi(name, size, f"user-of-{name}", CHAP)

    def file_raw(self, name: str, size: int) -> Stored:
        file = self._file(name, size)
        return Stored(
            _file_volume(name, file, "raw"), lambda: _openers(file), file.read_bytes, lambda more: _grow(file, more)
        )

    def file_qcow2(self, name: str, size: int) -> Stored:
        file = self._root / f"{name}.qcow2"
        run(["qemu-img", "create", "-q", "-f", "qcow2", file, str(size)])
        return Stored(_file_volume(name, file, "qcow2"), lambda: _openers(file), file.read_bytes)

    def file_luks(self, name: str, size: int) -> Stored:
        file = self._root / f"{name}.luks"
        luks.make(file, size, PASSPHRASE, 1)
        made = _file_volume(name, file, "raw")
        made.encryption_data["encryptionKey"] = PASSPHRASE
        return Stored(made, lambda: _openers(file), file.read_bytes, lambda more: _grow(file, more))

    def block(self, name: str, size: int) -> Stored:
        file = self._file(name, size)
        device = self._stack.enter_context(LoopDevice(file))
        path = Path(f"/dev/{self._devices}-{name}")
        device.node(path, self._private.inside)
        self._stack.callback(self._private.run, ["rm", path])

        def grow(more: int) -> None:
            _grow(file, more)
            device.grown()

        made = _connection("block", name, {"path": str(path)})
        return Stored(made, lambda: _openers(device.path), file.read_bytes, grow)

    # How.

    def _file(self, name: str, size: int) -> Path:
        path = self._root / f"{name}.raw"
        with path.open("wb") as file:
            file.truncate(size)
        return path

    def _image(self, image: str, passphrase: bytes = b"") -> Stored:
        ceph = self._ceph()
        (self._root / "librados.conf").write_bytes(ceph.client_settings.read_bytes())
        made = _connection("ceph", image, {"monitors": ceph.monitors, "image": image})
        made.secret_data.update(userID=b"guest", userKey=base64.b64encode(ceph.key()))
        if passphrase:
            made.encryption_data["encryptionKey"] = passphrase

        def grow(more: int) -> None:
            ceph.resize(image, ceph.size(image) + more)

        return Stored(made, lambda: len(ceph.watchers(image)), lambda: ceph.read(image), grow)


_KINDS: dict[str, Callable[[Storage, str, int], Stored]] = {
    "ceph": Storage.ceph,
    "ceph-luks": Storage.ceph_luks,
    "nbd-address": Storage.nbd_address,
    "nbd-socket": Storage.nbd_socket,
    "iscsi": Storage.iscsi,
    "iscsi-chap": Storage.iscsi_chap,
    "file-raw": Storage.file_raw,
    "file-qcow2": Storage.file_qcow2,
    "file-luks": Storage.file_luks,
    "block": Storage.block,
}
KINDS = tuple(_KINDS)


def _connection(driver: str, handle: str, attributes: dict[str, str]) -> pb.VolumeConnection:
    return pb.VolumeConnection(driver=driver, handle=handle, attributes=attributes)


def _file_volume(name: str, path: Path, form: str) -> pb.VolumeConnection:
    return _connection("file", name, {"path": str(path), "format": form})


def _grow(file: Path, more: int) -> None:
    os.truncate(file, file.stat().st_size + more)


def _connected(pid: int, socket: Path) -> int:
    """How many are connected to a unix socket in the network namespace of a process (state 03: SS_CONNECTED)."""
    lines = [line.split() for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()]
    return sum(line[-1] == str(socket) and line[5] == "03" for line in lines)


def _openers(path: Path) -> int:
    """How many processes have a file or device open."""
    wanted = _identity(path.stat())
    return sum(wanted in _open_by(process) for process in Path("/proc").glob("[0-9]*"))


def _open_by(process: Path) -> Iterator[tuple[int, int]]:
    with suppress(OSError):
        for entry in os.scandir(process / "fd"):
            with suppress(OSError):
                yield _identity(entry.stat())


def _identity(status: os.stat_result) -> tuple[int, int]:
    return (0, status.st_rdev) if stat.S_ISBLK(status.st_mode) else (status.st_ino, status.st_dev)
