"""What a provider does on a file system that its guests have filled, as a program for a small one of its own.

`python -m tests.contract.full_disk SCENARIO ROOT`: ROOT/state is the full file system. It fails by an AssertionError.
How it is mounted does not belong here (that is `test_full_disk.py`).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import time
from collections.abc import Awaitable
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import StoreError
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import Event, Machine, MachineClass
from sri_libvirt.store import Store, Transaction, room
from tests.contract.loop import Loop, disk, serving_loop, spec_of, until


def fill(paths: StatePaths, file: Path) -> None:
    """Fold the log, as a checkpoint does now and then, and write until nothing more goes in."""
    with closing(sqlite3.connect(paths.database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with file.open("ab", buffering=0) as ballast:
        for block in (1 << 20, 4096, 1):
            try:
                while True:
                    ballast.write(b"x" * block)
            except OSError:
                continue
    assert os.statvfs(paths.root).f_bavail == 0


def whole(paths: StatePaths) -> bool:
    return paths.reserve.stat().st_blocks * 512 >= room.BYTES


async def refused(call: Awaitable[object]) -> None:
    """The call is refused for want of room, with what to do about it."""
    with pytest.raises(grpc.aio.AioRpcError, match="free some space on its file system; machines can be deleted") as no:
        await call
    assert no.value.code() is grpc.StatusCode.UNAVAILABLE


async def full(loop: Loop, machines: list[str]) -> None:
    """One filled file system, what is taken and refused there, and the way out of it."""
    greedy, detached, off, deleted = machines
    fill(loop.paths, loop.paths.machine(greedy).root / "ballast")
    await refused(loop.create())
    await refused(loop.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=detached, volume=disk("more"))))
    await loop.stub.DetachNetworkInterface(pb.DetachNetworkInterfaceRequest(machine_id=detached, name="nic-isolated"))
    await loop.power(off, pb.POWER_OFF)
    await loop.stub.UpdateMachineAnnotations(
        pb.UpdateMachineAnnotationsRequest(machine_id=off, annotations={"generation": "2"})
    )
    await loop.state(off, "SUSPENDED")
    await refused(loop.power(off, pb.POWER_ON))
    await until("end of its device", lambda: len(loop.stored(detached).attachments) == 1, loop.explain)
    assert len(loop.live(detached).devices) == 1
    assert not whole(loop.paths), "the test has filled too little"
    assert loop.store.full()
    assert room.lacks(loop.paths.reserve)
    await refused(loop.create())
    await loop.delete(deleted)
    await loop.gone(deleted)
    await loop.delete(greedy)
    await loop.gone(greedy)
    await until("a whole reserve", lambda: whole(loop.paths) and not loop.store.full())
    assert not room.lacks(loop.paths.reserve)


async def again_and_again(root: Path) -> None:
    """A provider whose guests fill the file system, three times."""
    async with serving_loop(root, FakeHypervisor()) as loop:
        for _ in range(3):
            machines = [await loop.created(spec_of(disks=("data",), nics=("isolated",))) for _ in range(4)]
            await full(loop, machines)
            for machine_id in machines[1:3]:
                await loop.delete(machine_id)
                await loop.gone(machine_id)
        await loop.created()


async def begun_on_it(root: Path) -> None:
    """A provider that starts on a full file system, the reserve of which is there."""
    hypervisor = FakeHypervisor()
    async with serving_loop(root, hypervisor) as loop:
        machines = [await loop.created(spec_of(disks=("data",), nics=("isolated",))) for _ in range(4)]
    paths = StatePaths(root / "state")
    fill(paths, paths.machine(machines[0]).root / "ballast")
    async with serving_loop(root, hypervisor) as loop:
        assert await loop.health("") == "SERVING"
        await full(loop, machines)


def thousand(root: Path) -> None:
    """Works that end a thousand machines, some of the largest, all at once and on nothing but the reserve."""
    paths = StatePaths(root / "state")
    store = Store.open(paths, time.time_ns)
    large = pb.MachineSpec(ignition_data=os.urandom(1 << 20), volumes=[pb.Volume(name="v" * 64_000)])
    plain = pb.MachineSpec(ignition_data=os.urandom(8 << 10), volumes=[pb.Volume(name="v" * 2000)])
    ids = [f"m{number}" for number in range(1000)]
    for number, machine_id in enumerate(ids):
        spec = plain if number % 50 else large
        store.write(lambda tx, each=machine_id, spec=spec: tx.insert(machine(each, spec)), synced=False)  # type: ignore[misc]
    fill(paths, root / "state/ballast")
    with pytest.raises(StoreError, match="machines can be deleted"):
        store.write(lambda tx: tx.insert(machine("more", plain)))
    works = [store.submit(lambda tx, each=each: end(tx, each), relieving=True) for each in ids]  # type: ignore[misc]
    works += [store.submit(lambda tx, each=each: tx.forget(each), relieving=True) for each in ids]  # type: ignore[misc]
    for work in works:
        work.result(60)
    assert store.machine_ids() == []
    store.close()
    Store.open(paths, time.time_ns).close()


def end(tx: Transaction, machine_id: str) -> None:
    tx.set_deleted(machine_id, 1)
    for number in range(8):
        tx.add_event(machine_id, Event(kind="state", reason="any", message=f"word {number} of its end"))


def machine(machine_id: str, spec: pb.MachineSpec) -> Machine:
    return Machine(
        id=machine_id, labels={}, annotations={}, spec=spec, status=pb.MachineStatus(), generation=1,
        observed_generation=0, created_at=1, deleted_at=0, power_at=0, machine_class=MachineClass("c", 1, 1),
    )  # fmt: skip


if __name__ == "__main__":
    match sys.argv[1]:
        case "thousand":
            thousand(Path(sys.argv[2]))
        case "again-and-again":
            asyncio.run(again_and_again(Path(sys.argv[2])))
        case "begun-on-it":
            asyncio.run(begun_on_it(Path(sys.argv[2])))
