"""vagrant/provision.sh where all is installed, with commands that record how they are called."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

PROVISION = Path(__file__).parents[2] / "vagrant" / "provision.sh"


class Commands:
    """Programs that come before the host's own; each writes its call to a file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.calls = directory / "calls"
        self.calls.touch()

    def replace(self, name: str, script: str) -> None:
        program = self.directory / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self.calls}"\n{script}\n')
        program.chmod(0o755)

    def run(self, *arguments: str, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """`before` is the beginning of the argument list, a program that runs the rest."""
        env = {**os.environ, "PATH": f"{self.directory}:{os.environ['PATH']}"}
        return subprocess.run([*before, PROVISION, *arguments], env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    commands = Commands(tmp_path)
    commands.replace("id", "echo 0")
    commands.replace("getent", "exit 2")  # no group kvm: /dev/kvm is left alone
    commands.replace("apt-get", "exit 100")
    commands.replace("dpkg-query", "printf installed")
    return commands


@pytest.mark.parametrize("what", ["runtime", "test"])
def test_asks_apt_for_nothing_when_all_is_installed(commands: Commands, what: str) -> None:
    done = commands.run(what)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    called = commands.calls.read_text()
    assert "dpkg-query -W -f ${db:Status-Status} libvirt-daemon-system" in called
    assert "qemu-block-extra" in called  # without it QEMU opens no disk of Ceph or iSCSI
    assert "ceph-common" in called  # without it nobody asks which other host has an image of Ceph open
    assert ("tini" in called) is (what == "test")
    assert ("ceph-osd" in called) is (what == "test")
    assert "apt-get" not in called


@pytest.mark.parametrize("missing", ["tgt", "ceph-mon", "tini"])
def test_servers_that_tests_start_themselves_are_not_started_by_the_host(commands: Commands, missing: str) -> None:
    """Neither while they are installed nor at the host's next start. /usr/sbin is one of the test's own."""
    commands.replace("dpkg-query", f'[ "$4" = {missing} ] || printf installed')
    commands.replace("apt-get", "sh /usr/sbin/policy-rc.d; echo $? >>${0%/*}/policy")
    commands.replace("systemctl", "exit 0")
    private = 'mount -t tmpfs none /usr/sbin; exec "$0" "$@"'
    done = commands.run("test", before=["unshare", "--mount", "sh", "-c", private])
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    called = commands.calls.read_text().splitlines()
    (installed,) = (line for line in called if "install --no-install-recommends" in line)
    assert installed.split()[-1] == missing
    assert (commands.directory / "policy").read_text().split() == ["101", "101"]
    service = {"tgt": "tgt.service", "ceph-mon": "ceph-crash.service"}.get(missing)
    expected = [f"systemctl --no-reload disable {service}"] if service else []
    assert [line for line in called if line.startswith("systemctl")] == expected


def test_starts_nothing_when_libvirt_answers(commands: Commands) -> None:
    for program in ("libvirtd", "virtlogd", "systemctl"):
        commands.replace(program, "exit 1")
    commands.replace("virsh", "exit 0")
    done = commands.run("start")
    assert (done.returncode, done.stdout) == (0, "")
    called = commands.calls.read_text()
    assert "virsh -q -c qemu:///system uri" in called
    assert "libvirtd" not in called
    assert "systemctl" not in called


def test_stops_only_what_start_can_have_named(commands: Commands) -> None:
    done = commands.run("stop", "sshd")
    assert done.returncode == 1
    assert "no daemon of ours: sshd" in done.stderr


def test_wrong_usage_is_told(commands: Commands) -> None:
    done = commands.run("everything")
    assert done.returncode == 2
    assert "provision.sh runtime" in done.stderr
