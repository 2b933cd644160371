"""Metrics over a real socket."""

from __future__ import annotations

import socket
import urllib.request

import pytest

from sri_libvirt.errors import ConfigError
from sri_libvirt.metrics import Metrics


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port: int = door.getsockname()[1]
        return port


def test_a_scrape() -> None:
    metrics = Metrics()
    metrics.rpc("Version", "OK", 0.001)
    port = free_port()
    stop = metrics.serve(f":{port}")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
            text = reply.read().decode()
    finally:
        stop()
    assert 'sri_libvirt_rpcs_total{code="OK",method="Version"} 1.0' in text
    assert "process_resident_memory_bytes" in text
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10)


def test_an_address_that_is_taken() -> None:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()
        address = f"127.0.0.1:{door.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"--metrics-address {address}: Address already in use"):
            Metrics().serve(address)
