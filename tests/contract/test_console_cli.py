"""`sri-libvirt console` on the fake hypervisor: a terminal, a pipe, and whatever ends either."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from sri_libvirt.cli.console.conversation import AHEAD_BYTES, LEAVE, Conversation, Ended
from sri_libvirt.cli.console.terminal import Signalled, raw
from sri_libvirt.errors import ConsoleHeld
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.hypervisor.fake_console import FakeConsole
from tests.backends.daemon import wait_until

ID = "11111111-1111-4111-8111-111111111111"
NOWHERE = Path("/nonexistent")


class Side:
    """What is at the other ends of a conversation: a guest, and a user with two pipes."""

    def __init__(self, *, terminal: bool = False, linger: float = 0.0) -> None:
        self.hypervisor = FakeHypervisor()
        connection = self.hypervisor.connect()
        connection.define(f"<domain><uuid>{ID}</uuid></domain>")
        connection.start(ID)
        self.keyboard, self.types = os.pipe()
        self.reads, self.screen = os.pipe()
        self.conversation = Conversation(
            partial(self.hypervisor.console, ID), NOWHERE, self.keyboard, self.screen,
            leave=LEAVE if terminal else b"", linger=linger,
        )  # fmt: skip
        self.conversation.begin(take_over=False)

    @property
    def guest(self) -> FakeConsole:
        return self.hypervisor.consoles[ID]

    def while_it_runs(self, does: Callable[[], None]) -> Ended:
        """How it ends when the user and the guest do this meanwhile."""
        thread = threading.Thread(target=does)
        thread.start()
        ended = self.conversation.run()
        thread.join(30)
        assert not thread.is_alive()
        return ended

    def typed(self, data: bytes) -> None:
        wait_until(lambda: bytes(self.guest.typed) == data, f"{data!r} is with the guest")

    def shown(self, data: bytes) -> None:
        found = b""
        while len(found) < len(data):
            found += os.read(self.reads, len(data) - len(found))
        assert found == data

    def close(self) -> None:
        for fd in (self.keyboard, self.types, self.reads, self.screen):
            with suppress(OSError):
                os.close(fd)


@pytest.fixture
def side() -> Iterator[Callable[..., Side]]:
    made: list[Side] = []

    def make(**options: float) -> Side:
        made.append(Side(**options))  # type: ignore[arg-type]  # bool and float, by name
        return made[-1]

    yield make
    for each in made:
        each.close()
    wait_until(
        lambda: not any(each.name.startswith("console-") for each in threading.enumerate()), "the threads have ended"
    )


def test_keys_go_in_and_output_comes_out_until_the_user_leaves(side: Callable[..., Side]) -> None:
    here = side(terminal=True)

    def does() -> None:
        here.guest.prints(b"login: ")
        here.shown(b"login: ")
        os.write(here.types, b"root\r\x03")
        here.typed(b"root\r\x03")
        os.write(here.types, b"ls\r" + LEAVE + b"rm -rf /\r")

    assert here.while_it_runs(does) == Ended("left; the guest goes on")
    assert bytes(here.guest.typed) in (b"root\r\x03", b"root\r\x03ls\r"), "nothing of what was typed after it"
    assert here.guest.ended, "it is given up"


def test_what_is_piped_in_is_typed_and_output_printed_for_a_while(side: Callable[..., Side]) -> None:
    here = side(linger=1.0)

    def does() -> None:
        os.write(here.types, b"uname" + LEAVE + b"\n")
        os.close(here.types)
        here.typed(b"uname" + LEAVE + b"\n")
        here.guest.prints(b"Linux\n")
        here.shown(b"Linux\n")

    begun = time.monotonic()
    assert here.while_it_runs(does) == Ended("the input has ended")
    assert time.monotonic() - begun >= 1.0


def test_a_file_is_typed_whole(side: Callable[..., Side], tmp_path_factory: pytest.TempPathFactory) -> None:
    """A file cannot be waited for as a pipe can."""
    file = tmp_path_factory.mktemp("typed") / "input"
    file.write_bytes(text := b"0123456789" * 20_000)
    here = side(linger=0.5)
    os.dup2(os.open(file, os.O_RDONLY), here.keyboard)
    assert here.while_it_runs(lambda: here.typed(text)) == Ended("the input has ended")


def test_a_guest_that_ends(side: Callable[..., Side]) -> None:
    here = side(terminal=True)

    def does() -> None:
        here.guest.prints(b"Power down\n")
        here.guest.end()

    assert here.while_it_runs(does) == Ended("the guest has ended")
    here.shown(b"Power down\n")


def test_a_console_that_is_taken_over_ends_with_the_reason(side: Callable[..., Side]) -> None:
    here = side(terminal=True)

    def does() -> None:
        other = here.hypervisor.console(ID, lambda: None, take_over=True)
        wait_until(lambda: not thread_runs(), "the session has ended")
        other.close()

    def thread_runs() -> bool:
        return any(each.name == "console-read" for each in threading.enumerate())

    assert "somebody has the machine's console" in here.while_it_runs(does).problem


def test_a_second_one_is_refused(side: Callable[..., Side]) -> None:
    here = side(terminal=True)
    other = Conversation(partial(here.hypervisor.console, ID), NOWHERE, 0, 1, leave=b"", linger=0)
    with pytest.raises(ConsoleHeld):
        other.begin(take_over=False)
    assert here.while_it_runs(lambda: os.close(here.types)).words == "left; the guest goes on"


def test_a_pipe_is_not_read_ahead_of_a_guest_that_takes_nothing(side: Callable[..., Side]) -> None:
    here = side()
    here.guest.stall()
    text = bytes(4 * AHEAD_BYTES)
    went = 0

    def does() -> None:
        nonlocal went
        os.set_blocking(here.types, False)
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            with suppress(BlockingIOError):
                went += os.write(here.types, text[went:])
            time.sleep(0.01)
        assert went <= AHEAD_BYTES + 64 * 1024 + 16 * 1024, "what a pipe holds, and one read"
        here.guest.go_on()
        os.set_blocking(here.types, True)
        while went < len(text):
            went += os.write(here.types, text[went:])
        here.typed(text)
        os.close(here.types)

    assert here.while_it_runs(does) == Ended("the input has ended")


def test_a_terminal_is_left_also_when_the_guest_takes_nothing(side: Callable[..., Side]) -> None:
    here = side(terminal=True)
    here.guest.stall()

    def does() -> None:
        for _ in range(40):
            os.write(here.types, bytes(4096))
        assert os.read(here.reads, 1) == b"\a", "what is lost is heard"
        os.write(here.types, LEAVE)
        wait_until(lambda: here.guest.ended, "it is given up")

    assert here.while_it_runs(does).words == "left; the guest goes on"


def test_a_guest_that_prints_without_end_is_left(side: Callable[..., Side]) -> None:
    here = side(terminal=True)
    left = threading.Event()

    def prints() -> None:
        while not left.is_set():
            if len(here.guest.printed) < 1 << 20:
                here.guest.prints(b"y\n" * 65536)

    def reads() -> None:
        shown = 0
        while not left.is_set():
            time.sleep(0.0005)  # as a terminal at the end of a slow line
            shown += len(os.read(here.reads, 4096))
            if shown > 1 << 17:
                os.write(here.types, LEAVE)
                shown = -(1 << 40)

    threads = [threading.Thread(target=each) for each in (prints, reads)]
    for thread in threads:
        thread.start()
    assert here.conversation.run().words == "left; the guest goes on"
    left.set()
    os.write(here.screen, b"end")
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_a_terminal_that_is_gone(side: Callable[..., Side]) -> None:
    here = side(terminal=True)
    user, theirs = pty.openpty()
    os.dup2(theirs, here.keyboard)
    os.close(theirs)
    assert here.while_it_runs(lambda: os.close(user)).words in ("the terminal is gone", "left; the guest goes on")
    assert here.guest.ended


def test_nobody_reads_any_more(side: Callable[..., Side]) -> None:
    here = side()

    def does() -> None:
        os.close(here.reads)
        here.guest.prints(b"more\n")

    assert here.while_it_runs(does).words == "nobody reads what it prints any more"
    assert here.guest.ended


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ends = pty.openpty()
    yield ends
    for fd in ends:
        os.close(fd)


def echoes(fd: int) -> bool:
    return bool(termios.tcgetattr(fd)[3] & termios.ECHO)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_a_terminal_is_given_back_whatever_ends_the_process(terminal: tuple[int, int], number: int) -> None:
    _, fd = terminal
    before, handler = termios.tcgetattr(fd), signal.getsignal(number)

    def killed() -> None:
        with raw(fd, fd):
            assert not echoes(fd)
            os.kill(os.getpid(), number)
            time.sleep(10)

    with pytest.raises(Signalled) as ended:
        killed()
    assert ended.value.code == 128 + number
    assert termios.tcgetattr(fd) == before
    assert signal.getsignal(number) == handler


RAW = "import time; from sri_libvirt.cli.console.terminal import raw\nwith raw(0, 1): time.sleep(60)"


def test_a_terminal_is_lent_back_while_the_process_is_stopped(terminal: tuple[int, int]) -> None:
    user, fd = terminal
    process = subprocess.Popen([sys.executable, "-c", RAW], stdin=fd, stdout=fd)
    try:
        wait_until(lambda: not echoes(fd), "it is taken")
        process.send_signal(signal.SIGTSTP)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert echoes(fd)
        assert b"\x1b[?47l" in os.read(user, 1000)
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: not echoes(fd), "it is taken again")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
        assert echoes(fd)
    finally:
        process.kill()
        process.wait()


def test_what_is_no_terminal_is_left_alone() -> None:
    keyboard, screen = os.pipe()
    with raw(keyboard, screen):
        pass
    os.close(screen)
    assert os.read(keyboard, 100) == b"", "nothing was written to it"
    os.close(keyboard)
