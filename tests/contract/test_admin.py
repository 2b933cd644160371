"""The admin socket: whose it is, what it answers, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sri_libvirt.errors import FailedPrecondition, NotFound, NotReady, Unavailable
from sri_libvirt.server import admin, asking
from sri_libvirt.server.admin import CommandSocket
from sri_libvirt.store.changes import Changes


class Commands:
    """What can be asked."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.going_on = threading.Event()
        self.changes = Changes()

    def table(self) -> dict[str, admin.Command]:
        return {"echo": dict, "refuse": self.refuse, "break": self.break_, "advise": self.advise, "wait": self.wait}

    def refuse(self, _: Mapping[str, Any]) -> None:
        raise NotFound("there is no such thing; nothing was done")

    def advise(self, _: Mapping[str, Any]) -> None:
        raise NotReady("no link yet", "Make one")

    def break_(self, _: Mapping[str, Any]) -> None:
        raise RuntimeError("hunter2")

    def wait(self, _: Mapping[str, Any]) -> str:
        self.entered.set()
        assert self.going_on.wait(20)
        return "waited"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    deep = tmp_path / ("deep" * 30)  # longer than a socket's address can be
    deep.mkdir()
    return deep / "admin.sock"


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
async def served(path: Path, commands: Commands) -> AsyncIterator[CommandSocket]:
    door = CommandSocket(path, commands.table(), commands.changes.follow)
    await door.start()
    yield door
    commands.going_on.set()
    await door.stop(10)


async def ask(path: Path, command: str, **arguments: object) -> Any:
    return await asyncio.to_thread(asking.ask, path, command, arguments)


def raw(path: Path, data: bytes) -> dict[str, Any]:
    fd = os.open(path.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as door:
        door.connect(f"/proc/self/fd/{fd}/{path.name}")
        os.close(fd)
        door.sendall(data)
        door.shutdown(socket.SHUT_WR)
        answer: dict[str, Any] = json.loads(door.makefile("rb").readline())
        return answer


async def test_who_has_no_time_is_not_kept(path: Path, served: CommandSocket, commands: Commands) -> None:
    with pytest.raises(Unavailable, match="cannot be asked"):
        await asyncio.to_thread(asking.ask, path, "wait", {}, seconds=0.2)
    commands.going_on.set()


async def test_it_is_roots_alone(served: CommandSocket, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["admin.sock"]


async def test_answers(served: CommandSocket, path: Path) -> None:
    assert await ask(path, "echo", text="ünï", number=1) == {"text": "ünï", "number": 1}
    with pytest.raises(NotFound, match="there is no such thing; nothing was done"):
        await ask(path, "refuse")
    with pytest.raises(FailedPrecondition, match=r"no link yet\. Make one"):
        await ask(path, "advise")
    with pytest.raises(FailedPrecondition, match="'nonsense' is not one of echo"):
        await ask(path, "nonsense")


async def test_a_bug_is_told_without_its_words(served: CommandSocket, path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="a bug of its own; its log says more") as refused:
        await ask(path, "break")
    assert "hunter2" not in str(refused.value)
    assert await ask(path, "echo") == {}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"nonsense\n",
        b"[1]\n",
        b"null\n",
        b'{"command": "echo"}\n',
        b'{"command": 1, "arguments": {}}\n',
        b'{"command": "echo", "arguments": []}\n',
        b"\xff\xfe\n",
        b'{"command": "echo", "arguments": {"a": "\\ud800"}}\n',
        b"[" * 200_000 + b"\n",
    ],
)
async def test_nonsense_is_refused(served: CommandSocket, path: Path, data: bytes) -> None:
    assert "request" in (await asyncio.to_thread(raw, path, data))["error"]
    assert await ask(path, "echo") == {}


async def test_a_request_without_end_is_cut_off(served: CommandSocket, path: Path) -> None:
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        await asyncio.to_thread(raw, path, b"x" * (admin.REQUEST_BYTES * 8))
    assert await ask(path, "echo") == {}


async def test_a_slow_command_delays_no_other(served: CommandSocket, path: Path, commands: Commands) -> None:
    slow = asyncio.create_task(ask(path, "wait"))
    assert await asyncio.to_thread(commands.entered.wait, 20)
    assert await ask(path, "echo", n=1) == {"n": 1}
    commands.going_on.set()
    assert await slow == "waited"


async def test_a_stop_answers_what_is_at_work(served: CommandSocket, path: Path, commands: Commands) -> None:
    slow = asyncio.create_task(ask(path, "wait"))
    assert await asyncio.to_thread(commands.entered.wait, 20)
    stopping = asyncio.create_task(served.stop(20))
    commands.going_on.set()
    await stopping
    assert await slow == "waited"
    assert not path.exists()
    with pytest.raises(Unavailable, match="cannot be asked"):
        await ask(path, "echo")


async def test_what_a_killed_daemon_left_is_replaced(path: Path, commands: Commands) -> None:
    path.touch()
    (path.parent / "admin.sock.new").touch()
    door = CommandSocket(path, commands.table(), commands.changes.follow)
    await door.start()
    assert await ask(path, "echo") == {}
    await door.stop(1)
    await door.stop(1)


async def heard(following: Iterator[frozenset[str]]) -> frozenset[str] | None:
    """What comes next; None at the end."""
    return await asyncio.to_thread(next, following, None)


@pytest.mark.usefixtures("served")
async def test_who_follows_is_told_of_changes_once_each(path: Path, commands: Commands) -> None:
    one, other = asking.follow(path), asking.follow(path)
    assert await heard(one) == await heard(other) == frozenset()
    commands.changes.tell(["a", "b"])
    assert await heard(one) == frozenset({"a", "b"})
    commands.changes.tell(["b"])
    commands.changes.tell([])
    commands.changes.tell(["c"])
    found: set[str] = set()
    while found != {"b", "c"}:
        more = await heard(one)
        assert more, "nothing is told of nothing"
        found |= more
    slow = set[str]()
    while slow != {"a", "b", "c"}:  # who reads late is told of all of them
        slow |= await heard(other) or frozenset()


async def test_a_daemon_that_stops_ends_all_followers_at_once(path: Path, commands: Commands) -> None:
    door = CommandSocket(path, commands.table(), commands.changes.follow)
    await door.start()
    following = asking.follow(path)
    assert await heard(following) == frozenset()
    begun = time.monotonic()
    await door.stop(30)
    assert await heard(following) is None
    assert time.monotonic() - begun < 10
    assert commands.changes._told == (), "nobody is told any more"
    with pytest.raises(Unavailable, match="cannot be followed"):
        await heard(asking.follow(path))


@pytest.mark.usefixtures("served")
async def test_a_follower_that_is_gone_or_does_not_read_holds_nobody_up(
    path: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "QUIET_SECONDS", 0.05)
    idle, gone = asking.follow(path), asking.follow(path)
    await heard(idle)
    await heard(gone)
    gone.close()  # type: ignore[attr-defined]
    for number in range(2000):
        commands.changes.tell(f"{number}-{each:036}" for each in range(50))
    assert await ask(path, "echo", a=1) == {"a": 1}
    async with asyncio.timeout(20):
        while len(commands.changes._told) > 1:
            await asyncio.sleep(0.01)
