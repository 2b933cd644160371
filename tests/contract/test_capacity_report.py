"""`sri-libvirt capacity` as a process of its own: beside a working provider, on this host, and what it loads."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from sri_libvirt import app, statedir
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.cli.report.facts import BOOT_ID
from sri_libvirt.host import inventory
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import META_NEIGHBOURS
from tests.contract.loop import PATIENCE, Loop, serving_loop, until
from tests.unit.cli import reports

STRANGERS_ID = "0a0a0a0a-0000-4000-8000-000000000001"
STRANGER = f"""<domain type='qemu'><uuid>{STRANGERS_ID}</uuid>
<memory unit='GiB'>8</memory><vcpu>3</vcpu></domain>"""

HEAVY = (
    *("grpc", "google", "libvirt", "jinja2", "lxml", "yaml", "structlog", "prometheus_client", "rich", "psutil"),
    *("pyudev", "pycdlib", "asyncio", "subprocess", "sri_libvirt.api", "sri_libvirt.app", "sri_libvirt.metrics"),
)
"""What costs more to load than the whole report takes."""

LOADED = """
import json, sys
from sri_libvirt.cli import main
status = main.run(sys.argv[1:])
print(json.dumps([status, sorted(sys.modules)]), file=sys.stderr)
"""


def command(root: Path, *argv: str) -> list[str]:
    (root / "none.toml").touch()
    return [sys.executable, "-m", "sri_libvirt", "capacity", *argv, "--config", str(root / "none.toml")]


async def report(root: Path, *argv: str) -> dict[str, Any]:
    """The JSON that a process of its own prints."""
    done = await asyncio.to_thread(
        subprocess.run, command(root, "-o", "json", *argv), capture_output=True, text=True, check=True, timeout=300
    )
    found: dict[str, Any] = json.loads(done.stdout)
    assert reports.faults(found, reports.SHAPE) == []
    return found


async def agree(loop: Loop, root: Path, *argv: str) -> Mapping[str, tuple[int, int]]:
    """The report says what the provider's Status says; used and free by class."""
    status = await loop.stub.Status(pb.StatusRequest())
    said = {
        each.machine_class.name: (
            each.quantity,
            each.machine_class.capabilities.cpu_millis,
            each.machine_class.capabilities.memory_bytes,
        )
        for each in status.machine_class_status
    }
    found = (await report(root, *argv))["classes"]
    assert {each["name"]: (each["quantity"], each["cpu_millis"], each["memory_bytes"]) for each in found} == said
    offers = {offer.machine_class.name: offer for offer in loop.provider.pool.offers(loop.store.usage())}
    for each in found:
        offer = offers[each["name"]]
        assert (each["used"], each["free"], each["limited_by"]) == (offer.used, offer.free, offer.limited_by)
    return {each["name"]: (each["used"], each["free"]) for each in found}


async def test_it_says_what_a_working_provider_says(tmp_path: Path) -> None:
    tree = reports.server(tmp_path / "host")
    # this very host as a container sees it, through mounts elsewhere; so its store is its own
    tree.write(f"proc/{BOOT_ID}", (inventory.PROCFS / BOOT_ID).read_text().strip())
    wishes: dict[str, Any] = {"max_machines": 7, "disk_overcommit": Fraction(1000)}
    argv = ["--state-dir", str(tmp_path / "state"), "--sysfs", str(tree.sysfs), "--procfs", str(tree.procfs)]
    argv += ["--domain-type", "qemu", *(f"--{name.replace('_', '-')}={value}" for name, value in wishes.items())]
    paths = StatePaths(tmp_path / "state")
    statedir.prepare(paths)
    hardware = app.read_hardware(paths, sysfs=tree.sysfs, procfs=tree.procfs)
    hypervisor = FakeHypervisor()
    async with serving_loop(tmp_path, hypervisor, hardware=hardware, **wishes) as loop:
        assert (await agree(loop, tmp_path, *argv))["c1-m1"] == (0, 7)
        first = await loop.created()
        assert (await agree(loop, tmp_path, *argv))["c1-m1"] == (1, 6)
        connection = hypervisor.connect()
        connection.define(STRANGER)
        connection.start(STRANGERS_ID)
        await until("the stranger is charged", lambda: "cpu" in (loop.store.meta(META_NEIGHBOURS) or ""))
        assert (await agree(loop, tmp_path, *argv))["c4-m8"] == (0, 3)
        loop.provider.cordon.command("cordon", {"reason": "new disks"})
        assert (await agree(loop, tmp_path, *argv))["c1-m1"] == (1, 0)
        found = await report(tmp_path, *argv)
        assert "new disks" in found["closed"]
        assert found["host"]["foreign"] is False
    async with serving_loop(tmp_path, hypervisor, hardware=hardware, **wishes) as loop:
        loop.provider.cordon.command("uncordon", {})
        assert loop.store.machine(first)
        assert (await agree(loop, tmp_path, *argv))["c4-m8"] == (0, 3)
    assert (await report(tmp_path, *argv))["classes"][0]["used"] == 1, "also without the daemon"
    foreign = await report(tmp_path, *argv[:4], "--procfs", str(tmp_path))
    assert foreign["classes"][0]["used"] == 0


async def test_this_host(tmp_path: Path) -> None:
    found = await report(tmp_path, "--state-dir", str(tmp_path / "state"))
    host, known = found["host"], inventory.read()
    assert (host["foreign"], host["cpu"]["online"]) == (False, list(known.cpu.online))
    assert [node["id"] for node in host["numa"]] == [node.id for node in known.nodes]
    assert host["filesystem"]["path"] == str(tmp_path / "state")
    assert found["classes"]
    assert not (tmp_path / "state").exists()


def test_a_picture_of_this_host_without_a_terminal(tmp_path: Path) -> None:
    argv = command(tmp_path, "--state-dir", str(tmp_path / "state"))
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=300)
    assert "LIMITED BY" in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr.count("\n") == 1
    assert "shown as an empty host" in done.stderr


def test_what_a_report_loads(tmp_path: Path) -> None:
    """It starts in some tenths of a second: by what it does not load, which no busy machine makes wrong."""
    (tmp_path / "none.toml").touch()
    flags = ("--state-dir", str(tmp_path / "state"), "--config", str(tmp_path / "none.toml"))
    argv = [sys.executable, "-c", LOADED, "capacity", "-o", "json", *flags]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=300)
    status, modules = json.loads(done.stderr.splitlines()[-1])
    assert status == 0
    assert "sri_libvirt.store.reader" in modules
    assert [each for each in modules if each.startswith(tuple(f"{heavy}." for heavy in HEAVY)) or each in HEAVY] == []


def test_a_watched_report_ends_cleanly(tmp_path: Path) -> None:
    tree = reports.server(tmp_path / "host")
    argv = command(tmp_path, "--watch", "0.1", "--sysfs", str(tree.sysfs), "--procfs", str(tree.procfs))
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        guard = threading.Timer(PATIENCE * 4, process.kill)
        guard.start()
        try:
            pictures = 0
            while pictures < 2:
                line = process.stdout.readline()
                assert line, "it ended by itself"
                pictures += line.startswith("host ")
            process.send_signal(signal.SIGTERM)  # SIGINT is ignored by children of a job in the background
            _, errors = process.communicate()
        finally:
            guard.cancel()
    assert (process.returncode, errors) == (0, "")


def test_nothing_is_written(tmp_path: Path) -> None:
    tree = reports.server(tmp_path / "host")
    before = {path: path.lstat().st_mtime_ns for path in sorted(tree.root.rglob("*"))}
    argv = command(tmp_path, "-o", "prometheus", "--sysfs", str(tree.sysfs), "--procfs", str(tree.procfs))
    subprocess.run(argv, check=True, capture_output=True, timeout=300, cwd=tree.root, env={**os.environ, "HOME": "/"})
    assert {path: path.lstat().st_mtime_ns for path in sorted(tree.root.rglob("*"))} == before


@pytest.mark.parametrize("words", [["version"], ["capacity", "-o", "json"], ["capacity"], ["--help"]])
def test_a_full_standard_output_is_told(tmp_path: Path, words: list[str]) -> None:
    more = ["--state-dir", str(tmp_path)] if "capacity" in words else []
    with Path("/dev/full").open("w") as full:
        argv = [sys.executable, "-m", "sri_libvirt", *words, *more]
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "sri-libvirt: standard output: No space left on device: not everything was written" in done.stderr
    assert "Traceback" not in done.stderr
