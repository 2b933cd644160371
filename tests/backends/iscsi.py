"""iSCSI targets by tgtd, all of it in user space: LUNs that are files, CHAP, and targets for one initiator alone.

`tgtd` has a control socket of its own, so that it never meets another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tests.backends.daemon import Daemon, Inside, here, listens, loopback, run

_PORT = 13260
"""Not the usual one, where the host's own tgtd listens on every address."""

_CLOSED = 13261
"""Where nobody looks: targets are made before the portal opens, so none is ever missing there."""


class Targets:
    """One portal with its targets. `start()` it once made; `close()` it always. `daemon` can be frozen and killed."""

    def __init__(self, root: Path, inside: Inside = here) -> None:
        self.address = loopback()
        self._inside = inside
        self._env = {"TGT_IPC_SOCKET": str(root / "tgt")}
        self._names: list[str] = []
        self._targets: list[list[list[str]]] = []
        argv = ["tgtd", "-f", "-C", "0", "--iscsi", f"portal={self.address}:{_CLOSED}"]
        self.daemon = Daemon(
            argv, lambda pid: listens(pid, self.address, _CLOSED), root / "tgtd.log", inside, self._env
        )

    @property
    def portal(self) -> str:
        return f"{self.address}:{_PORT}"

    def start(self) -> None:
        """Start it unless it runs, with every target that was made, on the same address."""
        self.daemon.start()
        if not listens(self.daemon.pid, self.address, _PORT):
            for number, commands in enumerate(self._targets, 1):
                # What is no more was of a test that is over.
                self._give(number, [each for each in commands if "-b" not in each or Path(each[-1]).exists()])
            self._admin("--op", "new", "--mode", "portal", "--param", f"portal={self.portal}")

    def target(
        self, name: str, luns: Sequence[Path], *, user: str = "", password: str = "", initiator: str = ""
    ) -> str:
        """Make a target with these files as LUNs 1, 2, …; its name. A CHAP password has 12 to 16 characters.

        `initiator`: it is there for that one alone.
        """
        full = f"iqn.2024-01.test.sri:{name}"
        commands = [["--op", "new", "--mode", "target", "-T", full]]
        for lun, file in enumerate(luns, 1):
            commands.append(["--op", "new", "--mode", "logicalunit", "--lun", str(lun), "-b", str(file)])
        commands.append(["--op", "bind", "--mode", "target", *(["-Q", initiator] if initiator else ["-I", "ALL"])])
        if user:
            commands.append(["--op", "new", "--mode", "account", "--user", user, "--password", password])
            commands.append(["--op", "bind", "--mode", "account", "--user", user])
        self._names.append(full)
        self._targets.append(commands)
        self._give(len(self._targets), commands)
        return full

    def lun(self, target: str, file: Path, lun: int = 1) -> None:
        """Give a target another LUN."""
        self._later(target, ["--op", "new", "--mode", "logicalunit", "--lun", str(lun), "-b", str(file)])

    def password(self, target: str, user: str, password: str) -> None:
        """From now on a target of CHAP lets in this user."""
        self._later(target, ["--op", "new", "--mode", "account", "--user", user, "--password", password])
        self._later(target, ["--op", "bind", "--mode", "account", "--user", user])

    def sessions(self, target: str = "") -> int:
        """How many initiators are logged in, to that target if one is named."""
        shown = self._admin("--op", "show", "--mode", "target").decode()
        each = re.split(r"^Target \d+: ", shown, flags=re.MULTILINE)[1:]
        return sum(text.count("I_T nexus: ") for text in each if target in ("", text.partition("\n")[0]))

    def close(self) -> None:
        self.daemon.kill()

    def __enter__(self) -> Targets:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _later(self, target: str, command: list[str]) -> None:
        number = self._names.index(target)
        self._targets[number].append(command)
        self._give(number + 1, [command])

    def _give(self, number: int, commands: Sequence[Sequence[str]]) -> None:
        for command in commands:
            of_target = [] if command[:4] == ["--op", "new", "--mode", "account"] else ["--tid", str(number)]
            self._admin(*command, *of_target)

    def _admin(self, *words: str) -> bytes:
        return run(["tgtadm", "--lld", "iscsi", "-C", "0", *words], self._inside, env=self._env)
