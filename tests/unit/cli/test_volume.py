"""`sri-libvirt volume` and what `machine get` says of volumes: words, data, statuses, and no secret."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import sri_libvirt.app  # noqa: F401 -- psutil looks at the host when it is imported
from sri_libvirt.cli import daemon
from sri_libvirt.devices import DiskHost, DiskSource, Encryption, SecretPurpose, SecretReference
from sri_libvirt.errors import FailedPrecondition, NotReady, Unavailable
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import GIB
from sri_libvirt.server import asking
from sri_libvirt.store import Store
from sri_libvirt.volumes import probe as volume_probe
from sri_libvirt.volumes.base import Found
from tests.unit.cli.conftest import DB, SECRET, WEB, Cli

CEPH = """\
name: data
device: oda
connection:
  driver: ceph
  handle: wwn
  attributes: {monitors: "192.0.2.1:6789", image: pool/a}
  secret_data: {userID: dGVuYW50LTk=, userKey: YUhWdWRHVnlNZz09}
  encryption_data: {encryptionKey: aHVudGVyMg==}
"""
LUKS = Found(20 * GIB, Encryption("librbd", "luks2"))
MONITOR = DiskHost("192.0.2.1", 6789)
DISK = DiskSource(
    "ceph/wwn", "", "raw", 10 * GIB, kind="network", protocol="rbd", name="pool/a", hosts=(MONITOR,), user="guest",
    secrets=(SecretReference("auth", "5ec"),),
)  # fmt: skip
SAME = {"volume": "data", "outcome": "same", "message": "it has 10 GiB", "bytes_before": 10 * GIB, "bytes": 10 * GIB}


class Daemon:
    """A daemon that answers as a test says, and remembers what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self.answer: Any = []
        monkeypatch.setattr(daemon, "through", lambda _, command, arguments, __: self(command, arguments))
        monkeypatch.setattr(asking, "ask", lambda _, command, arguments, **__: self(command, arguments))

    def __call__(self, command: str, arguments: Mapping[str, Any]) -> Any:
        self.asked.append((command, arguments))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch, state_dir: Path, store: Store) -> Daemon:
    StatePaths(state_dir).admin_socket.touch()
    return Daemon(monkeypatch)


# --- rescan --------------------------------------------------------------------------------------


def test_rescan_of_all_volumes_and_of_one(cli: Cli, running: Daemon) -> None:
    running.answer = [SAME]
    result = cli("volume", "rescan", "web")
    assert result.status == 0
    lines = [line.split() for line in result.out.splitlines()]
    assert lines == [["VOLUME", "OUTCOME", "SIZE", "MESSAGE"], ["data", "same", "10", "GiB", "it", "has", "10", "GiB"]]
    assert json.loads(cli("volume", "rescan", WEB, "data", "-o", "json").out) == [SAME]
    assert running.asked == [("rescan", {"machine": WEB, "volume": name}) for name in ("", "data")]


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        ("grown", 0),
        ("growing", 0),
        ("grows-at-start", 0),
        ("not-asked", 0),
        ("smaller", 1),
        ("backend-silent", 1),
        ("volume-refused", 1),
        ("under-way", 1),
    ],
)
def test_a_rescan_fails_when_a_volume_is_not_as_its_guest_has_it(
    cli: Cli, running: Daemon, outcome: str, status: int
) -> None:
    running.answer = [SAME, {**SAME, "outcome": outcome, "bytes": None}]
    result = cli("volume", "rescan", "web")
    assert result.status == status
    assert outcome in result.out


def test_a_rescan_needs_the_daemon_and_a_machine(cli: Cli, store: Store) -> None:
    result = cli("volume", "rescan", "web")
    assert (result.status, "the daemon does not run" in result.err) == (1, True)
    assert cli("volume", "rescan", "nobody").status == 1


def test_the_daemons_own_words_are_told(cli: Cli, running: Daemon) -> None:
    running.answer = FailedPrecondition('machine 1 has no volume "x"')
    assert 'has no volume "x"' in cli("volume", "rescan", "web", "x").err


# --- probe ---------------------------------------------------------------------------------------


class Probe:
    """Opens volumes as a test says."""

    def __init__(self, answer: Found | NotReady) -> None:
        self.answer = answer
        self.secrets: list[Mapping[SecretPurpose, bytes]] = []
        self.deadlines: list[float] = []

    def __call__(self, _source: DiskSource, secrets: Mapping[SecretPurpose, bytes], *, deadline: float) -> Found:
        self.secrets.append(secrets)
        self.deadlines.append(deadline)
        if isinstance(self.answer, NotReady):
            raise self.answer
        return self.answer


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "volume.yaml"
    path.write_text(CEPH)
    return path


def probed(monkeypatch: pytest.MonkeyPatch, answer: Found | NotReady) -> Probe:
    made = Probe(answer)
    monkeypatch.setattr(volume_probe, "probe", made)
    return made


def test_a_volume_that_is_ready(cli: Cli, store: Store, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = probed(monkeypatch, LUKS)
    result = cli("volume", "probe", "-f", str(file), "--probe-timeout", "3s")
    assert (result.status, result.err) == (0, "")
    told = dict(line.split(maxsplit=1) for line in result.out.splitlines())
    assert told == {
        "driver": "ceph",
        "handle": "ceph/wwn",
        "ready": "True",
        "backend": "rbd:pool/a@192.0.2.1:6789",
        "bytes": "20 GiB",
        "encryption": "luks2 by librbd",
    }
    assert made.secrets == [{"auth": SECRET.encode(), "encryption": SECRET.encode()}]
    assert made.deadlines == [3]


def test_one_that_is_not(cli: Cli, store: Store, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probed(monkeypatch, NotReady("the monitors do not answer", "Look at them.", "backend-silent"))
    result = cli("volume", "probe", "-f", str(file), "-o", "json")
    assert result.status == 1
    told = json.loads(result.out)
    assert (told["ready"], told["code"], told["problem"]) == (False, "backend-silent", "the monitors do not answer")
    assert (told["advice"], told["bytes"]) == ("Look at them.", None)
    assert "would wait" in result.err


def test_one_that_this_host_does_not_let_it_name(cli: Cli, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    attributes = "{path: /etc/shadow, format: raw}"
    path.write_text(f"name: d\nconnection: {{driver: file, handle: h, attributes: {attributes}}}\n")
    result = cli("volume", "probe", "-f", str(path))
    assert (result.status, "--file-dir" in result.out) == (1, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: d\nempty_disk: {}\n", "no backend"),
        ("name: d\nconnection: {driver: cinder, handle: h}\n", "no volume driver"),
        ("name: d\nconnection: {driver: ceph, handle: h}\n", 'connection.attributes["image"]'),
        ("- a", "must hold one volume"),
    ],
)
def test_what_is_no_such_volume(cli: Cli, store: Store, tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(text)
    result = cli("volume", "probe", "-f", str(path))
    assert (result.status, result.out) == (1, "")
    assert words in result.err


def test_without_a_store_it_says_what_that_means(cli: Cli, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probed(monkeypatch, LUKS)
    result = cli("volume", "probe", "-f", str(file))
    assert (result.status, "iSCSI" in result.err) == (0, True)


@pytest.mark.parametrize("form", ["table", "json", "yaml"])
@pytest.mark.parametrize("answer", [LUKS, NotReady("no", "Look.", "volume-refused")])
def test_no_secret_of_a_file_is_shown(
    cli: Cli, store: Store, file: Path, monkeypatch: pytest.MonkeyPatch, form: str, answer: Found | NotReady
) -> None:
    probed(monkeypatch, answer)
    result = cli("volume", "probe", "-f", str(file), "-o", form)
    for secret in (SECRET, "aHVudGVyMg==", "YUhWdWRHVnlNZz09", "tenant-9"):
        assert secret not in result.out + result.err


# --- machine get ---------------------------------------------------------------------------------


def in_words(cli: Cli) -> str:
    """The line of the one volume with its backend, as people are shown it."""
    lines = cli("machine", "get", WEB, "-o", "table").out.splitlines()
    (heading,) = [at for at, line in enumerate(lines) if line.startswith("VOLUME")]
    return lines[heading + 1]


def volume_of(cli: Cli, machine: str = WEB) -> dict[str, Any]:
    shown = json.loads(cli("machine", "get", machine, "-o", "json").out)
    return next(device for device in shown["devices"] if device["kind"] == "volume")


def test_a_volume_with_its_backend(cli: Cli, store: Store, running: Daemon) -> None:
    store.write(lambda tx: tx.set_backing(WEB, ("volume", "data", 1), DISK))
    running.answer = {"data": {"answers": True, "problem": None}}
    shown = volume_of(cli)
    assert (shown["driver"], shown["backend"], shown["size_bytes"]) == ("ceph", DISK.source, 10 * GIB)
    assert (shown["answers"], shown["backend_problem"]) == (True, None)
    assert running.asked == [("volumes", {"machine": WEB})]
    assert in_words(cli).split() == ["data", "ceph", DISK.source, "10", "GiB", "yes"]


@pytest.mark.parametrize(
    ("answer", "answers", "words"),
    [
        ({"data": {"answers": False, "problem": "no route"}}, False, "no: no route"),
        ({"data": {"answers": None, "problem": "it is being asked"}}, None, "it is being asked"),
        ({}, None, "not asked"),
        (Unavailable("the daemon cannot be asked"), None, "not asked"),
    ],
)
def test_what_is_heard_of_a_backend(
    cli: Cli, store: Store, running: Daemon, answer: Any, answers: bool | None, words: str
) -> None:
    store.write(lambda tx: tx.set_backing(WEB, ("volume", "data", 1), DISK))
    running.answer = answer
    assert volume_of(cli)["answers"] is answers
    assert in_words(cli).rstrip().endswith(words)


def test_without_a_daemon_nobody_is_asked_but_what_was_heard_last_is_shown(cli: Cli, store: Store) -> None:
    assert volume_of(cli)["answers"] is None
    store.write(
        lambda tx: tx.set_backing(DB, ("volume", "data", 1), None, "no route", problem_at=1, code="backend-silent")
    )
    shown = volume_of(cli, DB)
    assert (shown["answers"], shown["backend_problem"], shown["backend"]) == (False, "no route", None)
