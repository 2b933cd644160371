"""Typing into the kernel's own terminals, of which a stand-in of a domain says that they are its guest's."""

from __future__ import annotations

import os
import random
import threading
import tty
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from sri_libvirt.errors import ConsoleLost, HypervisorError, NoConsole
from sri_libvirt.hypervisor.keyboard import DEVPTS, Keyboard

NUMBER = 7


class Guest:
    """A domain whose QEMU has opened a terminal, and what libvirt says of it."""

    def __init__(self) -> None:
        self.qemu, line = os.openpty()
        tty.setraw(line)
        self.path = os.ttyname(line)
        os.close(line)
        self.now = NUMBER
        self.user = os.getuid()
        self.console = f"<console type='pty' tty='{self.path}'><source path='{self.path}'/></console>"

    def XMLDesc(self) -> str:  # noqa: N802
        label = f"<seclabel type='dynamic' model='dac' relabel='yes'><label>+{self.user}:+0</label></seclabel>"
        number = f" id='{NUMBER}'" if self.now > 0 else ""
        return f"<domain type='kvm'{number}><devices>{self.console}</devices>{label}</domain>"

    def UUID(self) -> bytes:  # noqa: N802
        return bytes(16)

    def connect(self) -> Connection:
        return Connection(self)

    def ID(self) -> int:  # noqa: N802
        return self.now

    def takes(self, count: int) -> bytes:
        taken = b""
        while len(taken) < count:
            taken += os.read(self.qemu, 1 << 16)
        return taken

    def ends(self) -> None:
        os.close(self.qemu)
        self.qemu = -1


@dataclass
class Connection:
    guest: Guest

    def lookupByUUID(self, _uuid: bytes) -> Guest:  # noqa: N802
        return self.guest


@pytest.fixture
def guest() -> Iterator[Guest]:
    before = descriptors()
    guest = Guest()
    yield guest
    if guest.qemu >= 0:
        guest.ends()
    assert descriptors() == before, "one was left open"


def descriptors() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def sit_down(guest: Guest, devpts: Path = DEVPTS) -> Keyboard:
    return Keyboard(cast(Any, guest), devpts)


def typed_on(keyboard: Keyboard, data: bytes) -> int:
    """All of it, piece by piece; how much the guest was given before the keyboard was closed."""
    sent = 0
    while sent < len(data) and (count := keyboard.type(data[sent:])):
        sent += count
    return sent


def test_every_byte_arrives_as_it_was_typed_however_slow_the_guest_is(guest: Guest) -> None:
    keyboard = sit_down(guest)
    data = random.Random(16).randbytes(1 << 20)
    with ThreadPoolExecutor(1) as typist:
        typing = typist.submit(typed_on, keyboard, data)
        assert guest.takes(len(data)) == data
        assert typing.result(10) == len(data)
    keyboard.close()


def test_who_waits_for_a_guest_that_takes_nothing_is_woken_by_the_close(guest: Guest) -> None:
    keyboard = sit_down(guest)
    data = bytes(1 << 20)
    with ThreadPoolExecutor(1) as typist:
        typing = typist.submit(typed_on, keyboard, data)
        with pytest.raises(TimeoutError):
            typing.result(0.5)
        keyboard.close()
        assert 0 < typing.result(10) < len(data)
    keyboard.close()
    assert keyboard.type(b"more") == 0


def test_a_guest_that_ends_is_an_error_of_the_typing_alone(guest: Guest) -> None:
    keyboard = sit_down(guest)
    guest.ends()
    with pytest.raises(ConsoleLost, match="takes nothing more: Input/output error"):
        keyboard.type(b"x")
    keyboard.close()


def test_who_waits_is_woken_by_the_guests_end(guest: Guest) -> None:
    keyboard = sit_down(guest)
    ending = threading.Timer(0.3, guest.ends)
    ending.start()
    with pytest.raises(ConsoleLost):
        typed_on(keyboard, bytes(1 << 20))
    ending.join()
    keyboard.close()


@pytest.mark.parametrize("now", [-1, NUMBER + 1])
def test_a_terminal_whose_guest_ends_while_it_is_opened_is_not_typed_at(
    guest: Guest, now: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be another guest's by then."""
    open_it = os.open

    def late(*args: Any) -> int:
        guest.now = now
        return open_it(*args)

    monkeypatch.setattr(os, "open", late)
    with pytest.raises(NoConsole):
        sit_down(guest)


def test_a_libvirt_that_goes_away_meanwhile_leaves_nothing_open(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_connection: Connection, _uuid: bytes) -> Guest:
        raise ConnectionError("libvirt is away")

    monkeypatch.setattr(Connection, "lookupByUUID", away)
    with pytest.raises(ConnectionError):
        sit_down(guest)


def test_a_guest_that_does_not_run_has_no_console(guest: Guest) -> None:
    guest.now = -1
    with pytest.raises(NoConsole):
        sit_down(guest)


@pytest.mark.parametrize(
    "console",
    [
        "",
        "<console type='unix'><source mode='bind' path='/run/x'/></console>",
        "<console type='file'><source path='/dev/pts/../kmsg'/></console>",
        "<console type='pty'/>",
    ],
)
def test_a_console_that_is_no_terminal_is_refused(guest: Guest, console: str) -> None:
    guest.console = console
    with pytest.raises(HypervisorError, match="no terminal"):
        sit_down(guest)


def test_the_terminals_of_another_host_or_container_are_refused(guest: Guest, tmp_path: Path) -> None:
    here = tmp_path / Path(guest.path).name
    words = f"^{here}: %s, so nobody can type at the machine's console; --devpts has to be /dev/pts of libvirt's host$"
    with pytest.raises(HypervisorError, match=words % "No such file or directory"):
        sit_down(guest, tmp_path)
    for other in ("a file of that name", "/dev/null"):
        here.unlink(missing_ok=True)
        here.symlink_to(other) if other.startswith("/") else here.write_text(other)
        with pytest.raises(HypervisorError, match=words % "it is no terminal"):
            sit_down(guest, tmp_path)
    guest.user += 1
    with pytest.raises(HypervisorError, match=f"it belongs to user {guest.user - 1}, not to QEMU's, {guest.user}"):
        sit_down(guest)
