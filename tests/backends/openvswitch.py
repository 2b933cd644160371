"""An Open vSwitch of its own, with the datapath in user space: the kernel's is one for the whole host.

ovs-vsctl, which libvirt runs, looks for the database below /run/openvswitch: so that is a directory of its own.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.backends.daemon import Daemon, Inside, run

RUN = Path("/run/openvswitch")
SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"


class OpenVswitch:
    """A database and a switch in somebody's mount and network namespaces. `start()` it once made; `close()` it always.

    `root` is a directory of its own for the database.
    """

    def __init__(self, root: Path, inside: Inside) -> None:
        self._inside = inside
        self._root = root
        socket = RUN / "db.sock"
        log = root / "ovs.log"
        self._database = Daemon(
            ["ovsdb-server", root / "conf.db", f"--remote=punix:{socket}", "--unixctl", root / "db.ctl"],
            lambda _: self._answers("ovs-vsctl", "--timeout=1", "show"),
            log,
            inside,
        )
        self.switch = Daemon(
            ["ovs-vswitchd", f"unix:{socket}", "--unixctl", root / "switch.ctl", f"--pidfile={RUN}/ovs-vswitchd.pid"],
            lambda _: self._answers("ovs-appctl", "--target", str(root / "switch.ctl"), "version"),
            log,
            inside,
        )

    def start(self) -> None:
        run(["mkdir", "-p", RUN], self._inside)
        run(["mount", "-t", "tmpfs", "tmpfs", RUN], self._inside)
        run(["ovsdb-tool", "create", self._root / "conf.db", SCHEMA], self._inside)
        self._database.start()
        self.ask("--no-wait", "init")
        self.switch.start()

    def close(self) -> None:
        self.switch.kill()
        self._database.kill()
        run(["umount", "-l", RUN], self._inside)

    def __enter__(self) -> OpenVswitch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def bridge(self, name: str) -> None:
        """A new bridge."""
        self.ask("add-br", name, "--", "set", "bridge", name, "datapath_type=netdev")

    def ask(self, *words: str) -> str:
        """What ovs-vsctl says."""
        return run(["ovs-vsctl", "--timeout=20", *words], self._inside).decode()

    def ports(self, bridge: str) -> list[str]:
        return self.ask("list-ports", bridge).split()

    def interface(self, port: str) -> dict[str, object]:
        """The VLANs of a port, and the interface id by which a controller knows it."""
        tag, trunks = self.ask("get", "port", port, "tag", "trunks").splitlines()
        ids = self.ask("get", "interface", port, "external_ids:iface-id").strip().strip('"')
        return {"tag": json.loads(tag.replace("[]", "null")), "trunks": json.loads(trunks), "id": ids}

    def _answers(self, *argv: str) -> bool:
        try:
            run(argv, self._inside)
        except AssertionError:
            return False
        return True
