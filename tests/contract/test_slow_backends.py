"""A backend that does not answer holds up the machines that need it, says so, and nobody else.

Its server accepts and is silent, which is what QEMU waits for without end; the hypervisor is the fake.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import CapturingLogger

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.reconcile import lane
from sri_libvirt.records import SECOND
from tests.backends.daemon import wait_until
from tests.backends.nbd import NbdServer
from tests.contract.loop import Loop, serving_loop, spec_of, until

LANES = 4
WAITING = 100
STARTS = 15


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NbdServer]:
    """An NBD server of one export, `disk`."""
    file = tmp_path / "disk.raw"
    file.write_bytes(b"\xeb\x3c\x90" + bytes((1 << 20) - 3))
    with closing(NbdServer(file, "disk")) as made:
        made.start()
        yield made


def address(server: NbdServer) -> str:
    return f"{server.host}:{server.port}"


def volume(server: NbdServer, handle: str) -> pb.Volume:
    connection = pb.VolumeConnection(driver="nbd", handle=handle)
    connection.attributes.update(address=address(server), export="disk")
    return pb.Volume(name="data", device="oda", connection=connection)


def spec(server: NbdServer, handle: str = "1") -> pb.MachineSpec:
    made = spec_of()
    made.volumes.append(volume(server, handle))
    return made


async def start(loop: Loop) -> float:
    """Seconds from a create to a guest that runs, of a machine that needs nothing of the backend."""
    begun = time.monotonic()
    machine_id = await loop.create()
    while loop.store.states()[machine_id][0] != pb.MACHINE_RUNNING:
        await asyncio.sleep(0.001)
    return time.monotonic() - begun


async def test_a_hundred_machines_on_a_silent_backend_delay_no_other_start(tmp_path: Path, server: NbdServer) -> None:
    server.daemon.freeze()
    async with serving_loop(tmp_path, FakeHypervisor(), lanes=LANES, probe_timeout=2 * SECOND) as loop:
        alone = statistics.median([await start(loop) for _ in range(STARTS)])
        waiting = [await loop.create(spec(server, str(number))) for number in range(WAITING)]
        beside = [await start(loop) for _ in range(STARTS)]
        assert statistics.median(beside) < alone + 0.1, "while all ask for the first time"
        for machine_id in waiting:
            assert "no answer from the NBD server" in await loop.reason(machine_id, "backend-silent")
        beside = [await start(loop) for _ in range(STARTS)]
        assert statistics.median(beside) < alone + 0.1, "while one asks for all"
        assert loop.provider._jobs.counts()[1] == 0


async def test_many_credentials_at_one_silent_place_delay_no_other_backend(tmp_path: Path, server: NbdServer) -> None:
    """Nobody knows whether that place would answer to another password, so each of them asks for itself."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with serving_loop(tmp_path, FakeHypervisor(), lanes=LANES, probe_timeout=60 * SECOND) as loop:
            for number in range(20):
                await loop.create(with_password(silent.getsockname()[1], number))
            await until("all that ask", lambda: sum(loop.provider._jobs.counts()) == 20, loop.explain)
            machine_id = await loop.create(spec(server))
            await until("one that runs", lambda: running(loop, [machine_id]), loop.explain)


def with_password(port: int, number: int) -> pb.MachineSpec:
    """A machine whose iSCSI portal wants a password of its own."""
    made = spec_of()
    connection = made.volumes.add(name="data", device="oda").connection
    connection.driver, connection.handle = "iscsi", str(number)
    connection.attributes.update(portal=f"127.0.0.1:{port}", target="iqn.2024-01.test:disk", lun="1")
    connection.secret_data.update(username=b"tenant", password=b"password %04d" % number)
    return made


async def test_machines_are_started_by_themselves_once_it_answers(tmp_path: Path, server: NbdServer) -> None:
    server.daemon.freeze()
    async with serving_loop(tmp_path, FakeHypervisor(), probe_timeout=SECOND) as loop:
        waiting = [await loop.create(spec(server, str(number))) for number in range(3)]
        for machine_id in waiting:
            await loop.reason(machine_id, "backend-silent")
        server.daemon.thaw()
        # The three are one disk, by three handles: one has it, the others are told who.
        await until("one that runs", lambda: running(loop, waiting), loop.explain)
        (first,) = running(loop, waiting)
        for machine_id in set(waiting) - {first}:
            assert first in await loop.reason(machine_id, "held")
        await loop.delete(first)
        await until("the next", lambda: running(loop, set(waiting) - {first}), loop.explain)


def running(loop: Loop, machines: object) -> list[str]:
    states = loop.store.states()
    return [each for each in machines if each in states and states[each][0] == pb.MACHINE_RUNNING]  # type: ignore[attr-defined]


async def test_a_volume_is_attached_and_given_back(
    tmp_path: Path, server: NbdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = CapturingLogger()
    monkeypatch.setattr(lane, "log", log)
    async with serving_loop(tmp_path, FakeHypervisor(), detach_settle=0) as loop:
        machine_id = await loop.created()
        request = pb.AttachVolumeRequest(machine_id=machine_id, volume=volume(server, "1"))
        await loop.stub.AttachVolume(request)
        await until("ATTACHED", lambda: attached(loop, machine_id), loop.explain)
        assert "action waits" in {call.args[0] for call in log.calls}
        assert {call.method_name for call in log.calls} <= {"debug", "info"}
        (source,) = (each.source for each in loop.live(machine_id).devices.values())
        assert source == f"nbd:disk@{address(server)}"
        assert (await loop.machine(machine_id)).status.volumes[0].handle == "nbd/1"
        await loop.stub.DetachVolume(pb.DetachVolumeRequest(machine_id=machine_id, name="data"))
        await until("gone", lambda: not loop.stored(machine_id).attachments, loop.explain)


def attached(loop: Loop, machine_id: str) -> bool:
    return [each.state for each in loop.stored(machine_id).status.volumes] == [pb.VOLUME_ATTACHED]


async def test_a_stop_of_the_provider_ends_its_probes(tmp_path: Path, server: NbdServer) -> None:
    server.daemon.freeze()
    async with serving_loop(tmp_path, FakeHypervisor(), probe_timeout=60 * SECOND) as loop:
        await loop.create(spec(server))
        await until("a probe", lambda: loop.provider._jobs.counts() == (1, 0), loop.explain)
        begun = time.monotonic()
    assert time.monotonic() - begun < 30
    wait_until(lambda: loop.provider._jobs.counts() == (0, 0), "no probe left")
