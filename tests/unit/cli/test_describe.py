"""`machine describe`: one page, whatever of its sources is missing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sri_libvirt import config
from sri_libvirt.devices import DiskSource
from sri_libvirt.errors import HypervisorError, NotReady
from sri_libvirt.hypervisor.base import Connection
from sri_libvirt.looks import Looks
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import SECOND, Event
from sri_libvirt.resources import CPU, MEMORY, Claim
from sri_libvirt.store import Reader, Store
from sri_libvirt.views import live, page
from sri_libvirt.views.page import Page
from tests.unit.cli.conftest import DB, NOW, SECRET, WEB, Cli, machine

DOMAIN = {"state": "running", "reason": "booted", "managed_save": False, "problem": None}
PROCESS = {
    "pid": 4711,
    "cgroup": "/machine.slice/x",
    "uptime_seconds": 75.0,
    "cpu_seconds": 3.5,
    "resident_bytes": 1 << 28,
}


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What libvirt, the kernel and QEMU's logs say; the directory of the logs."""
    monkeypatch.setattr(live, "domain", lambda *_: DOMAIN)
    monkeypatch.setattr(live, "process", lambda *_: PROCESS)
    logs = tmp_path / "qemu"
    logs.mkdir()
    monkeypatch.setattr(page, "QEMU_LOGS", logs)
    return logs


def test_a_page(cli: Cli, store: Store, state_dir: Path, host: Path) -> None:
    store.write(lambda tx: tx.claim(WEB, [Claim(CPU, 1000), Claim(MEMORY, 1 << 30)]))
    running = Event("state", "running", "the machine is running", NOW + SECOND)
    store.write(lambda tx: tx.add_event(WEB, running))
    files = StatePaths(state_dir).machine(WEB)
    files.root.mkdir()
    files.console_log.write_bytes(b"a\r\nlogin: \x1b[31mred\x1b[0m\x07\n")
    (host / f"{WEB}.log").write_bytes(LOG)
    page = cli("machine", "describe", "default/web").out
    lines = [" ".join(line.split()) for line in page.splitlines()]
    for line in (
        f"id {WEB}",
        "name default/web",
        "class c1-m1 (1 CPU, 1 GiB)",
        "state RUNNING since 2023-11-14T22:13:21Z, power ON",
        "domain running (booted)",
        "QEMU process 4711 for 75.0 s, 3.5 s of CPU, 256 MiB resident, in /machine.slice/x",
        "login: red\ufffd",
        "qemu-system-x86_64: terminating on signal 15",
    ):
        assert line in lines, page
    (nic,) = [line.split() for line in lines if line.startswith("nic lan ") and "ATTACHED" in line]
    assert nic == ["nic", "lan", "ATTACHED", f"02:00:00:00:00:{WEB[-2:]}"]
    assert "class c1-m1 1 CPU 1 GiB -" in lines
    assert SECRET not in page
    assert "master-key" not in page


LOG = b"""2026-12-01 02:00:00.000+0000: starting up libvirt version: 9.0.0
LC_ALL=C \\
PATH=/usr/bin \\
/usr/bin/qemu-system-x86_64 \\
-name guest=x \\
-object '{"qom-type":"secret","id":"masterKey0","format":"raw","file":"/master-key"}' \\
-msg timestamp=on
char device redirected to /dev/pts/1 (label charserial0)
qemu-system-x86_64: terminating on signal 15
"""


@pytest.mark.usefixtures("store")
def test_reasons_and_problems_are_on_the_page(cli: Cli) -> None:
    page = cli("machine", "describe", DB).out
    assert (
        "The image is not ready: no such file (device-not-ready, since 2023-11-14T22:13:20Z).\n  Put it there.\n"
        in page
    )
    assert "waits for the image" in page


@pytest.mark.usefixtures("store")
def test_the_same_as_data(cli: Cli) -> None:
    found = json.loads(cli("machine", "describe", WEB, "-o", "json").out)
    assert found["domain"] == {**DOMAIN, "process": PROCESS, "process_problem": None}
    assert (found["gone"], found["console_log"], found["qemu_log"]) == (None, [], [])
    assert found["devices"][-1]["pci_address"] is None, "it has no port yet"
    assert SECRET not in json.dumps(found)


def test_of_one_that_is_gone_by_its_name(cli: Cli, store: Store, host: Path) -> None:
    store.write(lambda tx: tx.forget(WEB))
    (host / f"{WEB}.log").write_bytes(LOG)
    page = cli("machine", "describe", "default/web").out
    assert page.splitlines()[0].split() == ["id", WEB]
    assert "gone  " in page
    assert "terminating on signal 15" in page
    found = json.loads(cli("machine", "describe", WEB[:12], "-o", "json").out)
    assert (found["name"], found["class"]) == ("web", "c1-m1")
    assert [each["id"] for each in json.loads(cli("machine", "list", "--gone", "-o", "json").out)] == [WEB]
    assert cli("machine", "describe", "default/other").status == 1


def test_a_heir_of_its_name_comes_before_one_that_is_gone(cli: Cli, store: Store) -> None:
    heir = "11111111-cccc-4000-8000-000000000003"
    store.write(lambda tx: tx.forget(WEB))
    store.write(lambda tx: tx.insert(machine(heir, "web", NOW)))
    assert json.loads(cli("machine", "describe", "default/web", "-o", "json").out)["id"] == heir


def test_what_hangs_or_fails_is_named_and_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, looks = threading.Event(), Looks(patience=0.05)

    def late() -> Connection:
        hangs.wait(60)
        raise HypervisorError("gone")

    def refused() -> Connection:
        raise HypervisorError("no socket")

    monkeypatch.undo()
    assert live.domain(refused, looks, WEB)["problem"] == "no socket"
    for _ in range(2):
        told = live.domain(late, looks, WEB)
        assert told["state"] is None
        assert "asking libvirt for a domain goes on since" in told["problem"]
    assert looks.late() == 1, "the second has not begun another"
    hangs.set()


def test_what_files_take_is_asked_of_files_alone_and_of_a_server_that_hangs_not_for_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reader: Reader
) -> None:
    hangs, stat = threading.Event(), Path.stat

    def late(path: Path, **options: Any) -> Any:
        if path.name == "zhangs":
            hangs.wait(60)
        return stat(path, **options)

    (tmp_path / "good").write_bytes(b"x")
    good = DiskSource("h", str(tmp_path / "good"), "raw", 1)
    volume = replace(good, kind="network", protocol="rbd", path=str(tmp_path / "good"))
    pages = Page(reader, config.load({}), lambda: pytest.fail("libvirt is not asked"), Looks(patience=0.05))
    assert pages._real_sizes([volume, None, replace(good, path="/nowhere")]) == {}
    monkeypatch.setattr(Path, "stat", late)
    taken = pages._real_sizes([good, replace(good, path=str(tmp_path / "zhangs")), replace(good, path="/zzz")])
    hangs.set()
    assert list(taken) == [good.path]


def test_two_pages_at_a_time_both_know_what_files_take(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reader: Reader
) -> None:
    going_on, stat = threading.Event(), Path.stat

    def slow(path: Path, **options: Any) -> Any:
        if path.name == "disk":
            going_on.wait(60)
        return stat(path, **options)

    (tmp_path / "disk").write_bytes(b"x")
    disk, looks = DiskSource("h", str(tmp_path / "disk"), "raw", 1), Looks()
    pages = Page(reader, config.load({}), lambda: pytest.fail("libvirt is not asked"), looks)
    monkeypatch.setattr(Path, "stat", slow)
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(pages._real_sizes, [disk]) for _ in range(2)]
        going_on.set()
        assert [list(each.result()) for each in found] == [[disk.path]] * 2


def test_a_log_without_a_line_break_is_no_long_page(cli: Cli, store: Store, state_dir: Path) -> None:
    """A guest can write as much as its log holds, four files of 2 MiB, and never end a line."""
    files = StatePaths(state_dir).machine(WEB)
    files.root.mkdir()
    for name in ("console.log.2", "console.log.1", "console.log.0"):
        (files.root / name).write_bytes(b"x" * (2 << 20))
    files.console_log.write_bytes(b"last words")
    (line,) = json.loads(cli("machine", "describe", WEB, "-o", "json").out)["console_log"]
    assert len(line) == 64 << 10
    assert line.endswith("xlast words")
    files.console_log.write_bytes(b"\0" * (2 << 20) + b"\nlogin: ")
    assert json.loads(cli("machine", "describe", WEB, "-o", "json").out)["console_log"][1:] == ["login: "]


def test_a_kernel_that_does_not_say_is_no_process_that_is_gone(
    cli: Cli, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hangs(*_: object) -> None:
        raise NotReady("looking at the guests' processes goes on since yesterday")

    monkeypatch.setattr(live, "process", hangs)
    assert "unknown: looking at the guests' processes goes on" in cli("machine", "describe", WEB).out
    domain = json.loads(cli("machine", "describe", WEB, "-o", "json").out)["domain"]
    assert (domain["process"], domain["process_problem"][:7]) == (None, "looking")


@pytest.fixture
def reader(store: Store, state_dir: Path) -> Iterator[Reader]:
    with Reader.open(StatePaths(state_dir)) as opened:
        yield opened
