"""Consoles: keys and output on their whole way to a real guest, beside `virsh console` on the same guest, and what
fifty sessions that print cost the provider, on the fake hypervisor.
"""

from __future__ import annotations

import asyncio
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from bench import plugs
from bench.client import MIB, Provider, milliseconds, until
from bench.on_fake import provider
from bench.table import Figure, Report, median, p99
from bench.world import World
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests.terminal import relay as relaying
from tests.terminal.client import SpdyTerminal, Terminal, WebSocketTerminal

KEYS = 100
OUTPUT = 512 * 1024
SESSIONS = 50
LISTS = 300
SETTLE_SECONDS = 3.0
_HEARD_SECONDS = 60.0


def measure(world: World, report: Report, rounds: int) -> None:
    """The whole way to a guest's shell, in turn with virsh's."""
    machine_id = plugs.boot(world)
    keys: dict[str, list[float]] = {"ours": [], "virsh": []}
    rates: dict[str, list[float]] = {"ours": [], "virsh": []}
    with _relay(world) as relay:
        for _ in range(max(1, rounds // 3)):
            asyncio.run(_through_us(world, machine_id, relay, keys["ours"], rates["ours"]))
            until("the console free", lambda: _is_free(world.served, machine_id), 0.1)
            with _Virsh(world, machine_id) as virsh:
                _timed(virsh.send, virsh.hear, keys["virsh"], rates["virsh"])
            until("the console free", lambda: _is_free(world.served, machine_id), 0.1)
    report.figures += [
        Figure(
            name="a console's keystroke to its echo",
            unit="ms",
            value=median(keys["ours"]),
            p99=p99(keys["ours"]),
            alternative=f"ms by virsh console, p99 {p99(keys['virsh']):.1f}",
            alternative_value=median(keys["virsh"]),
            on="libvirt",
            note=f"{len(keys['ours'])} keys each, which the guest's kernel echoes; ours by SPDY through a relay in "
            "Python, where a poollet would be",
        ),
        Figure(
            name="a console's output",
            unit="KiB/s",
            value=median(rates["ours"]),
            alternative="KiB/s by virsh console",
            alternative_value=median(rates["virsh"]),
            on="libvirt",
            note=f"{OUTPUT // 1024} KiB in one piece, {len(rates['ours'])} times each; what limits it is the guest's "
            "serial port under TCG",
        ),
    ]
    world.served.delete(machine_id)
    until("its end", lambda: world.served.find(machine_id) is None, 0.01)


async def _through_us(world: World, machine_id: str, relay: str, keys: list[float], rates: list[float]) -> None:
    url = world.served.stub.Exec(pb.ExecRequest(machine_id=machine_id)).url
    terminal = await SpdyTerminal.open(url, relay=relay)
    loop = asyncio.get_running_loop()

    def wait(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(_HEARD_SECONDS)

    async def hear(wanted: Callable[[bytes], bool]) -> None:
        while not wanted(bytes(terminal.shown)):
            if not await terminal.hear():
                raise RuntimeError(f"the session ended: {terminal.status!r}")
        terminal.shown.clear()

    await asyncio.to_thread(
        _timed, lambda data: wait(terminal.type(data)), lambda wanted: wait(hear(wanted)), keys, rates
    )
    await terminal.close()


def _timed(
    send: Callable[[bytes], None],
    hear: Callable[[Callable[[bytes], bool]], None],
    keys: list[float],
    rates: list[float],
) -> None:
    """Type at a shell, key by key, and let it print."""
    send(b"echo beg''in\n")
    hear(lambda shown: b"begin" in shown and shown.partition(b"begin")[2].endswith(b"n"))  # it asks where its prompt is
    send(b"echo ke''ys; cat > /dev/null; echo en''d-of-keys\n")
    hear(lambda shown: b"keys\r\nkeys\r\n" in shown)  # the shell, which echoes by itself, has made room for cat
    for _ in range(KEYS):
        begun = time.perf_counter()
        send(b"k")
        hear(lambda shown: b"k" in shown)
        keys.append((time.perf_counter() - begun) * 1000)
    send(b"\n\x04")
    hear(lambda shown: b"end-of-keys" in shown)
    begun = time.perf_counter()
    send(f"head -c {OUTPUT} /dev/zero | tr '\\0' x; echo; echo en''d-of-output\n".encode())
    hear(lambda shown: b"end-of-output" in shown[-4096:])
    rates.append(OUTPUT / 1024 / (time.perf_counter() - begun))


class _Virsh:
    """`virsh console` at a terminal of its own."""

    def __init__(self, world: World, machine_id: str) -> None:
        self._screen, theirs = pty.openpty()
        argv = ["setsid", "--ctty", "virsh", "-q", "-c", world.private.uri, "console", machine_id]
        self._process = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)

    def __enter__(self) -> _Virsh:
        while not self._hears(lambda shown: b"# " in shown, 1.0):
            self.send(b"\n")  # it loses what is typed before it has taken its terminal
        return self

    def __exit__(self, *_: object) -> None:
        self.send(b"\x1d")
        self._process.wait(_HEARD_SECONDS)
        os.close(self._screen)

    def send(self, data: bytes) -> None:
        os.write(self._screen, data)

    def hear(self, wanted: Callable[[bytes], bool]) -> None:
        if not self._hears(wanted, _HEARD_SECONDS):
            raise RuntimeError("virsh's console says nothing")

    def _hears(self, wanted: Callable[[bytes], bool], seconds: float) -> bool:
        shown = bytearray()
        while not wanted(bytes(shown)):
            if not select.select([self._screen], [], [], seconds)[0]:
                return False
            shown += os.read(self._screen, 65536)
        return True


def _is_free(served: Provider, machine_id: str) -> bool:
    """Nobody has had it since a session was closed, as far as the provider knows."""
    try:
        served.stub.Exec(pb.ExecRequest(machine_id=machine_id))
    except Exception:
        return False
    return True


@contextmanager
def _relay(world: World) -> Iterator[str]:
    """A way to the provider's listener, which is in libvirt's network namespace."""
    socket, log = str(world.served.root / "relay"), world.served.root / "relay.log"
    with log.open("wb") as output:
        child = world.private.popen([sys.executable, relaying.__file__, socket], stdout=output, stderr=output)
    until("the relay", lambda: b"ready" in log.read_bytes(), 0.01)
    try:
        yield socket
    finally:
        child.terminate()
        child.wait()


def busy(root: Path, report: Report, *, quick: bool) -> None:
    """Fifty sessions, each at the rate of a serial line of 115,200 baud, on the fake."""
    sessions, lists = (SESSIONS // 10, LISTS // 10) if quick else (SESSIONS, LISTS)
    where = root / "consoles"
    where.mkdir()
    with provider(where) as served:
        ids = [served.create() for _ in range(sessions + 1)]
        until("all guests run", lambda: served.running() == len(ids), 0.05)
        asyncio.run(_fifty(served, report, ids, lists))


async def _fifty(served: Provider, report: Report, ids: list[str], lists: int) -> None:
    async with _sessions(served, ids[:1]):  # the code is loaded
        await asyncio.sleep(SETTLE_SECONDS)
    before = served.usage.memory_info().rss
    quiet = await asyncio.to_thread(_lists, served, lists)
    begun, used = time.perf_counter(), served.cpu()
    async with _sessions(served, ids[1:]) as shown:
        await asyncio.sleep(SETTLE_SECONDS)
        crowded = await asyncio.to_thread(_lists, served, lists)
        after = served.usage.memory_info().rss
        rate = shown() / (time.perf_counter() - begun) / 1024
        cpu = (served.cpu() - used) / (time.perf_counter() - begun)
    count = len(ids) - 1
    report.figures += [
        Figure(
            name=f"ListMachines with {count} consoles that print",
            unit="ms",
            value=median(crowded),
            p99=p99(crowded),
            goal=median(quiet) + 1,
            alternative=f"ms with none, p99 {p99(quiet):.1f}",
            alternative_value=median(quiet),
            note=f"{rate:.0f} KiB/s in all, {cpu * 100:.0f} % of a CPU in the provider; of {len(crowded)} calls each",
        ),
        Figure(
            name="memory per console session",
            unit="KiB",
            value=(after - before) / count / 1024,
            alternative="MiB resident with none",
            alternative_value=before / MIB,
            note=f"of {count}, by SPDY and by WebSocket in turn, two threads each; the code was loaded before",
        ),
    ]


@asynccontextmanager
async def _sessions(served: Provider, ids: list[str]) -> AsyncIterator[Callable[[], int]]:
    """Read the consoles of these machines; gives how many bytes have come."""
    terminals: list[Terminal] = []
    for number, machine_id in enumerate(ids):
        url = served.stub.Exec(pb.ExecRequest(machine_id=machine_id)).url
        terminals.append(await (SpdyTerminal.open(url) if number % 2 else WebSocketTerminal.open(url)))
    counted = 0

    async def read(terminal: Terminal) -> None:
        nonlocal counted
        while await terminal.hear():
            counted += len(terminal.shown)
            terminal.shown.clear()

    tasks = [asyncio.create_task(read(terminal)) for terminal in terminals]
    try:
        yield lambda: counted
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for terminal in terminals:
            await terminal.close()


def _lists(served: Provider, count: int) -> list[float]:
    times = []
    for _ in range(count):
        times.append(milliseconds(served.listing))
        time.sleep(0.005)
    return times
