"""Where the guest's bytes begin, by headers of both versions."""

from __future__ import annotations

import json
import struct

import pytest

from sri_libvirt.volumes import luks

MAGIC = b"LUKS\xba\xbe"


def version_1(sectors: int) -> bytes:
    return (MAGIC + b"\0\1").ljust(104, b"x") + struct.pack(">I", sectors) + bytes(400)


def version_2(document: object, size: int = 16384) -> bytes:
    return (MAGIC + b"\0\2" + struct.pack(">Q", size)).ljust(4096, b"\0") + json.dumps(document).encode() + bytes(9000)


def test_version_1_tells_it_in_sectors() -> None:
    assert luks.payload_offset(version_1(4096)) == 2 << 20


def test_version_2_tells_it_in_its_json() -> None:
    segments = {"0": {"offset": "16777216", "size": "dynamic"}, "1": {"offset": "33554432", "size": "512"}}
    assert luks.payload_offset(version_2({"segments": segments, "config": {}})) == 16 << 20


@pytest.mark.parametrize(
    "header",
    [
        b"",
        bytes(4096),
        MAGIC,
        MAGIC + b"\0\1",
        MAGIC + b"\0\3" + bytes(4096),
        MAGIC + b"\0\2" + bytes(90),
        (MAGIC + b"\0\2").ljust(8192, b"\xff"),
        version_2({}),
        version_2([]),
        version_2({"segments": {}}),
        version_2({"segments": []}),
        version_2({"segments": {"0": {"offset": "much"}}}),
        version_2({"segments": {"0": {"offset": "1"}}}, size=100),
    ],
)
def test_what_is_no_header_is_no_header(header: bytes) -> None:
    with pytest.raises(ValueError, match=r"LUKS|JSON"):
        luks.payload_offset(header)
