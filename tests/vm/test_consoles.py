"""Consoles as a whole host has them: past AppArmor, and from within the unit's sandbox."""

from __future__ import annotations

import pytest

from tests.vm.pool import Pool
from tests.vm.service import Service, wait_for

TALK = r"""
import base64, socket, sys
url, line = sys.argv[1:]
host, port = url.split("/")[2].rsplit(":", 1)
with socket.create_connection((host, int(port)), timeout=60) as peer:
    key = base64.b64encode(bytes(16)).decode()
    peer.sendall((
        f"GET /{url.split('/', 3)[3]} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n"
    ).encode())
    typed = b"\0" + line.encode() + b"\n"
    peer.sendall(bytes([0x82, 0x80 | len(typed)]) + bytes(4) + typed)  # masked by zeroes
    heard = b""
    while b"tiny-7" not in heard and (data := peer.recv(65536)):
        heard += data
sys.exit(0 if heard.startswith(b"HTTP/1.1 101 ") and b"tiny-7" in heard else repr(heard))
"""


@pytest.fixture
def machine(pool: Pool) -> str:
    return pool.tiny()


def test_at_a_terminal_of_the_host(service: Service, machine: str) -> None:
    said = service.vm.run(f"echo 'echo tiny-$((3+4))' | sri-libvirt console {machine} --for 10")
    assert "tiny-7" in said
    assert "tiny-7" in service.vm.run(f"sri-libvirt console {machine} --log --lines 20")


def test_by_its_url(service: Service, machine: str) -> None:
    url = service.console_url(machine)
    assert url.startswith("http://127.0.0.1:20251/exec/")
    service.vm.run(f"python3 - '{url}' 'echo tiny-$((3+4))'", stdin=TALK, user="vagrant")

    def told() -> list[str]:
        events = service.vm.run(f"sri-libvirt machine events {machine}").splitlines()
        return [line for line in events if "console session" in line]

    wait_for("its end in the timeline", lambda: len(told()) == 2)
    assert not service.denials()
