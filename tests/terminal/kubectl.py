"""The host's kubectl as a client of consoles: of Debian 12 it speaks SPDY alone, of Debian 13 WebSocket first."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from pathlib import Path

WEBSOCKETS_SINCE = (1, 30)
"""Older ones need not know the variable that asks for it."""


@functools.cache
def version() -> tuple[int, int] | None:
    """Of the host's kubectl; None where there is none."""
    if shutil.which("kubectl") is None:
        return None
    argv = ["kubectl", "version", "--client", "-o", "json"]
    told = json.loads(subprocess.run(argv, capture_output=True, timeout=60, check=True).stdout)["clientVersion"]
    return int(told["major"]), int(told["minor"].rstrip("+"))


def ways() -> list[str]:
    """The protocols that it speaks."""
    found = version()
    return ["spdy"] if found is None or found < WEBSOCKETS_SINCE else ["spdy", "websocket"]


class Kubectl:
    """kubectl against one API server, by one protocol, without anybody's configuration."""

    def __init__(self, server: str, way: str, home: Path) -> None:
        self._server = server
        self.env = {
            "HOME": str(home),
            "KUBECONFIG": "/dev/null",
            "KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "true" if way == "websocket" else "false",
        }

    def exec(self, name: str, *flags: str) -> list[str]:
        """The command line that opens a machine's console; what it is to run there nobody looks at."""
        return ["kubectl", f"--server={self._server}", "exec", *flags, name, "--", "console"]
