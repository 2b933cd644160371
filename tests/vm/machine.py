"""The virtual machine that `make vm` made, seen from outside: commands by ssh, files, reboots, a pulled plug.

It lives in build/vm/RELEASE; `vagrant/vm.sh` wrote there how it is reached: `ssh_config` (host `vm`), `domain`
(libvirt's name of it) and, when it has a libvirtd of its own, `anchor` (the process whose namespaces hold both, and the
identity of its network namespace). Root is needed to enter them. What tests do in it does not belong here.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

CHECKOUT = "/home/vagrant/sri-libvirt"
"""Where the tree is in the machine."""

PYTHON = "/opt/sri-libvirt/venv/bin/python"
"""The project's environment in the machine; the project itself is installed in it as editable."""

BOOT_DEADLINE = 600.0
"""Seconds from a reboot to an answering sshd: 40 on a quiet host without KVM, several times that on a busy one."""

_LOST = 255
"""ssh's own exit status: no connection, or it broke."""


class MachineError(AssertionError):
    """The machine cannot be reached, or a command in it failed; the message has the command and its output's end."""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command in the machine ended."""

    returncode: int
    stdout: str
    stderr: str


class VM:
    """One running machine. Commands run as root unless told otherwise."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.release = directory.name
        if not (directory / "ssh_config").exists():
            raise MachineError(f"no machine in {directory}: `make vm RELEASE={self.release}`")
        self.domain = (directory / "domain").read_text().strip()

    @classmethod
    def of(cls, release: str) -> VM:
        """The machine of a release (bookworm, trixie) of this checkout; SRI_VM_DIR is where machines live."""
        return cls(Path(os.environ.get("SRI_VM_DIR") or ROOT / "build" / "vm") / release)

    def is_emulated(self) -> bool:
        """Whether the machine runs without this host's KVM."""
        return (self.directory / "driver").read_text().strip() != "kvm"

    # Commands.

    def ask(self, command: str, *, user: str = "root", stdin: str = "", deadline: float = 300.0) -> Done:
        """Run a shell command and return how it ended, whatever that is; MachineError if the machine is not reached.

        A status of 255 is ssh's own and always means that.
        """
        remote = command if user == "vagrant" else f"sudo -n -H -u {user} sh -c {shlex.quote(command)}"
        argv = self._beside(["ssh", "-F", str(self.directory / "ssh_config"), "vm", remote])
        try:
            done = subprocess.run(argv, input=stdin, text=True, errors="replace", capture_output=True, timeout=deadline)
        except subprocess.TimeoutExpired:
            raise MachineError(f"in {self.release}: not within {deadline:g} s: {command}") from None
        if done.returncode == _LOST:
            raise MachineError(f"{self.release} is not reached by ssh: {done.stderr.strip()}")
        return Done(done.returncode, done.stdout, done.stderr)

    def run(self, command: str, *, user: str = "root", stdin: str = "", deadline: float = 300.0) -> str:
        """Run a shell command to its end and return its standard output; MachineError unless it succeeds."""
        done = self.ask(command, user=user, stdin=stdin, deadline=deadline)
        if done.returncode:
            said = (done.stdout + done.stderr).strip()[-4000:]
            raise MachineError(f"in {self.release}: status {done.returncode} from: {command}\n{said}")
        return done.stdout

    def wait(self, command: str, deadline: float = 120.0, poll: float = 1.0) -> str:
        """Run a command until it succeeds and return its standard output; MachineError with its last words."""
        last = ""

        def succeeds() -> bool:
            nonlocal last
            done = self.ask(command)
            last = done.stdout if done.returncode == 0 else done.stdout + done.stderr
            return done.returncode == 0

        _wait_until(succeeds, lambda: f"in {self.release}, {command}: {last[-2000:]}", deadline, poll)
        return last

    def ssh(self, *options: str) -> list[str]:
        """The argument list of an ssh of the caller's own, such as a tunnel's."""
        return self._beside(["ssh", "-F", str(self.directory / "ssh_config"), *options, "vm"])

    # Files.

    def put(self, local: Path | str, remote: str) -> None:
        """Copy a file or directory (its contents, when the name ends with a slash) into the machine, as root's."""
        self._rsync(str(local), f"vm:{remote}")

    def get(self, remote: str, local: Path | str) -> None:
        """Copy a file or directory out of the machine."""
        self._rsync(f"vm:{remote}", str(local))

    def write(self, remote: str, text: str, mode: str = "0644") -> None:
        """Make a file of the text in the machine, as root's; its directory must exist."""
        path = shlex.quote(remote)
        self.run(f"cat >{path} && chmod {mode} {path}", stdin=text)

    # Life.

    def boot_id(self) -> str:
        """Differs after every boot."""
        return self.run("cat /proc/sys/kernel/random/boot_id").strip()

    def uptime(self) -> float:
        """Seconds since the machine's boot."""
        return float(self.run("cat /proc/uptime").split()[0])

    def reboot(self, deadline: float = BOOT_DEADLINE) -> None:
        """An orderly reboot; returns when the next boot answers ssh and systemd has started everything."""
        before = self.boot_id()
        self.ask("systemd-run --on-active=1 --timer-property=AccuracySec=100ms systemctl reboot")
        self._comes_back(before, deadline)

    def reset(self, deadline: float = BOOT_DEADLINE) -> None:
        """Pull the plug: what the machine had not flushed to its disk is lost. Returns as `reboot` does."""
        before = self.boot_id()
        self.virsh("reset", self.domain)
        self._comes_back(before, deadline)

    def wait_ssh(self, deadline: float = BOOT_DEADLINE, *, other_than: str = "") -> str:
        """Wait until ssh answers, from another boot than `other_than` (a boot id); return the boot's id."""
        found = ""
        said = ""

        def answers() -> bool:
            nonlocal found, said
            try:
                found = self.ask("cat /proc/sys/kernel/random/boot_id", deadline=60).stdout.strip()
            except MachineError as error:
                said = str(error)
                self.hang_up()
                return False
            if found == other_than:
                self.hang_up()
            return found not in ("", other_than)

        _wait_until(answers, lambda: f"{self.release} answers ssh after its boot: {said}", deadline, 2.0)
        return found

    def wait_started(self, deadline: float = BOOT_DEADLINE) -> str:
        """Wait until systemd has started what it starts at boot; return its word: running, or degraded."""
        last = ""

        def started() -> bool:
            nonlocal last
            last = self.ask("systemctl is-system-running").stdout.strip()
            return last in ("running", "degraded")

        _wait_until(started, lambda: f"{self.release} has started: it is {last}", deadline, 2.0)
        return last

    def virsh(self, *words: str) -> str:
        """Run virsh on the libvirtd that runs the machine (not the one inside it)."""
        done = subprocess.run(
            self._inside(["virsh", "-q", "-c", "qemu:///system", *words]), text=True, capture_output=True, timeout=120
        )
        if done.returncode:
            raise MachineError(f"virsh {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    # How.

    def _comes_back(self, before: str, deadline: float) -> None:
        self.hang_up()
        self.wait_ssh(deadline, other_than=before)
        self.wait_started(deadline)

    def hang_up(self) -> None:
        """End the shared connection: after a reboot it would hang until TCP gives it up."""
        subprocess.run(
            self._beside(["ssh", "-F", str(self.directory / "ssh_config"), "-O", "exit", "vm"]),
            capture_output=True,
            timeout=60,
        )

    def _rsync(self, source: str, target: str) -> None:
        shell = f"ssh -F {self.directory / 'ssh_config'}"
        argv = ["rsync", "-a", "--no-owner", "--no-group", "--rsync-path", "sudo -n rsync", "-e", shell, source, target]
        done = subprocess.run(self._beside(argv), text=True, capture_output=True, timeout=600)
        if done.returncode:
            raise MachineError(f"rsync {source} {target}: {done.stderr.strip()[-2000:]}")

    def _beside(self, argv: Sequence[str]) -> list[str]:
        """The argument list that runs a program in the machine's network, with this host's files and processes."""
        return self._enter(["-n"], argv)

    def _inside(self, argv: Sequence[str]) -> list[str]:
        """The argument list that runs a program that sees the machine's libvirtd as the host's."""
        return self._enter(["-m", "-n"], argv)

    def _enter(self, namespaces: Sequence[str], argv: Sequence[str]) -> list[str]:
        try:
            pid, network = (self.directory / "anchor").read_text().split()
        except FileNotFoundError:
            return list(argv)  # the host's own libvirtd runs the machine
        try:
            alive = Path(f"/proc/{pid}/ns/net").readlink() == Path(network)
        except OSError:
            alive = False
        if not alive:
            raise MachineError(f"{self.release} has ended with its namespaces: `make vm RELEASE={self.release}`")
        return ["nsenter", "-t", pid, *namespaces, "--", *argv]


def _wait_until(condition: Callable[[], bool], what: Callable[[], str], deadline: float, poll: float) -> None:
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise MachineError(f"not within {deadline:g} s: {what()}")
        time.sleep(poll)
