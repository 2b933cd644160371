"""A whole Ceph cluster: one monitor, one OSD that keeps its data in memory, no manager; up within a second.

As in every real cluster the monitor listens on ports 3300 and 6789, and clients have keys. Writes are told apart from
nothing here: one copy, no scrubbing, no placement that moves.
"""

from __future__ import annotations

import base64
import json
import os
import struct
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.backends import luks
from tests.backends.daemon import Daemon, Inside, Word, here, listens, loopback, run

POOL = "vms"

USERS = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *"},
    "osd.0": {"mon": "allow profile osd", "osd": "allow *"},
    "client.guest": {"mon": "profile rbd", "osd": "profile rbd"},
    "client.stranger": {"mon": "profile rbd", "osd": "profile rbd pool=others"},
}
"""Who has a key, and what it opens: `guest` everything that a guest needs, `stranger` no image of this pool."""

_PORT = 6789
_SETTINGS = """\
[global]
fsid = {fsid}
mon host = [v2:{address}:3300/0,v1:{address}:6789/0]
mon initial members = a
public addr = {address}
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = {root}/keyring
run dir = {root}
crash dir = {root}
admin socket =
log to file = false
log to stderr = true
mon cluster log to file = false
debug mon = 0
debug rocksdb = 0
debug osd = 0
# A change of the cluster's map waits for no other: a pool is there in a tenth of a second instead of six.
paxos propose interval = 0.01
paxos min wait = 0.01
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail crit = 1
mon data avail warn = 1
[mon.a]
mon data = {root}/mon
[osd.0]
osd data = {root}/osd
osd uuid = {fsid}
osd objectstore = memstore
memstore device bytes = 4294967296
osd crush initial weight = 1
# Its data is written down when it is stopped in order.
osd fast shutdown = false
# Debian 13's default is relative, and leads nowhere.
osd class dir = {classes}
osd class load list = *
osd class default list = *
"""
_CLIENT = """\
[global]
client mount timeout = 5
rados mon op timeout = 5
"""


class Ceph:
    """One cluster below `root`. `start()` it once made; `close()` it always.

    `monitor` and `osd` are its daemons. Killed, the OSD forgets all data; stopped, it comes back with it.
    """

    def __init__(self, root: Path, inside: Inside = here) -> None:
        self.root = root
        self.address = loopback()
        self._inside = inside
        self._keys = {name: new_key() for name in USERS}
        self._settings = root / "ceph.conf"
        self.client_settings = root / "client.conf"
        """Short times for a client to connect, as an operator gives them to QEMU."""
        log = root / "daemons.log"
        start: list[Word] = ["-c", self._settings, "-f", "-i"]
        self.monitor = Daemon(["ceph-mon", *start, "a"], self._monitor_is_up, log, inside)
        self.osd = Daemon(["ceph-osd", *start, "0"], self._osd_is_up, log, inside)

    @property
    def monitors(self) -> str:
        """As a volume's attribute names them."""
        return f"{self.address}:{_PORT}"

    def key(self, user: str = "guest") -> bytes:
        """A user's key, decoded."""
        return base64.b64decode(self._keys[f"client.{user}"])

    # Life.

    def start(self) -> None:
        """Start what does not run; return once clients are served."""
        new = not self._settings.exists()
        if new:
            self._make()
        self.monitor.start()
        self.osd.start()
        if new:
            self._ceph("osd", "pool", "create", POOL)
        self._rbd("ls", POOL)

    def close(self) -> None:
        self.osd.kill()
        self.monitor.kill()

    def __enter__(self) -> Ceph:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def let_in(self, user: str, key: str) -> None:
        """From now on the cluster knows a user by this key (base64), who may do what a guest needs."""
        keyring = self.root / f"{user}.keyring"
        keyring.write_text(f'[client.{user}]\nkey = {key}\ncaps mon = "profile rbd"\ncaps osd = "profile rbd"\n')
        self._ceph("auth", "import", "-i", str(keyring))

    # Images.

    def image(self, name: str, size: int) -> str:
        """Make an image of `size` bytes, all zero; what a volume's attribute calls it."""
        self._rbd("create", "--size", f"{size}B", f"{POOL}/{name}")
        return f"{POOL}/{name}"

    def luks_image(self, name: str, size: int, passphrase: bytes, version: luks.LuksVersion) -> str:
        """Make an image with a LUKS header, of which a guest sees `size` bytes."""
        file = self.root / f"{name}.luks"
        luks.make(file, size, passphrase, version)
        self._rbd("import", "--no-progress", file, f"{POOL}/{name}")
        file.unlink()
        return f"{POOL}/{name}"

    def write(self, image: str, data: bytes) -> None:
        """Put bytes at the beginning of an image, in place of all that it has."""
        self._rbd("rm", "--no-progress", image)
        self._rbd("import", "--no-progress", "-", image, stdin=data)

    def read(self, image: str) -> bytes:
        return self._rbd("export", "--no-progress", image, "-")

    def resize(self, image: str, size: int) -> None:
        self._rbd("resize", "--no-progress", "--allow-shrink", "--size", f"{size}B", image)

    def size(self, image: str) -> int:
        """The bytes of its storage, with its LUKS header if it has one."""
        found: int = json.loads(self._rbd("info", "--format", "json", image))["size"]
        return found

    def remove(self, image: str) -> None:
        self._rbd("rm", "--no-progress", image)

    def watchers(self, image: str) -> list[str]:
        """The addresses of those who have an image open, as the cluster itself knows them."""
        status: dict[str, Any] = json.loads(self._rbd("status", "--format", "json", image))
        return [watcher["address"] for watcher in status["watchers"]]

    @contextmanager
    def opened(self, image: str) -> Iterator[str]:
        """A QEMU that has an image open to write; its address."""
        node = {"driver": "rbd", "node-name": "n", "pool": POOL, "image": image.partition("/")[2]}
        argv = ["qemu-storage-daemon", "--blockdev", json.dumps({**node, "conf": str(self._settings)})]
        other = Daemon(argv, lambda _pid: self.watchers(image), self.root / "daemons.log", self._inside)
        other.start()
        try:
            (address,) = self.watchers(image)
            yield address
        finally:
            other.stop()

    # How.

    def _make(self) -> None:
        for directory in ("mon", "osd"):
            (self.root / directory).mkdir()
        (classes,) = Path("/usr/lib").glob("*/rados-classes")
        self.client_settings.write_text(_CLIENT)
        (self.root / "keyring").write_text("".join(_entry(name, key) for name, key in self._keys.items()))
        settings = _SETTINGS.format(root=self.root, address=self.address, fsid=uuid.uuid4(), classes=classes)
        self._settings.write_text(settings)
        make: list[Word] = ["-c", self._settings, "--mkfs", "-i"]
        run(["ceph-mon", *make, "a", "--keyring", self.root / "keyring"], self._inside)
        run(["ceph-osd", *make, "0", "--no-mon-config"], self._inside)

    def _monitor_is_up(self, pid: int) -> bool:
        return listens(pid, self.address, _PORT)

    def _osd_is_up(self, pid: int) -> bool:
        return any(listens(pid, self.address, port) for port in range(6800, 6820))

    def _ceph(self, *words: str) -> bytes:
        return run(["ceph", "-c", self._settings, *words], self._inside)

    def _rbd(self, *words: Word, stdin: bytes = b"") -> bytes:
        return run(["rbd", "-c", self._settings, *words], self._inside, stdin)


def new_key() -> str:
    """A key that nobody has yet: type AES, its time, 16 bytes (Ceph's src/auth/Crypto.h)."""
    return base64.b64encode(struct.pack("<HIIH", 1, int(time.time()), 0, 16) + os.urandom(16)).decode()


def _entry(name: str, key: str) -> str:
    return f"[{name}]\nkey = {key}\n" + "".join(f'caps {of} = "{caps}"\n' for of, caps in USERS[name].items())
