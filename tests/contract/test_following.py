"""`machine events --follow`, `list --watch` and `wait`: told by a working provider, also across its restart."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.records import Event
from tests.contract.loop import serving_loop, spec_of, until

PATIENCE = 30.0
STOPPED = "the provider has ended: waiting for it"


class Command:
    """`sri-libvirt machine …`, which runs."""

    def __init__(self, process: Process) -> None:
        self.process = process

    @classmethod
    async def begin(cls, root: Path, *words: str) -> Command:
        argv = ["-m", "sri_libvirt", "machine", *words, "--state-dir", str(root / "state")]
        return cls(await asyncio.create_subprocess_exec(sys.executable, *argv, stdout=PIPE, stderr=PIPE))

    async def line(self, *, wanted: str = "") -> str:
        """The next line that has these words."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while line := (await self.process.stdout.readline()).decode():
                if wanted in line:
                    return line.rstrip("\n")
        raise AssertionError(f"it ended without {wanted!r}: {(await self.process.communicate())[1].decode()}")

    async def warned(self, words: str) -> None:
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            while line := (await self.process.stderr.readline()).decode():
                if words in line:
                    return
        raise AssertionError(f"it never said {words!r}")

    async def ended(self) -> tuple[int, str]:
        async with asyncio.timeout(PATIENCE):
            _, told = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, told.decode()

    async def stop(self) -> None:
        self.process.kill()
        await self.process.communicate()


async def test_what_comes_is_told_once_and_in_order_also_by_the_next_provider(tmp_path: Path) -> None:
    hypervisor = FakeHypervisor()
    async with serving_loop(tmp_path, hypervisor) as loop:
        one = await loop.created()
        following = await Command.begin(tmp_path, "events", "-A", "-f", "-o", "json")
        seen = [json.loads(await following.line())]
        while seen[-1]["message"] != "the machine is running":
            seen.append(json.loads(await following.line()))
        assert {each["machine"] for each in seen} == {one}, "what there was comes first"
        other = await loop.created()
        told = [json.loads(await following.line())]
        while told[-1]["message"] != "the machine is running":
            told.append(json.loads(await following.line()))
        assert {each["machine"] for each in told} == {other}
        timeline = [event.message for event in loop.store.events(other)]
        assert [each["message"] for each in told] == timeline[: len(told)]
    await following.warned(STOPPED)
    async with serving_loop(tmp_path, hypervisor) as loop:
        await loop.stub.DeleteMachine(pb.DeleteMachineRequest(machine_id=one))
        last = [json.loads(await following.line())]
        while last[-1]["message"] != "the machine is terminated":
            last.append(json.loads(await following.line()))
        assert {each["machine"] for each in last} == {one}, "nothing is told twice"
        await following.stop()


async def test_a_line_that_comes_once_more_is_told_with_its_number(tmp_path: Path) -> None:
    async with serving_loop(tmp_path, FakeHypervisor()) as loop:
        machine_id = await loop.created()
        following = await Command.begin(tmp_path, "events", machine_id[:8], "-f")
        await following.line(wanted="the machine is running")
        for number in (1, 2, 3):
            loop.store.write(lambda tx: tx.add_event(machine_id, Event("console", "refused", "nobody may")))
            line = await following.line()
            assert line.endswith("nobody may") if number == 1 else f"({number} times, last " in line
        await following.stop()


async def test_a_watched_list_has_a_line_for_each_change_and_for_the_last_one(tmp_path: Path) -> None:
    async with serving_loop(tmp_path, FakeHypervisor()) as loop:
        watching = await Command.begin(tmp_path, "list", "-w", "--no-headers")
        machine_id = await loop.created()
        assert (await watching.line(wanted="RUNNING")).startswith(machine_id)
        await loop.stub.DeleteMachine(pb.DeleteMachineRequest(machine_id=machine_id))
        assert await watching.line(wanted="GONE") == f"{machine_id}  GONE"
        await watching.stop()


async def test_waiting_ends_when_it_is_so(tmp_path: Path) -> None:
    async with serving_loop(tmp_path, FakeHypervisor()) as loop:
        machine_id = await loop.create(spec_of(power=pb.POWER_OFF))
        running = await Command.begin(tmp_path, "wait", machine_id, "--for", "running", "--timeout", "1m")
        off = await Command.begin(tmp_path, "wait", machine_id, "--for", "off")
        assert await off.ended() == (0, "")
        await loop.stub.UpdateMachinePower(pb.UpdateMachinePowerRequest(machine_id=machine_id, power=pb.POWER_ON))
        assert await running.ended() == (0, "")
        volume = pb.Volume(name="data", device="oda")
        volume.empty_disk.size_bytes = 1 << 20
        await loop.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=volume))
        attached = await Command.begin(tmp_path, "wait", machine_id, "--for", "attached=data")
        assert await attached.ended() == (0, "")
        gone = await Command.begin(tmp_path, "wait", machine_id, "--for", "gone")
        status = await Command.begin(tmp_path, "wait", machine_id, "--for", "off", "--timeout", "1m")
        await loop.stub.DeleteMachine(pb.DeleteMachineRequest(machine_id=machine_id))
        assert await gone.ended() == (0, "")
        code, told = await status.ended()
        assert code == 1
        assert "is being deleted" in told or "is gone" in told
        again = await Command.begin(tmp_path, "wait", machine_id, "--for", "gone")
        assert await again.ended() == (0, "")


async def test_waiting_that_is_in_vain_says_why(tmp_path: Path) -> None:
    async with serving_loop(tmp_path, FakeHypervisor()) as loop:
        spec = spec_of()
        spec.image.image = f"{tmp_path}/images/none.raw"
        machine_id = await loop.create(spec)
        late = await Command.begin(tmp_path, "wait", machine_id, "--for", "running", "--timeout", "300ms")
        status, told = await late.ended()
        assert status == 1
        assert told.startswith("sri-libvirt: the time is over. Machine ")
        assert "is not there (yet)" in told
        never = await Command.begin(tmp_path, "wait", machine_id, "--for", "attached=other")
        assert await never.ended() == (1, "sri-libvirt: the machine has no volume or network interface 'other'\n")
        wrong = await Command.begin(tmp_path, "wait", machine_id, "--for", "peace")
        assert (await wrong.ended())[0] == 2
    without = await Command.begin(tmp_path, "wait", machine_id, "--for", "running")
    assert await without.ended() == (1, "sri-libvirt: the provider does not run, so nothing will change\n")


async def test_those_that_are_gone_are_known_by_name(tmp_path: Path) -> None:
    async with serving_loop(tmp_path, FakeHypervisor()) as loop:
        machine_id = await loop.create(uid="web")
        await loop.state(machine_id, "RUNNING")
        await loop.stub.DeleteMachine(pb.DeleteMachineRequest(machine_id=machine_id))
        waiting = await Command.begin(tmp_path, "wait", machine_id, "--for", "gone")
        assert await waiting.ended() == (0, "")
    listed = await Command.begin(tmp_path, "list", "--gone", "-o", "json")
    (gone,) = json.loads(await text(listed))
    assert (gone["id"], gone["namespace"], gone["name"]) == (machine_id, "default", "web")
    assert gone["run"]["stopped_by"] == "requested"
    table = await text(await Command.begin(tmp_path, "list", "--gone", "--no-headers"))
    assert table.split()[:2] == [machine_id, "default/web"]
    assert "power off as requested" in table
    events = await text(await Command.begin(tmp_path, "events", "default/web"))
    assert "the machine is running" in events


async def text(command: Command) -> str:
    async with asyncio.timeout(PATIENCE):
        out, told = await command.process.communicate()
    assert command.process.returncode == 0, told
    return out.decode()


async def test_where_the_time_of_a_machine_went(tmp_path: Path) -> None:
    """Of each thing that was asked for, with what its caller calls it; also once the machine is gone."""
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    async def told(*words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await text(await Command.begin(tmp_path, "trace", *words, "-o", "json")))
        return found

    async with serving_loop(tmp_path, FakeHypervisor()) as loop:
        request = pb.CreateMachineRequest(machine=pb.Machine(spec=spec_of(disks=("data",))))
        reply = await loop.stub.CreateMachine(request, metadata=(("traceparent", parent), ("traceparents", "x")))
        machine_id = reply.machine.metadata.id
        await loop.state(machine_id, "RUNNING")
        await until("the pass", lambda: any(each.name == "Start" for each in loop.provider.traces.of(machine_id)))
        made = await told(machine_id)
        assert (made["cause"], made["spans"][0]["parent"]) == ("CreateMachine", parent)
        names = [each["name"] for each in made["spans"]]
        assert {"Look", "PrepareDevice", "Define", "Start"} <= set(names)
        assert sum(each["seconds"] for each in made["spans"]) == pytest.approx(made["total_seconds"])
        (prepared,) = {each["device"] for each in made["spans"] if each["name"] == "PrepareDevice"}
        assert prepared == loop.stored(machine_id).attachments[0].alias
        assert {"snapshot", "define", "start"} <= {each["name"] for each in made["calls"]}
        assert "the machine is running" in [each["message"] for each in made["events"]]
        await loop.stub.DeleteMachine(pb.DeleteMachineRequest(machine_id=machine_id), metadata=(("traceparent", "x"),))
        await loop.gone(machine_id)
        await until("the pass", lambda: any(each.name == "Forget" for each in loop.provider.traces.of(machine_id)))
        gone = await told(machine_id)
        assert (gone["cause"], gone["spans"][0]["parent"], gone["spans"][-1]["name"]) == (
            "DeleteMachine",
            None,
            "Forget",
        )
        assert (await told(machine_id, "--run", "2"))["cause"] == "CreateMachine"


async def test_who_watches_keeps_his_hold_on_the_store(tmp_path: Path) -> None:
    """Else a restore beside him would not know of him, and he would go on with a store that is no more."""
    async with serving_loop(tmp_path, FakeHypervisor()) as loop:
        await loop.created()
        watching = await Command.begin(tmp_path, "list", "--watch", "--no-headers")
        await watching.line(wanted="RUNNING")
        await until("a follower", lambda: loop.provider.admin._followers == 1)
        database = loop.paths.database
    await watching.warned(STOPPED)
    with (
        closing(sqlite3.connect(database, timeout=0)) as other,
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        other.execute("PRAGMA journal_mode=DELETE")
    await watching.stop()
