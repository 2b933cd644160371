"""NBD volumes: an address or a socket, an export, TLS."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sri_libvirt.devices import DiskHost, DiskSource, SecretReference
from sri_libvirt.looks import Looks
from sri_libvirt.names import secret_uuid
from sri_libvirt.paths import MachinePaths
from sri_libvirt.volumes.allowed import AllowedDirectories
from sri_libvirt.volumes.base import Asking
from sri_libvirt.volumes.nbd import RECONNECT_SINCE, NbdVolumes
from tests.connected import MACHINE, StubAsking, refused, volume, waits, wanted

ADDRESS = {"address": "nbd.example.org:10809"}


def driver(*directories: Path, asking: Asking | None = None, version: int = 0) -> NbdVolumes:
    sockets = AllowedDirectories("socket", "--nbd-socket-dir", directories, Looks())
    return NbdVolumes(sockets, asking, lambda: version)


def test_what_qemu_is_told() -> None:
    found = driver(version=RECONNECT_SINCE).source(
        MACHINE, volume("nbd", {**ADDRESS, "export": "disk 1", "tls": "yes"})
    )
    assert found == DiskSource(
        handle="nbd/4711",
        path="",
        format="raw",
        size=0,
        kind="network",
        protocol="nbd",
        name="disk 1",
        hosts=(DiskHost("nbd.example.org", 10809),),
        tls=True,
        reconnect=60,
    )


@pytest.mark.parametrize(("version", "seconds"), [(0, 0), (9_000_000, 0), (9_001_000, 0), (9_002_000, 60)])
def test_a_server_that_goes_away_is_waited_for_where_libvirt_knows_how(version: int, seconds: int) -> None:
    assert driver(version=version).source(MACHINE, volume("nbd", ADDRESS)).reconnect == seconds


@pytest.mark.parametrize(("word", "tls"), [("yes", True), ("true", True), ("no", False), ("false", False), ("", False)])
def test_tls(word: str, tls: bool) -> None:
    assert driver().source(MACHINE, volume("nbd", {**ADDRESS, "tls": word})).tls == tls


def test_a_passphrase_is_for_qemu() -> None:
    asked = volume("nbd", ADDRESS, encryption={"encryptionKey": "schlüssel\n".encode()})
    driver().validate(asked)
    assert driver().secrets(asked) == {"encryption": "schlüssel\n".encode()}
    source = driver().source(MACHINE, asked)
    assert source.encryption == wanted("qemu")
    assert source.secrets == (SecretReference("encryption", secret_uuid(MACHINE, "data", "encryption")),)


@pytest.mark.parametrize(
    ("attributes", "key", "words"),
    [
        ({}, "address", "or else socket"),
        ({"address": "", "socket": ""}, "address", "or else socket"),
        ({**ADDRESS, "socket": "/run/nbd.sock"}, "address", "exclude each other"),
        ({"address": "nbd.example.org"}, "address", "missing port"),
        ({"address": "a:1,b:2"}, "address", "too many colons"),
        ({"address": "unix:/run/nbd.sock"}, "address", "the port"),
        ({"socket": "nbd.sock"}, "socket", "not an absolute path"),
        ({"socket": "/run/../nbd.sock"}, "socket", "not an absolute path"),
        ({"socket": "/run//nbd.sock"}, "socket", "not an absolute path"),
        ({"socket": "//run/nbd.sock"}, "socket", "not an absolute path"),
        ({"socket": "/run/nbd.sock/"}, "socket", "not an absolute path"),
        ({"socket": f"/{'a' * 107}"}, "socket", "at most 107"),
        ({"socket": f"/{'ä' * 54}"}, "socket", "at most 107"),
        ({"socket": "/run/\tnbd"}, "socket", "U+0009"),
        ({"socket": "/run/nbd.sock", "tls": "yes"}, "tls", "not with socket"),
        ({**ADDRESS, "tls": "maybe"}, "tls", "is not one of yes, true, no, false"),
        ({**ADDRESS, "tls": "YES"}, "tls", "is not one of"),
        ({**ADDRESS, "export": "a\nb"}, "export", "U+000A"),
        ({**ADDRESS, "export": "a" * 4097}, "export", "more than 4096"),
    ],
)
def test_attributes_that_are_wrong(attributes: dict[str, str], key: str, words: str) -> None:
    refused(driver(), volume("nbd", attributes), f'connection.attributes["{key}"]', words)


@pytest.mark.parametrize(("key", "words"), [(b"\xff", "not UTF-8"), (b"a\0b", "a NUL"), (b"", "must be set")])
def test_passphrases_that_qemu_cannot_be_given(key: bytes, words: str) -> None:
    wrong = volume("nbd", ADDRESS, encryption={"encryptionKey": key})
    refused(driver(), wrong, 'connection.encryption_data["encryptionKey"]', words)


# --- sockets -------------------------------------------------------------------------------------


@pytest.fixture
def sockets(tmp_path: Path) -> Path:
    directory = tmp_path / "s"
    directory.mkdir()
    return directory


@pytest.fixture
def listening(sockets: Path) -> Path:
    """The node of a socket; nobody answers there."""
    path = sockets / "n"
    os.mknod(path, stat.S_IFSOCK | 0o600)
    return path


def test_a_socket_is_told_by_where_it_really_is(sockets: Path, listening: Path, paths: MachinePaths) -> None:
    (sockets / "link").symlink_to("n")
    prepared = driver(sockets, asking=StubAsking()).prepare(
        MACHINE, volume("nbd", {"socket": f"{sockets}/link"}), paths
    )
    assert prepared.hosts == (DiskHost(socket=str(listening)),)


def test_no_socket_may_be_named_by_default(listening: Path, paths: MachinePaths) -> None:
    asked = volume("nbd", {"socket": str(listening)})
    driver().validate(asked)
    error = waits(driver(asking=StubAsking()), asked, paths, "not below a directory that volumes may name")
    assert "--nbd-socket-dir (now: none)" in error.advice


def test_what_is_no_socket(sockets: Path, paths: MachinePaths) -> None:
    (sockets / "file").touch()
    asking = StubAsking()
    for name, words in (("file", "is no socket"), ("absent", "is not there (yet)")):
        waits(driver(sockets, asking=asking), volume("nbd", {"socket": f"{sockets}/{name}"}), paths, words)
    assert asking.asked == []
