"""sd_notify over a real socket: readiness when the store serves, signs of life, and the end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from sri_libvirt import __version__
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.api.machine.v1alpha1.api_pb2_grpc import MachineRuntimeStub
from sri_libvirt.notify import ServiceManager

SECONDS = 60.0


class Manager:
    """A service manager's socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(SECONDS)

    def next(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self._socket.recv(4096).decode().splitlines())

    def until(self, key: str) -> dict[str, str]:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if key in (told := self.next()):
                return told
        raise AssertionError(f"{key} was not told")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


def test_variables_are_lines_of_one_datagram(manager: Manager) -> None:
    ServiceManager(str(manager.path)).tell(READY="1", STATUS="two\nlines \x9b2J\u202e")
    assert manager.next() == {"READY": "1", "STATUS": "two lines \ufffd2J\ufffd"}


def test_an_abstract_socket() -> None:
    name = f"sri-libvirt-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
        there.bind(f"\0{name}")
        there.settimeout(SECONDS)
        ServiceManager(f"@{name}").ready("serving")
        assert there.recv(4096).startswith(b"READY=1\nSTATUS=")


@pytest.mark.parametrize("address", ["", "/nowhere/notify"])
def test_nobody_to_tell_does_no_harm(address: str) -> None:
    ServiceManager(address).stopping()


@pytest.mark.rule("R-G6-1")
def test_a_daemon_is_ready_once_its_store_serves_and_says_that_it_lives(manager: Manager, tmp_path: Path) -> None:
    argv = [
        sys.executable, "-m", "sri_libvirt", "serve", "--address", f"unix://{tmp_path}/sri.sock",
        "--state-dir", str(tmp_path / "state"), "--domain-type", "qemu", "--libvirt-uri", "test:///default",
    ]  # fmt: skip
    told = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "600000"}
    with subprocess.Popen(argv, env={**os.environ, **told}, stderr=subprocess.DEVNULL) as daemon:
        try:
            assert manager.next()["READY"] == "1"
            with grpc.insecure_channel(f"unix://{tmp_path}/sri.sock") as channel:
                assert not MachineRuntimeStub(channel).ListMachines(pb.ListMachinesRequest(), timeout=30).machines
            manager.until("WATCHDOG")
            manager.until("WATCHDOG")
            daemon.send_signal(signal.SIGTERM)
            assert manager.until("STOPPING")["STATUS"] == "stopping; guests run on"
            assert daemon.wait(SECONDS) == 0
        finally:
            daemon.kill()


def test_a_store_that_cannot_be_opened_is_never_ready(manager: Manager, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no directory")
    argv = [
        sys.executable,
        "-m",
        "sri_libvirt",
        "serve",
        "--state-dir",
        str(tmp_path / "state"),
        "--log-format",
        "json",
    ]
    env = {**os.environ, "NOTIFY_SOCKET": str(manager.path)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 1
    last = json.loads(done.stderr.splitlines()[-1])
    assert (last["event"], last["level"]) == ("cannot serve", "critical")
    assert "--state-dir" in last["error"]
    ServiceManager(str(manager.path)).tell(NEXT="1")
    assert manager.next() == {"NEXT": "1"}


def test_every_line_of_the_log_has_its_form_and_the_first_says_who_this_is_and_how_it_runs(
    tmp_path: Path,
) -> None:
    """Also where gRPC's core has something to say, as of an address that somebody has."""
    with socket.create_server(("127.0.0.1", 0)) as there:
        taken = f"127.0.0.1:{there.getsockname()[1]}"
        argv = [
            *(sys.executable, "-m", "sri_libvirt", "serve", "--state-dir", str(tmp_path / "state")),
            *("--address", taken, "--domain-type", "qemu", "--libvirt-uri", "test:///default", "--log-format", "json"),
        ]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert (lines[0]["event"], lines[0]["version"]) == ("sri-libvirt begins", __version__)
    assert lines[0]["settings"] == {
        "address": taken,
        "state_dir": str(tmp_path / "state"),
        "domain_type": "qemu",
        "libvirt_uri": "test:///default",
        "log_format": "json",
    }
    assert lines[-1]["error"].startswith(f"cannot listen on {taken}")
