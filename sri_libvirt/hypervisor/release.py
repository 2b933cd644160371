"""DHCPRELEASE on behalf of a guest that is gone: libvirt can end no lease, its DHCP server does when it is told.

The packet (RFC 2131, 4.4.6) goes to the server's own address, by its bridge: dnsmasq hears it as if it came from there.
That takes the network namespace of libvirt's daemon, and no privilege. Which leases are to end does not belong here.
"""

from __future__ import annotations

import os
import socket
import struct
from ipaddress import IPv4Address

_SERVER_PORT = 67
_HEADER = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s")
_REQUEST, _ETHERNET, _MAC_BYTES = 1, 1, 6
_COOKIE = b"\x63\x82\x53\x63"
_MESSAGE_TYPE, _SERVER_ID, _CLIENT_ID, _END = 53, 54, 61, 255
_RELEASE = 7


def packet(mac: str, address: IPv4Address, server: IPv4Address, client: str) -> bytes:
    """What a guest would send that gives its lease back. `client` is the client's id as libvirt tells it: hexadecimal
    bytes with colons, "" where the guest gave none.
    """
    hardware, nowhere = bytes.fromhex(mac.replace(":", "")), bytes(4)
    head = _HEADER.pack(
        _REQUEST, _ETHERNET, _MAC_BYTES, 0, int.from_bytes(os.urandom(4), "big"), 0, 0,
        address.packed, nowhere, nowhere, nowhere, hardware, b"", b"",
    )  # fmt: skip
    options = _option(_MESSAGE_TYPE, bytes([_RELEASE])) + _option(_SERVER_ID, server.packed)
    if client:
        options += _option(_CLIENT_ID, bytes.fromhex(client.replace(":", "")))
    return head + _COOKIE + options + bytes([_END])


def send(data: bytes, server: IPv4Address, bridge: str) -> None:
    """Send it to the server on that bridge. Raises OSError where there is none of that name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bridge.encode())
        sending.sendto(data, (str(server), _SERVER_PORT))


def _option(code: int, value: bytes) -> bytes:
    return bytes([code, len(value)]) + value
