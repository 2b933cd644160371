"""Volumes that grow under a running guest, with real files and real probes: seen by themselves, and when asked for."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sri_libvirt import app
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DiskSource
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.records import SECOND
from sri_libvirt.server import asking
from tests.contract.loop import MIB, Loop, serving_loop, spec_of, until


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "files" / "a.raw"
    path.parent.mkdir()
    path.touch()
    os.truncate(path, MIB)
    return path


@pytest.fixture
def period() -> float:
    return 3600.0


@dataclass
class Clock:
    """The real time, and what a test lets pass besides."""

    ahead: int = 0

    def __call__(self) -> int:
        return time.time_ns() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def loop(
    tmp_path: Path, disk: Path, period: float, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Loop]:
    monkeypatch.setattr(app, "VOLUME_SECONDS", period)
    async with serving_loop(tmp_path, FakeHypervisor(), clock=clock, file_dir=(disk.parent,)) as loop:
        yield loop


async def with_disk(loop: Loop, disk: Path) -> str:
    """A machine that runs with it."""
    spec = spec_of()
    connection = pb.VolumeConnection(driver="file", handle="h", attributes={"path": str(disk), "format": "raw"})
    spec.volumes.add(name="data", device="oda", connection=connection)
    return await loop.created(spec)


async def rescan(loop: Loop, machine_id: str) -> dict[str, Any]:
    arguments = {"machine": machine_id, "volume": ""}
    (told,) = await asyncio.to_thread(asking.ask, loop.paths.admin_socket, "rescan", arguments)
    found: dict[str, Any] = told
    return found


def size(loop: Loop, machine_id: str) -> int:
    (row,) = loop.stored(machine_id).attachments
    assert isinstance(row.backing, DiskSource)
    return row.backing.size


async def test_a_rescan_lets_the_guest_see_all_of_it_at_once_and_again(loop: Loop, disk: Path) -> None:
    machine_id = await with_disk(loop, disk)
    assert (await rescan(loop, machine_id))["outcome"] == "same"
    for larger in (2 * MIB, 3 * MIB):
        os.truncate(disk, larger)
        assert (await rescan(loop, machine_id))["outcome"] == "grown"
        assert loop.hypervisor.disk_sizes(machine_id) == {"vda": larger}
        assert size(loop, machine_id) == larger
    assert loop.told(machine_id).count(("device", "grown")) == 2


async def test_a_smaller_one_is_told_of_and_nothing_is_cut(loop: Loop, disk: Path) -> None:
    machine_id = await with_disk(loop, disk)
    os.truncate(disk, MIB // 2)
    assert (await rescan(loop, machine_id))["outcome"] == "smaller"
    assert (loop.hypervisor.disk_sizes(machine_id), size(loop, machine_id)) == ({}, MIB)


async def test_one_that_has_gone_is_told_of_by_a_rescan_and_by_machine_get(loop: Loop, disk: Path) -> None:
    machine_id = await with_disk(loop, disk)
    disk.unlink()
    told = await rescan(loop, machine_id)
    assert told["outcome"] not in ("same", "grown")
    assert str(disk) in told["message"]
    heard = await asyncio.to_thread(asking.ask, loop.paths.admin_socket, "volumes", {"machine": machine_id})
    assert heard["data"]["answers"] is False
    assert str(disk) in heard["data"]["problem"]


@pytest.mark.parametrize("period", [0.2])
async def test_the_provider_sees_it_by_itself(loop: Loop, disk: Path) -> None:
    machine_id = await with_disk(loop, disk)
    os.truncate(disk, 2 * MIB)
    await until("a larger disk", lambda: ("device", "grown") in loop.told(machine_id), loop.explain)
    assert loop.hypervisor.disk_sizes(machine_id) == {"vda": 2 * MIB}


async def test_one_that_grew_while_its_guest_was_off_is_measured_before_the_start(
    loop: Loop, disk: Path, clock: Clock
) -> None:
    machine_id = await with_disk(loop, disk)
    await loop.off(machine_id)
    os.truncate(disk, 2 * MIB)
    clock.ahead += 120 * SECOND  # an answer of before is good for some seconds
    assert (await rescan(loop, machine_id))["outcome"] == "not-asked"
    await loop.on(machine_id)
    assert size(loop, machine_id) == 2 * MIB
    assert loop.hypervisor.disk_sizes(machine_id) == {}
