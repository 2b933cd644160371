"""What is told of machines to who may use the SRI's socket and read nothing else: by the daemon, on another socket."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import stat
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import FailedPrecondition, NotFound, SRIError, Unavailable
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.server import admin, asking
from sri_libvirt.server.admin import CommandSocket
from sri_libvirt.store.changes import Changes
from sri_libvirt.views.machines import MOST_IDS, QUESTIONS
from tests.contract.loop import Loop, serving_loop, spec_of, until

SECRET, KEY = "hunter2", "aHVudGVyMg=="
PATIENCE = 60.0

BECOME = """
import os, sys
from importlib import import_module
from pkgutil import walk_packages
import difflib, rich.cells, yaml, sri_libvirt
for each in walk_packages(sri_libvirt.__path__, "sri_libvirt."):
    if not each.name.endswith("__main__"):
        import_module(each.name)  # where Python and we lie may not be for everybody
uid, gid = map(int, sys.argv[1:3])
os.setgroups([])
os.setgid(gid)
os.setuid(uid)
from sri_libvirt.cli import main
main.main(sys.argv[3:])
"""


async def begun(root: Path, uid: int, gid: int, *words: str) -> Process:
    """`sri-libvirt machine …` of a user of one group, without any capability."""
    argv = [sys.executable, "-c", BECOME, str(uid), str(gid), "machine", *words]
    env = {**os.environ, "SRI_LIBVIRT_STATE_DIR": str(root / "state"), "SRI_LIBVIRT_CONFIG": "/dev/null"}
    return await asyncio.create_subprocess_exec(*argv, stdout=PIPE, stderr=PIPE, env=env)


async def done(process: Process) -> tuple[int | None, str, str]:
    async with asyncio.timeout(PATIENCE):
        out, told = await process.communicate()
    return process.returncode, out.decode(), told.decode()


class Somebody:
    """Who is in the group of the SRI's socket, or not."""

    def __init__(self, root: Path, uid: int, gid: int) -> None:
        self._who = (root, uid, gid)

    async def begin(self, *words: str) -> Process:
        return await begun(*self._who, *words)

    async def run(self, *words: str) -> tuple[int | None, str, str]:
        return await done(await self.begin(*words))

    async def data(self, *words: str) -> Any:
        status, out, told = await self.run(*words, "-o", "json")
        assert (status, told) == (0, ""), told
        return json.loads(out)


@pytest.fixture
def member(tmp_path: Path) -> Somebody:
    return Somebody(tmp_path, pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("games").pw_gid)


@pytest.fixture
def group(tmp_path: Path) -> str:
    """That of the provider's sockets; its directories can be passed."""
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    for path in (tmp_path, *tmp_path.parents):
        if str(path).startswith("/tmp/pytest"):
            path.chmod(0o711)
    return str(pwd.getpwnam("games").pw_gid)


async def made(loop: Loop) -> str:
    spec = spec_of(disks=("data",))
    spec.ignition_data = f"#cloud-config {SECRET}".encode()
    machine_id = await loop.create(spec, uid="web")
    await loop.state(machine_id, "RUNNING")
    return machine_id


async def test_every_question_is_answered_as_root_answers_it_himself(
    tmp_path: Path, member: Somebody, group: str
) -> None:
    async with serving_loop(tmp_path, FakeHypervisor(), socket_group=group) as loop:
        machine_id = await made(loop)
        root = Somebody(tmp_path, 0, 0)
        await until("rest", lambda: any(each.name == "Start" for each in loop.provider.traces.of(machine_id)))
        for words in (
            ("list",),
            ("list", "--state", "RUNNING"),
            ("get", "default/web"),
            ("why", machine_id[:8]),
            ("events", "web"),
            ("events", "--all", "--since", "10m"),
            ("trace", machine_id),
        ):
            assert await member.data(*words) == await root.data(*words), words
            status, out, told = await member.run(*words)
            assert (status, told) == (0, ""), words
            assert out
        page, own = await member.data("describe", "web"), await root.data("describe", "web")
        # The provider asks its own libvirt, here the fake; who asks himself does not know of that.
        assert (page["domain"].pop("state"), own.pop("domain") is not None) == ("running", True)
        page.pop("domain")
        assert page == own
        await loop.stub.DeleteMachine(pb.DeleteMachineRequest(machine_id=machine_id))
        await until("gone", lambda: loop.store.machine(machine_id) is None)
        assert await member.data("list", "--gone") == await root.data("list", "--gone")
        assert (await member.run("get", "web"))[2].startswith("sri-libvirt: there is no machine 'web'")


async def test_changes_are_told(tmp_path: Path, member: Somebody, group: str) -> None:
    async with serving_loop(tmp_path, FakeHypervisor(), socket_group=group) as loop:
        machine_id = await made(loop)
        waiting = await member.begin("wait", "web", "--for", "off")
        watching = await member.begin("list", "--watch", "--no-headers")
        following = await member.begin("events", "web", "--follow")
        for each in (watching, following):
            assert each.stdout is not None
            async with asyncio.timeout(PATIENCE):
                assert await each.stdout.readline()
        await loop.power(machine_id, pb.POWER_OFF)
        assert await done(waiting) == (0, "", "")
        for each, wanted in ((watching, "SUSPENDED"), (following, "the machine is suspended")):
            assert each.stdout is not None
            async with asyncio.timeout(PATIENCE):
                while wanted not in (line := (await each.stdout.readline()).decode()):
                    assert line, wanted
            each.kill()
            await each.communicate()
        status, out, told = await member.run("wait", "web", "--for", "attached=none")
        assert (status, out) == (1, "")
        assert "has no volume or network interface 'none'" in told


async def test_no_answer_holds_a_secret(tmp_path: Path) -> None:
    async with serving_loop(tmp_path, FakeHypervisor()) as loop:
        machine_id = await made(loop)
        locked = pb.Volume(name="locked", device="odc", connection=pb.VolumeConnection(driver="ceph", handle="h"))
        locked.connection.secret_data.update(userID=b"u", userKey=KEY.encode())
        locked.connection.encryption_data["encryptionKey"] = SECRET.encode()
        locked.connection.attributes.update(monitors="[::1]:1", image="p/i")
        await loop.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=locked))
        for question in QUESTIONS:
            arguments = {} if question in ("list", "gone") else {"machine": machine_id}
            answer = await asyncio.to_thread(asking.ask, loop.paths.reading_socket, question, arguments)
            assert question == "gone" or machine_id in json.dumps(answer)
            assert SECRET not in json.dumps(answer)
            assert KEY not in json.dumps(answer)


async def test_who_watches_goes_on_with_the_next_provider(tmp_path: Path, member: Somebody, group: str) -> None:
    hypervisor = FakeHypervisor()
    async with serving_loop(tmp_path, hypervisor, socket_group=group) as loop:
        machine_id = await loop.created()
        watching = await member.begin("list", "--watch", "--no-headers")
        await until("a follower", lambda: loop.provider.reading._followers == 1)
    assert watching.stderr is not None
    assert watching.stdout is not None
    async with asyncio.timeout(PATIENCE):
        assert await watching.stderr.readline() == b"sri-libvirt: the provider has ended: waiting for it\n"
    async with serving_loop(tmp_path, hypervisor, socket_group=group) as loop:
        await until("a follower", lambda: loop.provider.reading._followers == 1)
        await loop.power(machine_id, pb.POWER_OFF)
        async with asyncio.timeout(PATIENCE):
            while b"SUSPENDED" not in (line := await watching.stdout.readline()):
                assert line
        watching.kill()
        await watching.communicate()


async def test_who_is_in_no_such_group_is_told_who_may(tmp_path: Path, member: Somebody, group: str) -> None:
    async with serving_loop(tmp_path, FakeHypervisor(), socket_group="0"):
        path = tmp_path / "state" / "read.sock"
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        for words in (("list",), ("why", "x"), ("wait", "x", "--for", "off")):
            status, out, told = await member.run(*words)
            assert (status, out) == (1, "")
            assert "is not for this user" in told
            assert "--socket-group may ask it" in told
    assert not path.exists()


async def test_nothing_can_be_changed_by_it_and_nonsense_is_refused(tmp_path: Path) -> None:
    async with serving_loop(tmp_path, FakeHypervisor()) as loop:
        machine_id = await made(loop)

        async def ask(command: str, arguments: dict[str, Any]) -> Any:
            return await asyncio.to_thread(asking.ask, loop.paths.reading_socket, command, arguments)

        for command in ("sweep", "confirm", "rescan", "cordon", "drain", "images-pull", "images-prune", "spans"):
            with pytest.raises(FailedPrecondition, match="is not one of list, gone, find"):
                await ask(command, {})
        for command in QUESTIONS:
            for arguments in (
                {"machine": 1, "ids": "x", "since": -1},
                {"machine": ["x"], "ids": [1], "ago": "x"},
                {"machine": None, "ids": [None], "after": 1 << 63},
                {"machine": "../../etc", "ids": {}, "since": True},
            ):
                if command == "gone":
                    assert await ask(command, arguments) == []
                    continue
                with pytest.raises(SRIError, match=r"^(machine|ids|since|ago|after): |there is no machine"):
                    await ask(command, arguments)
        for many in ([str(number) for number in range(MOST_IDS + 1)], ["\udc80"]):
            for command in ("list", "events"):
                with pytest.raises(FailedPrecondition, match=r"^(ids: are 10001, of at most 10000|request: )"):
                    await ask(command, {"ids": many})
        assert len((await ask("list", {"ids": [machine_id] * MOST_IDS * 2}))["machines"]) == 1
        with pytest.raises(NotFound):
            await ask("find", {"machine": "none"})
        assert (await ask("find", {"machine": "web"})) == {"id": machine_id, "gone": False}


async def test_a_crowd_takes_a_bounded_part_and_others_are_answered(tmp_path: Path) -> None:
    changes = Changes()
    door = CommandSocket(tmp_path / "read.sock", {"echo": dict}, changes.follow, told=False)
    await door.start()
    try:
        path = tmp_path / "read.sock"
        crowd = [await asyncio.open_unix_connection(str(path)) for _ in range(admin.MOST_CLIENTS)]
        for _, writer in crowd:
            writer.write(b'{"command": "follow", "arguments": {}}\n')
        for reader, _ in crowd:
            assert json.loads(await reader.readline()) == {"changed": []}
        with pytest.raises(Unavailable, match="64 others follow: try again"):
            await asyncio.to_thread(next, asking.follow(path))
        silent = [await asyncio.open_unix_connection(str(path)) for _ in range(admin.MOST_CLIENTS - 1)]
        assert await asyncio.to_thread(asking.ask, path, "echo", {"n": 0}) == {"n": 0}, "as many beside those"
        silent.append(await asyncio.open_unix_connection(str(path)))
        with pytest.raises(Unavailable, match="64 others are being answered: try again"):
            await asyncio.to_thread(asking.ask, path, "echo", {})
        silent[0][1].close()
        crowd += silent

        def answered() -> bool:
            try:
                return bool(asking.ask(path, "echo", {"n": 1}) == {"n": 1})
            except Unavailable:
                return False

        async with asyncio.timeout(PATIENCE):
            while not await asyncio.to_thread(answered):
                await asyncio.sleep(0.01)
    finally:
        await door.stop(1)
    for _, writer in crowd:
        writer.close()


async def test_an_answer_is_bounded_and_as_many_are_held_as_are_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "MOST_ANSWERS", 2)
    made: list[int] = []

    def much(arguments: Mapping[str, Any]) -> str:
        made.append(1)
        return "x" * int(arguments["bytes"])

    door = CommandSocket(tmp_path / "read.sock", {"much": much}, Changes().follow, told=False)
    await door.start()
    try:
        path = tmp_path / "read.sock"
        with pytest.raises(FailedPrecondition, match=r"^the answer has 16 MiB: ask for less at once"):
            await asyncio.to_thread(asking.ask, path, "much", {"bytes": 16 << 20})
        made.clear()
        slow = [await asyncio.open_unix_connection(str(path), limit=1) for _ in range(4)]
        for _, writer in slow:
            writer.write(b'{"command": "much", "arguments": {"bytes": 8388608}}\n')
        await until("two answers", lambda: len(made) == 2)
        slow[0][1].close()
        await until("a third", lambda: len(made) == 3)
    finally:
        await door.stop(0.1)
    for _, writer in slow:
        writer.close()


@pytest.mark.parametrize("size", [8 << 20, 250_000], ids=["much", "a little more than a socket holds"])
async def test_who_does_not_read_what_he_asked_for_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(admin, "SAY_SECONDS", 0.1)
    asked: list[int] = []

    def much(_: Mapping[str, Any]) -> str:
        asked.append(1)
        return "x" * size

    door = CommandSocket(tmp_path / "read.sock", {"much": much}, Changes().follow, told=False)
    await door.start()
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    try:
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "read.sock"), limit=1)
        writer.write(b'{"command": "much", "arguments": {}}\n')
        await until("an answer", lambda: bool(asked))
        await until("only his end", lambda: not door._clients and len(list(descriptors.iterdir())) <= before + 1)
        writer.close()
    finally:
        await door.stop(1)
