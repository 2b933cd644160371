"""The packet by which a lease is given back."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from sri_libvirt.hypervisor import release

SERVER, ADDRESS = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.7")


@pytest.mark.parametrize(
    ("client", "told"), [("", b""), ("01:52:54:00:aa:bb:cc", b"\x3d\x07\x01\x52\x54\x00\xaa\xbb\xcc")]
)
def test_what_a_guest_would_send(client: str, told: bytes) -> None:
    data = release.packet("52:54:00:aa:bb:cc", ADDRESS, SERVER, client)
    assert data[:4] == bytes([1, 1, 6, 0])
    assert data[12:28] == ADDRESS.packed + bytes(12), "it has the address; nothing is asked for"
    assert data[28:44] == bytes.fromhex("525400aabbcc") + bytes(10)
    assert data[236:] == b"\x63\x82\x53\x63" + b"\x35\x01\x07" + b"\x36\x04\x0a\x00\x00\x01" + told + b"\xff"
