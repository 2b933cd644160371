"""Secrets of volumes over the end of whatever uses them: all comes back by itself, and no secret is found anywhere.

That libvirt has a secret for the one call that needs it is proven elsewhere, call by call.
"""

from __future__ import annotations

import base64
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import libvirt
import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.paths import StatePaths
from tests.backends import luks
from tests.backends.ceph import Ceph
from tests.backends.iscsi import Targets
from tests.backends.nbd import NbdServer
from tests.e2e.connected import (
    MIB,
    OPTIONS,
    attach,
    ceph_volume,
    detach,
    expect_released,
    guest,
    iscsi,
    nbd,
    new_name,
    secrets_left,
    wait_volumes,
)
from tests.e2e.provider import Provider, wait_for
from tests.e2e.test_failpoints import VARIABLE
from tests.e2e.test_restarts import expect_nothing_left
from tests.e2e.test_stops import rebooted_host

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SIZE = 4 * MIB
PASSPHRASE = b"planted-passphrase-of-a-tenant"
PASSWORD = "planted-chap-pw"


@pytest.fixture
def locked(provider: Provider, tmp_path: Path) -> Iterator[NbdServer]:
    """A server of an encrypted disk."""
    file = tmp_path / "locked.raw"
    luks.make(file, SIZE, PASSPHRASE, 1)
    with closing(NbdServer(file, "e", provider.libvirt.inside)) as server:
        server.start()
        yield server


def encrypted(server: NbdServer) -> pb.Volume:
    return nbd(server, encryption={"encryptionKey": PASSPHRASE})


def rests(provider: Provider, machine_id: str) -> None:
    """The machine is as it is to be, its disk opened, and libvirt has no secret."""
    wait_volumes(provider, machine_id, {"data": "ATTACHED"})
    wait_for("no reason", lambda: not provider.reasons(machine_id))
    wait_for("no secret", lambda: not secrets_left(provider), 30)


@pytest.mark.parametrize("point", ["after libvirt.set_secret", "before libvirt.attach_device"])
def test_a_provider_that_is_killed_between_secret_and_plug(
    provider: Provider, tiny_image: Path, locked: NbdServer, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    monkeypatch.setenv(VARIABLE, f"kill 1 {point}")
    provider.start(*OPTIONS)
    monkeypatch.delenv(VARIABLE)
    machine_id = guest(provider, tiny_image)
    attach(provider, machine_id, encrypted(locked))
    process = provider.process
    assert process is not None
    wait_for("end of the provider", lambda: process.poll() is not None)
    assert secrets_left(provider) != []
    provider.kill()
    provider.start_again()
    provider.wait_console(machine_id, f"size={SIZE}")
    rests(provider, machine_id)
    detach(provider, machine_id)
    wait_volumes(provider, machine_id, {})
    expect_released(provider, (locked.host, locked.port))


def test_a_libvirtd_that_is_killed_and_a_host_that_boots(
    provider: Provider, tiny_image: Path, locked: NbdServer
) -> None:
    provider.start(*OPTIONS)
    machine_id = guest(provider, tiny_image, disk=encrypted(locked))
    provider.wait_console(machine_id, f"size={SIZE}")
    pid = provider.qemu_pid(machine_id)
    provider.libvirt.kill()
    provider.libvirt.start()
    rests(provider, machine_id)
    assert provider.qemu_pid(machine_id) == pid

    provider.kill()
    with rebooted_host(provider.libvirt, machine_id):
        provider.start_again()
        provider.wait_console(machine_id, f"size={SIZE}", count=2)
        rests(provider, machine_id)
        assert provider.qemu_pid(machine_id) != pid
        provider.delete(machine_id)
        expect_nothing_left(provider)
        expect_released(provider, (locked.host, locked.port))


class Onlooker:
    """Whoever reads /proc on this host while the context lasts. `seen` is where he has found a secret."""

    def __init__(self, planted: list[bytes]) -> None:
        self._planted = planted
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.seen: set[str] = set()

    def __enter__(self) -> Onlooker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.005):
            for process in os.scandir("/proc"):
                if process.name.isdecimal() and process.name != str(os.getpid()):
                    for name in ("cmdline", "environ"):
                        self._read(Path(process.path) / name)

    def _read(self, file: Path) -> None:
        with suppress(OSError):
            text = file.read_bytes()
            self.seen |= {f"{file}: {text[:200]!r}" for each in self._planted if each in text}


def test_no_secret_is_found_in_what_a_run_leaves(
    provider: Provider, tiny_image: Path, ceph: Ceph, targets: Targets, tmp_path: Path
) -> None:
    key = base64.b64encode(ceph.key())
    planted = [
        key,
        ceph.key(),
        *(form for each in (PASSPHRASE, PASSWORD.encode()) for form in (each, base64.b64encode(each))),
    ]
    image = ceph.luks_image(new_name(), SIZE, PASSPHRASE, 2)
    lun = tmp_path / "lun.raw"
    luks.make(lun, SIZE, PASSPHRASE, 1)
    user = new_name()
    target = targets.target(new_name(), [lun], user=user, password=PASSWORD)
    given = {"username": user.encode(), "password": PASSWORD.encode()}
    with Onlooker(planted) as onlooker:
        provider.start(*OPTIONS, "--ceph-conf", str(ceph.client_settings), "--log-level", "debug")
        disk = ceph_volume(ceph, image, "cold", encryption={"encryptionKey": PASSPHRASE}, handle="1")
        machine_id = guest(provider, tiny_image, disk=disk)
        hot = iscsi(
            targets, target, "hot", secrets=given, encryption={"encryptionKey": PASSPHRASE}, handle="2", device="odc"
        )
        attach(provider, machine_id, hot)
        wait_volumes(provider, machine_id, {"cold": "ATTACHED", "hot": "ATTACHED"})
        wrong = iscsi(
            targets, target, "bad", secrets={**given, "password": PASSWORD[::-1].encode()}, handle="3", device="odd"
        )
        attach(provider, machine_id, wrong)
        wait_for("a refusal", lambda: "volume-refused" in provider.reasons(machine_id))
        planted.append(PASSWORD[::-1].encode())
        told = [_xml(provider, machine_id), provider.why(machine_id)]
        told += [
            _cli(provider, *words)
            for words in (("machine", "get", machine_id), ("machine", "list"), ("machine", "events", machine_id))
        ]
    assert onlooker.seen == set()
    found = [text[:2000] for text in told for each in planted if each.decode(errors="replace") in text]
    assert found == []
    assert _files_with(provider, planted) == []
    assert _columns_with(provider, planted) <= {"machine.spec", "machine.frame", "attachment.spec"}
    assert secrets_left(provider) == []


def _xml(provider: Provider, machine_id: str) -> str:
    with provider.domain(machine_id) as domain:
        return "".join(str(domain.XMLDesc(flags)) for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE))


def _cli(provider: Provider, *words: str) -> str:
    argv = [sys.executable, "-m", "sri_libvirt", *words, "--state-dir", str(provider.state)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def _files_with(provider: Provider, planted: list[bytes]) -> list[str]:
    """Files of libvirt, QEMU and the provider that hold a secret, but for the provider's store, which is its own."""
    store = StatePaths(provider.state).database.parent
    assert store.stat().st_mode & 0o077 == 0
    base = provider.libvirt.base
    places = [base / name for name in ("etc", "run", "log", "cache", "lib")] + [provider.root, base / "daemons.log"]
    files = [file for place in places for file in (place.rglob("*") if place.is_dir() else [place])]
    ours = [file for file in files if file.is_file() and not file.is_symlink() and not file.is_relative_to(store)]
    assert any(file.name.endswith(".log") for file in ours)
    return [str(file) for file in ours for text in [file.read_bytes()] if any(each in text for each in planted)]


def _columns_with(provider: Provider, planted: list[bytes]) -> set[str]:
    """Columns of the store that hold a secret."""
    found = set()
    with closing(sqlite3.connect(f"file:{StatePaths(provider.state).database}?mode=ro", uri=True)) as store:
        for (table,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            cursor = store.execute(f"SELECT * FROM {table}")
            for row in cursor:
                for (column, *_), value in zip(cursor.description, row, strict=True):
                    text = value if isinstance(value, bytes) else str(value).encode()
                    if any(each in text for each in planted):
                        found.add(f"{table}.{column}")
    return found
