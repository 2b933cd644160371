"""`sri-libvirt classes`: where its classes come from, and its forms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sri_libvirt.capacity import ladder
from sri_libvirt.records import GIB
from sri_libvirt.store import Store
from tests.unit.cli.conftest import Cli

FILE = "classes:\n- {name: half, cpu: 500m, memory: 1536Mi, root_disk: 20Gi, firmware: bios}\n"


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "classes.yaml"
    path.write_text(FILE)
    return str(path)


def test_those_of_a_file(cli: Cli, file: str) -> None:
    result = cli("classes", "--machine-classes", file)
    assert result.status == 0
    assert result.out.splitlines()[0].split() == ["NAME", "CPU", "MEMORY", "OVERHEAD", "ROOT", "DISK", "FIRMWARE"]
    assert result.out.splitlines()[1].split() == ["half", "500m", "1.5", "GiB", "139", "MiB", "20", "GiB", "bios"]
    (data,) = json.loads(cli("classes", "--machine-classes", file, "-o", "json").out)
    assert data == {
        "name": "half",
        "cpu_millis": 500,
        "memory_bytes": 3 << 29,
        "memory_overhead_bytes": 139 << 20,
        "root_disk_bytes": 20 * GIB,
        "firmware": "bios",
    }


def test_the_ladder_as_the_store_keeps_it(cli: Cli, store: Store) -> None:
    store.write(lambda tx: ladder.freeze(tx, ladder.steps(1, 2 * GIB)))
    assert [line.split()[0] for line in cli("classes").out.splitlines()[1:]] == ["c1-m1", "c1-m2"]


def test_without_a_store_the_ladder_of_this_host(
    cli: Cli, state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal: {5 << 20} kB\n")
    cpus = tmp_path / "devices/system/cpu"
    cpus.mkdir(parents=True)
    for file in ("online", "possible", "present"):
        (cpus / file).write_text("0-1\n")
    for number in range(2):
        (cpus / f"cpu{number}/topology").mkdir(parents=True)
        (cpus / f"cpu{number}/topology/thread_siblings").write_text(f"{1 << number:x}\n")
        (cpus / f"cpu{number}/topology/core_siblings").write_text("3\n")
    for root in ("SYSFS", "PROCFS"):
        monkeypatch.setenv(f"SRI_LIBVIRT_{root}", str(tmp_path))
    assert [line.split()[0] for line in cli("classes").out.splitlines()[1:]] == ["c1-m1", "c1-m2", "c1-m4", "c2-m4"]
    assert not state_dir.exists()


def test_manifests_can_be_checked_against_themselves(cli: Cli, file: str, tmp_path: Path) -> None:
    printed = cli("classes", "--machine-classes", file, "--manifests")
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(printed.out)
    result = cli("classes", "--machine-classes", file, "--check", str(cluster))
    assert (result.status, result.out) == (0, "ok      half is equal\n")


def test_a_class_that_is_dropped_is_status_1(cli: Cli, file: str, tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(cli("classes", "--machine-classes", file, "--manifests").out.replace("500m", "1"))
    result = cli("classes", "--machine-classes", file, "--check", str(cluster))
    assert result.status == 1
    assert result.out == "DROPPED half has cpu 500m here and 1 in the cluster\n"
    assert "drops 1 of 1 classes" in result.err
    (found,) = json.loads(cli("classes", "--machine-classes", file, "--check", str(cluster), "-o", "json").out)
    assert found["dropped"] is True


def test_drain_wants_to_be_told_that_guests_are_shut_down(cli: Cli) -> None:
    assert cli("drain").status == 2
    assert "--shutdown" in cli("drain").err
    assert cli("drain", "--shutdown", "--wait", "soon").status == 2
