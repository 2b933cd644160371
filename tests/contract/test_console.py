"""Console sessions over real sockets, on the fake hypervisor: who gets in, what is carried, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from sri_libvirt import failpoints
from sri_libvirt.console import guest as guests
from sri_libvirt.console import session as sessions
from sri_libvirt.console.entrance import Entrance
from sri_libvirt.console.place import Place
from sri_libvirt.console.ring import MOST_BYTES
from sri_libvirt.console.tls import certificate
from sri_libvirt.errors import ConfigError, FailedPrecondition, Unavailable
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.hypervisor.fake_console import FakeConsole
from sri_libvirt.metrics import Metrics
from sri_libvirt.records import SECOND, Event
from tests.backends.daemon import run
from tests.terminal.client import Refused, SpdyTerminal, Terminal, WebSocketTerminal, outcome, request, until

ID, OTHER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"

NOWHERE = Path("/nonexistent")
PLACE = Place("127.0.0.1:0", lambda _machine: NOWHERE)

OPENERS: dict[str, Callable[[str], Awaitable[Terminal]]] = {
    "spdy": SpdyTerminal.open,
    "websocket": WebSocketTerminal.open,
}


@dataclass
class House:
    """An entrance, and what is behind and around it."""

    hypervisor: FakeHypervisor
    place: Place
    now: list[int] = field(default_factory=lambda: [0])
    events: list[tuple[str, Event]] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.entrance = self.entrance_at(self.place)

    def entrance_at(self, place: Place) -> Entrance:
        return Entrance(
            place,
            self.hypervisor.console,
            lambda machine: machine not in self.gone,
            lambda machine, event: self.events.append((machine, event)),
            lambda: self.now[0],
            self.metrics,
        )

    def counted(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"sri_libvirt_console_{name}", labels)

    async def guest(self, machine_id: str = ID) -> FakeConsole:
        """The console that somebody has opened."""
        async with asyncio.timeout(10):
            while machine_id not in self.hypervisor.consoles:
                await asyncio.sleep(0.01)
        return self.hypervisor.consoles[machine_id]

    async def free(self, machine_id: str = ID) -> None:
        """Wait until nobody has the console."""
        server = self.entrance._server
        assert server is not None
        async with asyncio.timeout(40):
            while server.in_use(machine_id):
                await asyncio.sleep(0.01)


async def house(place: Place = PLACE) -> House:
    hypervisor = FakeHypervisor()
    connection = hypervisor.connect()
    for each in (ID, OTHER):
        connection.define(f"<domain><uuid>{each}</uuid></domain>")
        connection.start(each)
    return House(hypervisor, place)


@pytest.fixture
async def there() -> AsyncIterator[House]:
    found = await house()
    threads = threading.active_count()
    yield found
    await found.entrance.stop()
    async with asyncio.timeout(10):
        while any(each.name.startswith("console-") for each in threading.enumerate()):
            await asyncio.sleep(0.01)
    assert threading.active_count() <= threads + 8, "threads of the loop's pool stay"


async def opened(there: House, kind: str, machine_id: str = ID) -> Terminal:
    return await OPENERS[kind](await there.entrance.url(machine_id))


async def wait(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


both = pytest.mark.parametrize("kind", OPENERS)


@both
async def test_what_is_typed_and_shown(there: House, kind: str) -> None:
    terminal = await opened(there, kind)
    guest = await there.guest()
    guest.prints(b"login: ")
    await until(terminal, lambda: terminal.shown == b"login: ")
    await terminal.type(b"root\n")
    await wait(lambda: guest.typed == b"root\n")
    there.hypervisor.guest_powers_off(ID)
    assert await outcome(terminal) == {"metadata": {}, "status": "Success"}
    assert terminal.ended
    await there.free()
    assert [(machine, event.reason) for machine, event in there.events] == [(ID, "opened"), (ID, "closed")]
    assert "5 bytes typed, 7 shown" in there.events[1][1].message
    assert "root" not in str(there.events)


@both
async def test_what_the_guest_printed_last_is_shown_before_the_end(there: House, kind: str) -> None:
    terminal = await opened(there, kind)
    guest = await there.guest()
    guest.prints(b"x" * 100_000 + b"halted")
    there.hypervisor.guest_powers_off(ID)
    assert (await outcome(terminal))["status"] == "Success"
    assert terminal.shown.endswith(b"halted")
    assert len(terminal.shown) == 100_006


@both
async def test_a_megabyte_each_way_arrives_as_it_was(there: House, kind: str) -> None:
    terminal = await opened(there, kind)
    guest = await there.guest()
    text = bytes(range(256)) * 4096
    for at in range(0, len(text), 16 * 1024):
        await terminal.type(text[at : at + 16 * 1024])
    await wait(lambda: guest.typed == text)
    for at in range(0, len(text), MOST_BYTES // 2):
        guest.prints(text[at : at + MOST_BYTES // 2])
        await until(terminal, lambda at=at: len(terminal.shown) >= min(len(text), at + MOST_BYTES // 2))  # type: ignore[misc]
    assert terminal.shown == text


@both
async def test_the_end_of_input_ends_nothing(there: House, kind: str) -> None:
    terminal = await opened(there, kind)
    assert isinstance(terminal, SpdyTerminal | WebSocketTerminal)
    guest = await there.guest()
    await terminal.type(b"ls\n")
    await terminal.end_input()
    await wait(lambda: guest.typed == b"ls\n")
    guest.prints(b"bin\r\n")
    await until(terminal, lambda: terminal.shown == b"bin\r\n")


@both
@pytest.mark.parametrize("rudely", [False, True])
async def test_a_client_that_goes_frees_the_console(there: House, kind: str, rudely: bool) -> None:
    terminal = await opened(there, kind)
    guest = await there.guest()
    assert isinstance(terminal, SpdyTerminal | WebSocketTerminal)
    if rudely:
        terminal.writer.transport.abort()
    else:
        await terminal.close()
    await there.free()
    await wait(lambda: guest.ended)
    assert "its client went" in there.events[-1][1].message
    again = await opened(there, kind)
    (await there.guest()).prints(b"here")
    await until(again, lambda: again.shown == b"here")


async def test_a_machine_has_one_session(there: House) -> None:
    first, second = await there.entrance.url(ID), await there.entrance.url(ID)
    _kept = await SpdyTerminal.open(first)
    await there.guest()
    with pytest.raises(Refused, match=r"in use since 0 s, from 127\.0\.0\.1:") as refused:
        await SpdyTerminal.open(second)
    assert (refused.value.status, json.loads(refused.value.body)["reason"]) == (409, "Conflict")
    with pytest.raises(FailedPrecondition, match="one session at a time"):
        await there.entrance.url(ID)
    other = await opened(there, "spdy", OTHER)
    (await there.guest(OTHER)).prints(b"other")
    await until(other, lambda: other.shown == b"other")


async def test_of_two_at_one_instant_one_gets_it(there: House) -> None:
    urls = [await there.entrance.url(ID) for _ in range(2)]
    found = await asyncio.gather(*map(SpdyTerminal.open, urls), return_exceptions=True)
    assert sorted(type(each).__name__ for each in found) == ["Refused", "SpdyTerminal"]


async def test_a_second_one_may_take_over() -> None:
    there = await house(replace(PLACE, take_over=True))
    first = await opened(there, "spdy")
    await there.guest()
    second = await opened(there, "websocket")
    told = await outcome(first)
    assert told["status"] == "Failure"
    assert "another client, from 127.0.0.1:" in told["message"]
    (await there.guest()).prints(b"mine")
    await until(second, lambda: second.shown.endswith(b"mine"))
    await there.entrance.stop()


async def test_somebody_elses_console_is_told_as_such_and_the_token_stays_good(there: House) -> None:
    held = there.hypervisor.console(ID, lambda: None)
    url = await there.entrance.url(ID)
    with pytest.raises(Refused, match="somebody has the machine's console") as refused:
        await SpdyTerminal.open(url)
    assert refused.value.status == 409
    held.close()
    await SpdyTerminal.open(url)


async def test_a_console_that_libvirt_cannot_be_asked_for_is_refused(there: House) -> None:
    url = await there.entrance.url(ID)
    there.hypervisor.set_reachable(False)
    with pytest.raises(Refused) as refused:
        await SpdyTerminal.open(url)
    assert refused.value.status == 503
    assert json.loads(refused.value.body)["kind"] == "Status"


async def test_only_a_101_uses_a_token_up(there: House) -> None:
    url = await there.entrance.url(ID)
    upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
    key = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
    with pytest.raises(Refused) as refused:
        await request(url, [*upgrade, key, ("Sec-WebSocket-Protocol", "v9.channel.k8s.io")])
    assert refused.value.status == 403
    for method, status in (("HEAD", 404), ("PUT", 405), ("GET", 400)):
        with pytest.raises(Refused) as refused:
            await request(url, [], method)
        assert refused.value.status == status
    terminal = await SpdyTerminal.open(url)
    await terminal.close()
    await there.free()
    with pytest.raises(Refused, match="404 page not found") as refused:
        await SpdyTerminal.open(url)
    assert refused.value.status == 404


async def test_a_token_is_good_for_a_minute(there: House) -> None:
    url = await there.entrance.url(ID)
    there.now[0] = 60 * SECOND
    with pytest.raises(Refused, match="404 page not found"):
        await SpdyTerminal.open(url)
    with pytest.raises(Refused, match="404 page not found"):
        await SpdyTerminal.open(url.rpartition("/")[0] + "/unknown")


async def test_a_thousand_tokens_are_good_at_once(there: House) -> None:
    for _ in range(1000):
        await there.entrance.url(ID)
    with pytest.raises(Unavailable, match="1000 console sessions"):
        await there.entrance.url(ID)
    there.now[0] = 60 * SECOND
    await there.entrance.url(ID)


async def test_an_address_that_cannot_be_had(there: House) -> None:
    url = await there.entrance.url(ID)
    taken = there.entrance_at(replace(PLACE, address=url.split("/")[2]))
    with pytest.raises(Unavailable, match="nothing can listen there"):
        await taken.url(ID)
    none = there.entrance_at(replace(PLACE, address=""))
    with pytest.raises(Unavailable, match="--streaming-address is empty"):
        await none.url(ID)


async def test_a_base_url_is_what_clients_get(there: House) -> None:
    entrance = there.entrance_at(replace(PLACE, base_url="https://pool.example/consoles"))
    assert (await entrance.url(ID)).startswith("https://pool.example/consoles/exec/")
    await entrance.stop()


@both
async def test_a_guest_that_takes_nothing_stops_its_client_and_nobody_else(there: House, kind: str) -> None:
    terminal, other = await opened(there, kind), await opened(there, kind, OTHER)
    assert isinstance(terminal, SpdyTerminal | WebSocketTerminal)
    guest = await there.guest()
    guest.stall()
    sent = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(2):
            while sent < 64 << 20:  # no socket holds so much
                await terminal.type(bytes(16 * 1024))
                sent += 16 * 1024
    assert sent < 64 << 20
    (await there.guest(OTHER)).prints(b"quick")
    await until(other, lambda: other.shown == b"quick")
    guest.go_on()
    await wait(lambda: len(guest.typed) >= sent)


@both
async def test_a_client_whose_guest_takes_nothing_is_not_taken_for_gone(
    there: House, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it answers is not heard, for its socket is not read."""
    monkeypatch.setattr(sessions, "PING_SECONDS", 0.2)
    terminal = await opened(there, kind)
    guest = await there.guest()
    guest.stall()
    text = b"x" * 2 * sessions.AHEAD_BYTES
    await terminal.type(text)
    before = terminal.pings
    await until(terminal, lambda: terminal.pings > before + 8)
    guest.go_on()
    await wait(lambda: guest.typed == text)
    guest.prints(b"all there")
    await until(terminal, lambda: terminal.shown == b"all there")


@both
async def test_who_comes_once_the_console_is_free_gets_it(there: House, kind: str) -> None:
    """It is given up before it is called free, however long that takes."""
    url = await there.entrance.url(ID)
    terminal = await opened(there, kind)
    release = (await there.guest()).slow_to_close()
    await terminal.close()
    with pytest.raises(Refused, match="in use since"):
        await OPENERS[kind](url)
    assert there.events[-1][1].reason == "opened"
    release()
    await there.free()
    _kept = await OPENERS[kind](url)


@both
async def test_a_client_that_does_not_read_loses_the_oldest_and_is_told(there: House, kind: str) -> None:
    terminal = await opened(there, kind)
    guest = await there.guest()
    for _ in range(400):
        guest.prints(b"y" * 64 * 1024)
        await asyncio.sleep(0)
    await wait(lambda: not guest.printed)
    guest.prints(b"the end")
    await until(terminal, lambda: terminal.shown.endswith(b"the end"))
    assert b"bytes of output were lost here; the console log has them" in terminal.shown
    assert len(terminal.shown) < 400 * 64 * 1024


@both
async def test_a_client_that_never_reads_is_ended(there: House, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "UNREAD_SECONDS", 0.5)
    monkeypatch.setattr(sessions, "PING_SECONDS", 3600.0)  # which it does not answer either
    monkeypatch.setattr(sessions, "_GOODBYE_SECONDS", 0.5)
    _kept = await opened(there, kind)
    guest = await there.guest()
    async with asyncio.timeout(120):
        while not guest.ended:  # the kernel's buffers take some megabytes
            guest.prints(b"y" * 64 * 1024)
            await wait(lambda: guest.ended or not guest.printed)
    await there.free()
    assert "its client read nothing" in there.events[-1][1].message


@both
async def test_a_client_that_vanished_is_found_out(there: House, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "PING_SECONDS", 0.2)
    _kept = await opened(there, kind)
    await there.free()
    assert "its client went" in there.events[-1][1].message


@both
async def test_a_client_that_answers_pings_stays(there: House, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "PING_SECONDS", 0.5)
    terminal = await opened(there, kind)
    guest, heard = await there.guest(), 0
    async with asyncio.timeout(60):
        while heard < 6:
            heard += await terminal.hear()
    guest.prints(b"still here")
    await until(terminal, lambda: terminal.shown.endswith(b"still here"))


async def test_a_client_that_opens_no_streams_is_ended(there: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "PING_SECONDS", 0.05)
    monkeypatch.setattr(sessions, "READY_SECONDS", 0.2)
    terminal = await SpdyTerminal.open(await there.entrance.url(ID), "stdin")
    async with asyncio.timeout(10):
        while await terminal.hear():
            pass
    await there.free()


@both
async def test_what_no_client_may_say_ends_its_session_alone(there: House, kind: str) -> None:
    terminal, other = await opened(there, kind), await opened(there, kind, OTHER)
    assert isinstance(terminal, SpdyTerminal | WebSocketTerminal)
    terminal.writer.write(b"\xff" * 1000)
    await there.free()
    (await there.guest(OTHER)).prints(b"unharmed")
    await until(other, lambda: other.shown == b"unharmed")


async def rude(there: House, kind: str, way: int) -> None:
    """A client that goes in a way in which none should."""
    url = await there.entrance.url(ID)
    host, port = url.split("/")[2].split(":")
    path = url.partition(f":{port}")[2]
    if way < 3:  # before it has said what it wants
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write((b"", b"GET", f"GET {path} HTTP/1.1\r\nHost: x\r\n".encode())[way])
        await writer.drain()
        writer.transport.abort()
        return
    if way == 3:  # with an answer on its way
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        writer.transport.abort()
        return
    terminal = await (SpdyTerminal.open(url, *["error"][: way == 4]) if kind == "spdy" else WebSocketTerminal.open(url))
    assert isinstance(terminal, SpdyTerminal | WebSocketTerminal)
    if way == 5:  # in the middle of a frame
        terminal.writer.write(b"\0\0\0\5\0\0" if kind == "spdy" else b"\x82\xfe")
        await terminal.writer.drain()
    elif way == 6:  # with much unread
        guest = await there.guest()
        guest.prints(bytes(1 << 20))
        await terminal.hear()
    elif way == 7:  # with much typed
        await terminal.type(bytes(1 << 20))
    elif way == 8:  # half
        terminal.writer.write_eof()
        return
    elif way == 9:  # after nonsense
        terminal.writer.write(b"\xff" * 100)
        await terminal.writer.drain()
        return
    terminal.writer.transport.abort()


async def test_two_hundred_rude_clients_leave_nothing(there: House) -> None:
    """Neither a slot, nor a task, a thread, a descriptor or a console."""

    def left() -> tuple[int, int, int]:
        return len(asyncio.all_tasks()), threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    async def come_and_go(number: int) -> None:
        await rude(there, ("spdy", "websocket")[number % 2], number // 2 % 10)
        await there.free()

    for number in range(20):
        await come_and_go(number)
    gc.collect()
    before = left()
    for number in range(200):
        await come_and_go(number)
    await wait(lambda: gc.collect() is not None and all(now <= then for now, then in zip(left(), before, strict=True)))
    assert there.hypervisor.consoles[ID].ended
    assert there.counted("sessions") == 0


@both
@pytest.mark.parametrize(
    "point", ["before console.token", "before console.open", "after console.open", "console.read", "console.write"]
)
async def test_a_failure_anywhere_leaves_the_console_free(there: House, kind: str, point: str) -> None:
    await there.entrance.url(ID)
    failpoints.arm(trap := failpoints.Once("fail", point))
    try:
        with suppress(Unavailable, Refused, AssertionError):
            terminal = await opened(there, kind)
            (await there.guest()).prints(b"login: ")
            await terminal.type(b"root\n")
            await until(terminal, lambda: point in trap.passed)
            await terminal.close()
    finally:
        failpoints.arm(None)
    assert point in trap.passed
    await there.free()
    again = await opened(there, kind)
    (await there.guest()).prints(b"here")
    await until(again, lambda: again.shown == b"here")


@pytest.mark.parametrize("said", [b"garbage\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 10_000, b"\0" * 100_000])
async def test_what_is_no_request_is_refused(there: House, said: bytes) -> None:
    host, port = (await there.entrance.url(ID)).split("/")[2].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(said)
    async with asyncio.timeout(10):
        assert (await reader.readline()).split()[1] in (b"400", b"431")
    writer.close()


@both
async def test_libvirt_lost_for_a_moment_is_told_and_gone_on_after(there: House, kind: str) -> None:
    terminal = await opened(there, kind)
    before = await there.guest()
    there.hypervisor.set_reachable(False)
    there.hypervisor.set_reachable(True)
    await wait(lambda: there.hypervisor.consoles[ID] is not before)
    there.hypervisor.consoles[ID].prints(b"again")
    await until(terminal, lambda: terminal.shown.endswith(b"again"))
    assert b"the console was lost for a moment" in terminal.shown


@both
async def test_libvirt_that_stays_away_ends_it(there: House, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sri_libvirt.console.guest.REOPEN_SECONDS", 0.2)
    terminal = await opened(there, kind)
    await there.guest()
    there.hypervisor.set_reachable(False)
    told = await outcome(terminal)
    assert told["status"] == "Failure"
    assert "the fake was stopped" in told["message"]


@both
async def test_a_stop_of_the_provider_is_told(there: House, kind: str) -> None:
    terminal = await opened(there, kind)
    await there.guest()
    stopping = asyncio.create_task(there.entrance.stop())
    assert (await outcome(terminal))["message"] == "the provider stops"
    await stopping


@both
async def test_what_becomes_of_sessions_is_counted(there: House, kind: str) -> None:
    terminal = await opened(there, kind)
    guest = await there.guest()
    guest.prints(b"login: ")
    await until(terminal, lambda: terminal.shown == b"login: ")
    await terminal.type(b"root\n")
    await wait(lambda: guest.typed == b"root\n")
    assert there.counted("sessions") == 1
    assert there.counted("bytes_total", direction="shown") == 7
    assert there.counted("bytes_total", direction="typed") == 5
    with pytest.raises(Refused):
        await OPENERS[kind]((await there.entrance.url(OTHER)).rpartition("/")[0] + "/unknown")
    assert there.counted("refusals_total", status="404") == 1
    guest.end()
    await outcome(terminal)
    await there.free()
    assert there.counted("sessions") == 0
    assert there.counted("sessions_closed_total", outcome="ended") == 1


@both
async def test_a_machine_that_is_gone_or_off_when_its_console_is_opened(there: House, kind: str) -> None:
    one, two = await there.entrance.url(ID), await there.entrance.url(ID)
    there.hypervisor.guest_powers_off(ID)
    with pytest.raises(Refused, match="the machine does not run, so it has no console") as refused:
        await OPENERS[kind](one)
    assert refused.value.status == 404
    there.gone.add(ID)
    with pytest.raises(Refused, match="404 page not found"):
        await OPENERS[kind](two)
    assert not there.events


class Authority:
    """Certificates of 127.0.0.1, each its own authority."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.certificate, self.key = root / "cert.pem", root / "key.pem"

    def issue(self) -> None:
        """A new certificate and key at the same place."""
        made = [self.root / "new-cert.pem", self.root / "new-key.pem"]
        new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", "/CN=a test"]
        run(
            [
                "openssl",
                "req",
                "-x509",
                *new,
                "-addext",
                "subjectAltName=IP:127.0.0.1",
                "-keyout",
                made[1],
                "-out",
                made[0],
            ]
        )
        made[1].rename(self.key)
        made[0].rename(self.certificate)

    def client(self) -> ssl.SSLContext:
        """Somebody who trusts the latest, and nobody else."""
        return ssl.create_default_context(cafile=self.certificate)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path)
    made.issue()
    return made


@pytest.mark.parametrize("terminal", [SpdyTerminal, WebSocketTerminal])
async def test_encrypted(authority: Authority, terminal: type[SpdyTerminal | WebSocketTerminal]) -> None:
    there = await house(replace(PLACE, certificate=certificate(authority.certificate, authority.key)))
    url = await there.entrance.url(ID)
    assert url.startswith("https://127.0.0.1:")
    plain, writer = await asyncio.open_connection("127.0.0.1", int(url.split(":")[2].split("/")[0]))
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert not (await plain.read()).startswith(b"HTTP"), "nothing is said to who speaks no TLS"
    writer.close()
    session = await terminal.open(url, tls=authority.client())
    guest = await there.guest()
    text = bytes(range(256)) * 1024
    for begin in range(0, len(text), 16 * 1024):
        await session.type(text[begin : begin + 16 * 1024])
    await wait(lambda: guest.typed == text)
    guest.prints(text)
    await until(session, lambda: session.shown == text)
    guest.end()
    assert (await outcome(session))["status"] == "Success"
    await there.free()
    authority.issue()
    url = await there.entrance.url(ID)
    renewed = await terminal.open(url, tls=authority.client())
    authority.key.write_text("half a fi")
    await renewed.close()
    await there.free()
    trusted = authority.client()
    again = await terminal.open(await there.entrance.url(ID), tls=trusted)
    await again.close()
    await there.free()
    await there.entrance.stop()


async def test_a_certificate_on_a_file_system_that_hangs_stops_nothing_else(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = certificate(authority.certificate, authority.key)
    assert used is not None
    asked, answers, context = threading.Event(), threading.Event(), used.context()

    def hangs() -> ssl.SSLContext:
        asked.set()
        assert answers.wait(30)
        return context

    monkeypatch.setattr(used, "context", hangs)
    there = await house(replace(PLACE, certificate=used))
    opening = asyncio.create_task(SpdyTerminal.open(await there.entrance.url(ID), tls=authority.client()))
    await wait(asked.is_set)  # and this loop goes on
    answers.set()
    await (await opening).close()
    await there.free()
    await there.entrance.stop()


def test_a_certificate_that_is_of_no_use_is_refused(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="are given together"):
        certificate(authority.certificate, None)
    with pytest.raises(ConfigError, match="cannot be used: No such file"):
        certificate(authority.certificate, tmp_path / "absent.pem")
    other = authority.key.read_bytes()
    authority.issue()
    authority.key.write_bytes(other)
    with pytest.raises(ConfigError, match="cannot be used: key values mismatch"):
        certificate(authority.certificate, authority.key)
    run(["openssl", "ec", "-aes256", "-passout", "pass:x", "-in", authority.key, "-out", tmp_path / "locked.pem"])
    with pytest.raises(ConfigError, match="cannot be used: "):
        certificate(authority.certificate, tmp_path / "locked.pem")
    assert certificate(None, None) is None


@both
async def test_a_console_that_is_lost_in_silence_is_found_out_by_the_log(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests, "LOOK_SECONDS", 0.2)
    log = tmp_path / "console.log"
    there = await house(replace(PLACE, console_log=lambda _machine: log))
    terminal = await opened(there, kind)
    guest = await there.guest()
    guest.prints(b"one")
    await until(terminal, lambda: terminal.shown == b"one")
    log.write_bytes(b"one")
    await asyncio.sleep(1.0)
    assert not guest.ended, "what has come has been written, too"
    os.utime(log, ns=(0, time.time_ns() + 3 * SECOND))  # more, of which nothing has come
    await until(terminal, lambda: b"the console was lost for a moment" in terminal.shown)
    assert guest.ended
    (await there.guest()).prints(b"two")
    await until(terminal, lambda: terminal.shown.endswith(b"two"))
    held = there.hypervisor.console(ID, lambda: None, take_over=True)
    assert "somebody has the machine's console" in (await outcome(terminal))["message"]
    held.close()
    await there.entrance.stop()
