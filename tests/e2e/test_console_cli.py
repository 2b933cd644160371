"""`sri-libvirt console` at a terminal, in a pipe and over the log, with real guests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests.e2e.provider import Provider, spec, wait_for
from tests.terminal.person import Person

pytestmark = pytest.mark.e2e


class User:
    """People who run `sri-libvirt console`."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.sessions: list[Person] = []

    def argv(self, *words: str) -> list[str]:
        places = ["--state-dir", str(self.provider.state)]
        return self.provider.libvirt.inside([sys.executable, "-m", "sri_libvirt", "console", *words, *places])

    def at_terminal(self, *words: str) -> Person:
        self.sessions.append(Person(self.argv(*words)))
        return self.sessions[-1]

    def run(self, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.argv(*words), input=typed, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def user(provider: Provider) -> Iterator[User]:
    made = User(provider)
    yield made
    for session in made.sessions:
        session.close()


@pytest.fixture
def machine_id(provider: Provider, tiny_image: Path) -> str:
    """A machine, `default/m`, whose guest has a shell."""
    provider.start("--firmware", "bios")
    made: str = provider.create(spec(image=tiny_image)).metadata.id
    provider.wait_console(made, "tiny: up")
    return made


def test_a_shell_at_a_terminal_that_one_leaves(user: User, machine_id: str) -> None:
    session = user.at_terminal("default/m")
    session.expect("Ctrl-] leaves it")
    session.type("echo tiny-$((3+4))\r")
    session.expect("tiny-7")
    session.type("echo slee''ps; sleep 1000\r")
    session.expect("sleeps")
    session.insist("\x03", "tiny# ")  # which is the guest's
    session.type("echo after-$((1+1))\r")
    session.expect("after-2")
    session.type("\x1d")
    session.expect("left; the guest goes on")
    assert session.status() == 0
    again = user.at_terminal(machine_id[:8])
    again.expect("Ctrl-] leaves it")
    again.type("poweroff -f\r")
    again.expect("the guest has ended")
    assert again.status() == 0


@pytest.mark.usefixtures("machine_id")
def test_one_at_a_time_and_who_takes_over(user: User) -> None:
    first = user.at_terminal("m")
    first.expect("Ctrl-] leaves it")
    refused = user.run("m")
    assert refused.returncode == 1
    assert "somebody has the machine's console" in refused.stderr
    assert "--force ends their session" in refused.stderr
    second = user.at_terminal("m", "--force")
    second.expect("Ctrl-] leaves it")
    first.expect("somebody has the machine's console")
    assert first.status() == 1
    second.type("echo tiny-$((3+4))\r")
    second.expect("tiny-7")
    second.kill()
    assert second.status() == 128 + 15


def test_a_machine_that_is_off_is_waited_for(provider: Provider, user: User, machine_id: str) -> None:
    provider.power(machine_id, pb.POWER_OFF)
    provider.wait_state(machine_id, "MACHINE_SUSPENDED")
    refused = user.run("m")
    assert refused.returncode == 1
    assert "machine default/m does not run, so it has no console: --wait waits until it does" in refused.stderr
    session = user.at_terminal("m", "--wait")
    session.expect("waiting: machine default/m does not run")
    provider.power(machine_id, pb.POWER_ON)
    session.expect("Ctrl-] leaves it")
    session.expect("tiny: up")
    gone = user.at_terminal("m", "--wait")
    gone.expect("somebody has the machine's console")
    session.close()
    provider.stop()  # it needs no daemon
    last = user.at_terminal("m")
    last.type("echo tiny-$((3+4))\r")
    last.expect("tiny-7")
    last.close()
    provider.start_again()


@pytest.mark.usefixtures("machine_id")
def test_a_pipe(user: User) -> None:
    done = user.run("m", "--for", "5", typed="echo tiny-$((3+4))\n")
    assert done.returncode == 0, done.stderr
    assert "tiny-7" in done.stdout
    assert done.stderr == ""


def test_the_log_is_followed_until_the_machine_is_gone(provider: Provider, user: User, machine_id: str) -> None:
    assert "tiny: up" in user.run("m", "--log").stdout
    assert user.run("m", "--log", "--lines", "3").stdout.count("\n") <= 3
    session = user.at_terminal("m", "--log", "-f", "--lines", "0")
    provider.power(machine_id, pb.POWER_OFF)
    provider.wait_state(machine_id, "MACHINE_SUSPENDED")
    provider.power(machine_id, pb.POWER_ON)
    session.expect("tiny: up")
    provider.delete(machine_id)
    wait_for("end of the machine", lambda: provider.get(machine_id) is None)
    assert session.status() == 0


@pytest.mark.usefixtures("machine_id")
def test_who_loses_the_console_of_a_guest_that_prints_hears_of_it(user: User) -> None:
    """libvirt does not tell each of them."""
    first = user.at_terminal("m")
    first.expect("Ctrl-] leaves it")
    first.type("while :; do echo something is printed; done\r")
    for _ in range(5):
        first.expect("something is printed")
        second = user.at_terminal("m", "--force")
        second.expect("something is printed")
        first.expect("somebody has the machine's console")
        assert first.status() == 1
        first = second
