"""Consoles of real guests: a shell through the real protocols, and what happens to it when something else does."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
from contextlib import suppress
from pathlib import Path

import grpc
import libvirt
import psutil
import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests.e2e.libvirtd import PrivateLibvirt
from tests.e2e.provider import Provider, spec, wait_for
from tests.terminal.client import Refused, SpdyTerminal, Terminal, WebSocketTerminal, outcome, until

pytestmark = pytest.mark.e2e

both = pytest.mark.parametrize("kind", ["spdy", "websocket"])


SESSION = ["opened", "closed"]
IN = 1 << 20
LINES = 620_000  # of numbers: 4 MiB
MINUTES = 240.0


@pytest.fixture
async def machine_id(provider: Provider, tiny_image: Path) -> str:
    """A machine whose guest has a shell."""
    provider.start("--firmware", "bios", "--streaming-address", "127.0.0.1:0")
    made: str = provider.create(spec(image=tiny_image)).metadata.id
    await asyncio.to_thread(provider.wait_console, made, "tiny: up")
    return made


def url(provider: Provider, machine_id: str) -> str:
    found: str = provider.stub.Exec(pb.ExecRequest(machine_id=machine_id), timeout=10).url
    return found


async def opened(provider: Provider, relay: str, machine_id: str, kind: str) -> Terminal:
    where = await asyncio.to_thread(url, provider, machine_id)
    if kind == "spdy":
        return await SpdyTerminal.open(where, relay=relay)
    return await WebSocketTerminal.open(where, relay=relay)


async def once_free(provider: Provider, relay: str, machine_id: str) -> Terminal:
    """A session as soon as libvirt has given up the one before."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await opened(provider, relay, machine_id, "websocket")
            except Refused as refused:
                if refused.status != 409:
                    raise
                await asyncio.sleep(0.1)


def told(provider: Provider, machine_id: str) -> list[str]:
    """Of sessions, in the machine's timeline."""
    return [event.reason for event in provider.events(machine_id) if event.kind == "console"]


async def shell(terminal: Terminal, line: str, number: int) -> str:
    """What the guest's shell answers to a line."""
    before = len(terminal.shown)
    await terminal.type(f"{line}; echo en''d-{number}\n".encode())
    await until(terminal, lambda: f"end-{number}".encode() in terminal.shown[before:])
    return bytes(terminal.shown[before:]).decode(errors="replace")


@both
async def test_a_shell_until_the_guest_powers_off(provider: Provider, relay: str, machine_id: str, kind: str) -> None:
    terminal = await opened(provider, relay, machine_id, kind)
    assert "tiny-7" in await shell(terminal, "echo tiny-$((3+4))", 1)
    assert "en''d-1" in provider.console(machine_id), "the log goes on beside it"
    await terminal.type(b"poweroff -f\n")
    assert await outcome(terminal) == {"metadata": {}, "status": "Success"}
    await asyncio.to_thread(wait_for, "its end in the timeline", lambda: told(provider, machine_id) == SESSION)


async def test_a_shell_stays_over_a_reset(provider: Provider, relay: str, machine_id: str) -> None:
    terminal = await opened(provider, relay, machine_id, "spdy")
    await shell(terminal, "true", 1)
    await terminal.type(b"reboot -f\n")
    await until(terminal, lambda: b"tiny: up" in terminal.shown)
    await shell(terminal, "true", 2)


async def test_who_comes_second_and_who_comes_from_outside(provider: Provider, relay: str, machine_id: str) -> None:
    one, two = [await asyncio.to_thread(url, provider, machine_id) for _ in range(2)]
    terminal = await SpdyTerminal.open(one, relay=relay)
    with pytest.raises(Refused, match="in use since") as refused:
        await SpdyTerminal.open(two, relay=relay)
    assert refused.value.status == 409
    with pytest.raises(grpc.RpcError) as again:
        await asyncio.to_thread(url, provider, machine_id)
    assert again.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    await terminal.close()
    connection = libvirt.open(provider.libvirt.uri)
    stream = connection.newStream(0)
    async with asyncio.timeout(30):
        while True:
            try:
                connection.lookupByUUIDString(machine_id).openConsole(None, stream, 0)
                break
            except libvirt.libvirtError:
                await asyncio.sleep(0.1)
    with pytest.raises(Refused, match="somebody has the machine's console"):
        await SpdyTerminal.open(two, relay=relay)
    stream.abort()
    connection.close()


@both
async def test_libvirtd_killed_and_back(provider: Provider, relay: str, machine_id: str, kind: str) -> None:
    private = provider.libvirt
    terminal = await opened(provider, relay, machine_id, kind)
    await shell(terminal, "true", 1)
    await asyncio.to_thread(private.kill)
    await asyncio.to_thread(private.start)
    await until(terminal, lambda: b"the console was lost for a moment" in terminal.shown)
    await shell(terminal, "true", 2)


@both
@pytest.mark.timeout(600)
async def test_much_both_ways_arrives_as_it_was(provider: Provider, relay: str, machine_id: str, kind: str) -> None:
    terminal = await opened(provider, relay, machine_id, kind)
    await shell(terminal, "stty raw -echo; true", 1)
    text = random.Random(16).randbytes(IN)
    await terminal.type(f"head -c {IN} | md5sum; echo en''d-2\n".encode())
    for begin in range(0, IN, 64 * 1024):
        await terminal.type(text[begin : begin + 64 * 1024])
    await until(terminal, lambda: b"end-2" in terminal.shown, MINUTES)
    assert hashlib.md5(text, usedforsecurity=False).hexdigest().encode() in terminal.shown
    printed = "".join(f"{number}\n" for number in range(1, LINES + 1)).encode()
    assert len(printed) >= 4 << 20
    before = len(terminal.shown)
    await terminal.type(f"seq {LINES}; echo en''d-3\n".encode())
    await until(terminal, lambda: b"end-3" in terminal.shown[-100:], MINUTES)
    assert printed in terminal.shown[before:]


async def test_a_guest_that_takes_nothing_holds_up_nobody_and_its_console_comes_free(
    provider: Provider, relay: str, machine_id: str
) -> None:
    """Whoever types for it stands in a call of libvirt meanwhile."""
    terminal = await opened(provider, relay, machine_id, "spdy")
    assert isinstance(terminal, SpdyTerminal)
    await shell(terminal, "stty raw -echo; true", 1)
    await terminal.type(b"sleep 1000\n")
    with suppress(TimeoutError):
        async with asyncio.timeout(5):
            while True:
                await terminal.type(bytes(16 * 1024))
    terminal.writer.transport.abort()
    await asyncio.to_thread(wait_for, "its end", lambda: told(provider, machine_id) == SESSION)
    await (await once_free(provider, relay, machine_id)).close()
    await asyncio.to_thread(wait_for, "its end", lambda: told(provider, machine_id) == 2 * SESSION)
    assert provider.process is not None
    assert provider.process.poll() is None


async def test_a_provider_that_stops_says_so(provider: Provider, relay: str, machine_id: str) -> None:
    terminal = await opened(provider, relay, machine_id, "spdy")
    await shell(terminal, "true", 1)
    assert provider.process is not None
    os.kill(provider.process.pid, signal.SIGTERM)
    assert (await outcome(terminal))["message"] == "the provider stops"
    await asyncio.to_thread(provider.process.wait, 30)


async def test_a_session_does_not_outlive_a_frozen_libvirtd_for_ever(
    provider: Provider, private_libvirt: PrivateLibvirt, relay: str, machine_id: str
) -> None:
    terminal = await opened(provider, relay, machine_id, "spdy")
    await shell(terminal, "true", 1)
    private_libvirt.freeze()
    try:
        ended = await outcome(terminal, 90)
    finally:
        private_libvirt.thaw()
    assert ended["status"] == "Failure"


async def test_sessions_leave_nothing(provider: Provider, relay: str, machine_id: str) -> None:
    """Neither descriptors nor threads, however they ended."""
    assert provider.process is not None
    process = psutil.Process(provider.process.pid)

    async def come_and_go(number: int) -> None:
        terminal = await opened(provider, relay, machine_id, "spdy" if number % 2 else "websocket")
        await shell(terminal, "true", number)
        if number % 3:
            await terminal.close()
        else:
            assert isinstance(terminal, SpdyTerminal | WebSocketTerminal)
            terminal.writer.transport.abort()
        await asyncio.to_thread(wait_for, "its end", lambda: told(provider, machine_id)[-1:] == ["closed"])

    for number in range(2):
        await come_and_go(number)
    before = process.num_fds(), process.num_threads()
    for number in range(2, 12):
        await come_and_go(number)
    await asyncio.to_thread(
        wait_for, "all gone", lambda: process.num_fds() <= before[0] and process.num_threads() <= before[1] + 2
    )


async def test_a_session_goes_on_while_other_things_happen(
    provider: Provider, private_libvirt: PrivateLibvirt, relay: str, machine_id: str
) -> None:
    """virtlogd dies, and the guest is paused and goes on: what is typed meanwhile arrives."""
    terminal = await opened(provider, relay, machine_id, "spdy")
    await shell(terminal, "true", 1)
    private_libvirt.stop_virtlogd()
    assert "tiny-7" in await shell(terminal, "echo tiny-$((3+4))", 2)
    private_libvirt.start()
    connection = libvirt.open(private_libvirt.uri)
    domain = connection.lookupByUUIDString(machine_id)
    domain.suspend()
    await asyncio.to_thread(wait_for, "the reason", lambda: "paused" in provider.reasons(machine_id))
    before = len(terminal.shown)
    await terminal.type(b"echo typed-in-$((1+1))-a-pause\n")
    domain.resume()
    connection.close()
    await until(terminal, lambda: b"typed-in-2-a-pause" in terminal.shown[before:])
    await asyncio.to_thread(wait_for, "peace", lambda: not provider.reasons(machine_id))


@both
async def test_a_machine_that_is_deleted_while_somebody_types(
    provider: Provider, relay: str, machine_id: str, kind: str
) -> None:
    terminal = await opened(provider, relay, machine_id, kind)
    await shell(terminal, "true", 1)
    typing = asyncio.create_task(typed_on(terminal))
    provider.delete(machine_id)
    assert (await outcome(terminal, 60))["status"] == "Success"
    await asyncio.to_thread(wait_for, "end of the machine", lambda: provider.get(machine_id) is None)
    typing.cancel()


async def typed_on(terminal: Terminal) -> None:
    with suppress(OSError):
        while True:
            await terminal.type(b":\n")
            await asyncio.sleep(0.01)


POINTS = ("console.token", "console.open", "console.read", "console.write", "console.close")


async def test_a_provider_that_is_killed_anywhere_gives_consoles_again(
    provider: Provider, relay: str, machine_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of a session is kept, and libvirt gives a console up when its connection ends."""
    for point in POINTS:
        provider.stop()
        where = point if point in ("console.read", "console.write") else f"after {point}"
        monkeypatch.setenv("SRI_LIBVIRT_FAILPOINT", f"kill 1 {where}")
        provider.start_again()
        monkeypatch.delenv("SRI_LIBVIRT_FAILPOINT")
        process = provider.process
        assert process is not None
        with suppress(grpc.RpcError, OSError, AssertionError, asyncio.IncompleteReadError):
            terminal = await opened(provider, relay, machine_id, "websocket")
            await shell(terminal, "true", 1)
            await terminal.close()
        await asyncio.to_thread(process.wait, 30)
        provider.start_again()
        again = await once_free(provider, relay, machine_id)
        assert "tiny-7" in await shell(again, "echo tiny-$((3+4))", 2)
        await again.close()
        await asyncio.to_thread(wait_for, "its end", lambda: told(provider, machine_id)[-1:] == ["closed"])
