"""The guard of the unit tests stops what it promises to stop, and nothing that a pure test needs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import libvirt
import pytest

from tests.unit.conftest import HostTouched


def _connect(family: socket.AddressFamily, address: object) -> None:
    with socket.socket(family) as door:
        door.connect(address)  # type: ignore[arg-type]


def _bind(family: socket.AddressFamily, address: object) -> None:
    with socket.socket(family) as door:
        door.bind(address)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "act",
    [
        lambda: subprocess.run(["true"], check=False),
        lambda: os.system("true"),
        lambda: os.fork(),
        lambda: _connect(socket.AF_INET, ("127.0.0.1", 9)),
        lambda: _connect(socket.AF_UNIX, "/tmp/nobody"),
        lambda: _bind(socket.AF_INET, ("127.0.0.1", 0)),
        lambda: _bind(socket.AF_UNIX, "/nowhere/socket"),
        lambda: socket.getaddrinfo("localhost", 1),
        lambda: Path("/proc/meminfo").read_text(),
        lambda: os.listdir("/sys"),  # noqa: PTH208
        lambda: list(os.scandir(b"/sys/class")),
        lambda: libvirt.open("test:///default"),
    ],
)
def test_stops(act: Callable[[], object], host_guard: list[str]) -> None:
    with pytest.raises(HostTouched):
        act()
    assert len(host_guard) == 1
    host_guard.clear()


def test_a_caught_violation_is_still_seen(host_guard: list[str]) -> None:
    with contextlib.suppress(BaseException):
        os.system("true")
    assert host_guard
    host_guard.clear()


def test_pure_work_is_allowed(tmp_path: Path) -> None:
    async def loop() -> str:
        return "ran"

    assert asyncio.run(loop()) == "ran"
    (tmp_path / "proc").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["proc"]
    with sqlite3.connect(tmp_path / "store") as store:
        store.execute("CREATE TABLE t (x)")
