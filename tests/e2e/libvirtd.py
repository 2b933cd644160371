"""A libvirtd and virtlogd of the tests' own, in private mount and network namespaces, that can be killed at will.

The host's libvirtd, its networks and its guests are neither seen nor touched: configuration, state, logs and sockets
lie below one short directory in /tmp, /dev/kvm is hidden (domains are of type qemu), all is removed at the end,
also when the test process was killed: the namespaces' first process watches a pipe that ends with it.
What a test does with libvirt does not belong here.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import libvirt

from tests.backends.daemon import freeze

START_DEADLINE = 60.0
"""Seconds for libvirtd to open its socket; two slow cores are shared by all workers."""


def wait_until(condition: Callable[[], object], what: str, deadline: float = 30.0, poll: float = 0.02) -> None:
    """Wait until the condition holds; AssertionError naming `what` when it does not within `deadline` seconds."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:g} s: {what}")
        time.sleep(poll)


class PrivateLibvirt:
    """One private libvirtd. `start()` it once made; `close()` it always."""

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="lv-", dir="/tmp"))
        # QEMU's user must traverse down to disks and NVRAM.
        self.base.chmod(0o711)
        self._anchor: subprocess.Popen[str] | None = None
        self._directories = 0
        self._configure()

    # Where things are.

    @property
    def socket(self) -> Path:
        return self.base / "run" / "libvirt-sock"

    @property
    def uri(self) -> str:
        """Reachable from outside the namespaces too."""
        return f"qemu+unix:///system?socket={self.socket}"

    @property
    def log_dir(self) -> Path:
        """QEMU's logs, one per domain: what is /var/log/libvirt/qemu inside."""
        return self.base / "log" / "qemu"

    def directory(self, name: str) -> Path:
        """A new directory that QEMU's user can traverse, with a path short enough for unix sockets."""
        self._directories += 1
        path = self.base / f"{name}-{self._directories}"
        path.mkdir(mode=0o711)
        path.chmod(0o711)
        return path

    # Life.

    def start(self) -> None:
        """Start what does not run: the namespaces, virtlogd, libvirtd; return once libvirtd answers."""
        if self._anchor is None:
            self._enter_namespaces()
        self._start("virtlogd", self.base / "run" / "virtlogd-sock")
        self._start("libvirtd", self.socket)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End libvirtd alone; guests and virtlogd live on."""
        self._stop("libvirtd", number)

    def stop_virtlogd(self, number: int = signal.SIGKILL) -> None:
        """End virtlogd alone; `start()` brings it back."""
        self._stop("virtlogd", number)

    def freeze(self) -> None:
        """Let libvirtd stand still."""
        freeze(self._libvirtd())

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self._libvirtd(), signal.SIGCONT)

    def _libvirtd(self) -> int:
        pid = self.pid("libvirtd")
        assert pid is not None, "libvirtd does not run"
        return pid

    def close(self) -> None:
        """End guests, daemons and namespaces and remove every file and cgroup. Idempotent."""
        if self._anchor is not None:
            anchor, self._anchor = self._anchor, None
            assert anchor.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                anchor.stdin.close()
            anchor.wait(timeout=30)
        shutil.rmtree(self.base, ignore_errors=True)

    def __enter__(self) -> PrivateLibvirt:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Inside.

    def log(self) -> str:
        """The end of what the daemons have said."""
        return (self.base / "daemons.log").read_text(errors="replace")[-2000:]

    def pid(self, daemon: str) -> int | None:
        """Process id of `libvirtd` or `virtlogd`, None unless it runs."""
        with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
            pid = int(self._pid_file(daemon).read_text())
            if Path(f"/proc/{pid}/comm").read_text().strip() == daemon and not _ended(pid):
                return pid
        return None

    def inside(self, argv: Sequence[str | os.PathLike[str]]) -> list[str]:
        """The argument list that runs `argv` inside the namespaces. nsenter execs: the process id is the program's."""
        assert self._anchor is not None, "not started"
        return ["nsenter", "-t", str(self._inner_pid), "-m", "-n", "--", *(os.fspath(word) for word in argv)]

    def run(self, argv: Sequence[str | os.PathLike[str]], deadline: float = 120.0) -> str:
        """Run a program inside to its end and return its standard output; AssertionError unless it succeeds."""
        done = subprocess.run(self.inside(argv), text=True, capture_output=True, timeout=deadline, check=False)
        assert done.returncode == 0, f"{' '.join(map(str, argv))} failed with {done.returncode}: {done.stderr}"
        return done.stdout

    def popen(self, argv: Sequence[str | os.PathLike[str]], **options: Any) -> subprocess.Popen[Any]:
        """Start a program inside; it ends with `close()` at the latest."""
        return subprocess.Popen(self.inside(argv), **options)

    def network(
        self, name: str, forward: str = "open", subnet: int = 71, *, dhcp: bool = True, kept: bool = False
    ) -> None:
        """Make and start a libvirt network with bridge `br-<name>` and addresses 10.99.<subnet>.0/24.

        `forward` is "open", "nat" or "isolated". One that is not `kept` is gone when it is stopped. Without the
        spanning tree protocol a plugged guest has its address at once.
        """
        mode = "" if forward == "isolated" else f"<forward mode='{forward}'/>"
        leases = f"<dhcp><range start='10.99.{subnet}.100' end='10.99.{subnet}.200'/></dhcp>" if dhcp else ""
        xml = (
            f"<network><name>{name}</name>{mode}<bridge name='{f'br-{name}'[:15]}' stp='off' delay='0'/>"
            f"<ip address='10.99.{subnet}.1' netmask='255.255.255.0'>{leases}</ip></network>"
        )
        self._with_libvirt(lambda c: c.networkDefineXML(xml).create() if kept else c.networkCreateXML(xml))

    def stop_network(self, name: str) -> None:
        """Stop a network; one that is kept stays defined."""
        self._with_libvirt(lambda c: c.networkLookupByName(name).destroy())

    def start_network(self, name: str) -> None:
        """Start one that is kept."""
        self._with_libvirt(lambda c: c.networkLookupByName(name).create())

    def remove_network(self, name: str) -> None:
        """End a network that `network()` made, whether it runs or not."""

        def remove(connection: libvirt.virConnect) -> None:
            network = connection.networkLookupByName(name)
            if network.isPersistent():
                network.undefine()
            with contextlib.suppress(libvirt.libvirtError):
                network.destroy()  # gone already if it did not run

        self._with_libvirt(remove)

    def remove_domains(self) -> None:
        """Destroy and undefine every domain, and every secret; for the end of a test, failed or not."""

        def sweep(connection: libvirt.virConnect) -> None:
            for domain in connection.listAllDomains():
                with contextlib.suppress(libvirt.libvirtError):
                    domain.destroy()
                with contextlib.suppress(libvirt.libvirtError):
                    domain.undefineFlags(1 | 2 | 4 | 16 | 32)
            for secret in connection.listAllSecrets():
                with contextlib.suppress(libvirt.libvirtError):
                    secret.undefine()

        self._with_libvirt(sweep)

    # How.

    def _configure(self) -> None:
        for name in ("etc", "lib", "lib/qemu", "cache", "log", "run"):
            (self.base / name).mkdir(mode=0o755)
        user = _qemu_user()
        if user:
            shutil.chown(self.base / "lib" / "qemu", user, user)
        (self.base / "lib" / "qemu").chmod(0o750)
        # Only the settings: the host's domains and networks would start by their autostart links.
        for file in Path("/etc/libvirt").glob("*.conf"):
            shutil.copy2(file, self.base / "etc" / file.name)
        if Path("/etc/libvirt/nwfilter").is_dir():
            shutil.copytree("/etc/libvirt/nwfilter", self.base / "etc" / "nwfilter")
        with (self.base / "etc" / "libvirtd.conf").open("a") as settings:
            settings.write('\nauth_unix_rw = "none"\nauth_unix_ro = "none"\n')
        with (self.base / "etc" / "qemu.conf").open("a") as settings:
            # AppArmor's profiles know the real directories only; DAC stays on, as everywhere.
            settings.write('\nsecurity_driver = "none"\n')

    def _enter_namespaces(self) -> None:
        script = Path(__file__).with_name("namespaces.sh")
        argv = ["tini", "-s", "--", "unshare", "--mount", "--net", "--", "sh", str(script), str(self.base)]
        self._anchor = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.base / "daemons.log").open("w"),
            text=True,
            # Control-C at the terminal ends pytest, which then closes us in order.
            start_new_session=True,
        )
        assert self._anchor.stdout is not None
        answer = self._anchor.stdout.readline()
        if answer.strip() != "ready":
            self._anchor.wait(timeout=10)
            raise RuntimeError(f"no private namespaces: {self.log()}")
        # tini's only child is what unshare became: the shell.
        self._inner_pid = int(Path(f"/proc/{self._anchor.pid}/task/{self._anchor.pid}/children").read_text().split()[0])

    def _spawn(self, command: str) -> None:
        assert self._anchor is not None
        assert self._anchor.stdin is not None
        self._anchor.stdin.write(command + "\n")
        self._anchor.stdin.flush()

    def _start(self, daemon: str, path: Path) -> None:
        if self.pid(daemon) is None:
            # What accepts below must be the new daemon, not what the old one left.
            path.unlink(missing_ok=True)
            # By its path, as systemd starts it: QEMU's log tells of whoever ends it by that name.
            self._spawn(f"$(command -v {daemon}) --pid-file {self._pid_file(daemon)}")
        self._wait_for_socket(path)

    def _wait_for_socket(self, path: Path) -> None:
        try:
            wait_until(lambda: _accepts(path), f"{path.name} accepts connections", START_DEADLINE)
        except AssertionError as error:
            raise RuntimeError(f"{error}: {self.log()}") from None

    def _stop(self, daemon: str, number: int) -> None:
        pid = self.pid(daemon)
        if pid is not None:
            os.kill(pid, number)
            wait_until(lambda: self.pid(daemon) is None, f"{daemon} ended")

    def _pid_file(self, daemon: str) -> Path:
        return self.base / "run" / f"{daemon}.pid"

    def _with_libvirt(self, action: Callable[[libvirt.virConnect], object]) -> None:
        connection = libvirt.open(self.uri)
        try:
            action(connection)
        finally:
            connection.close()


def _qemu_user() -> str | None:
    for name in ("libvirt-qemu", "qemu"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return None


def _ended(pid: int) -> bool:
    """Whether a process has ended with all its threads; until the last one has, its sockets and locks live on."""
    state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return state == "Z" and len(list(Path(f"/proc/{pid}/task").iterdir())) == 1


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
