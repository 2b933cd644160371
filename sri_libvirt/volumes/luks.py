"""LUKS headers: where the bytes of the guest begin. Pure.

(cryptsetup's LUKS1 and LUKS2 on-disk formats.) Who opens a device with its key, and how, does not belong here.
"""

from __future__ import annotations

import json
import struct

HEADER_BYTES = 64 << 10
"""As much of a device as `payload_offset` needs: librbd and cryptsetup give the JSON of version 2 some 12 KiB."""

_MAGIC = b"LUKS\xba\xbe"
_SECTOR = 512
_V1_PAYLOAD = 104
_V2_JSON = 4096


def payload_offset(header: bytes) -> int:
    """Bytes before those of the guest, by the first HEADER_BYTES of a device. Raises ValueError."""
    if len(header) < _V1_PAYLOAD + 4 or not header.startswith(_MAGIC):
        raise ValueError("not a LUKS header")
    (version,) = struct.unpack_from(">H", header, len(_MAGIC))
    if version == 1:
        (sectors,) = struct.unpack_from(">I", header, _V1_PAYLOAD)
        return int(sectors) * _SECTOR
    if version != 2:
        raise ValueError(f"LUKS of version {version}")
    (size,) = struct.unpack_from(">Q", header, len(_MAGIC) + 2)
    text = header[_V2_JSON : min(size, len(header))].partition(b"\0")[0]
    try:
        segments = json.loads(text)["segments"].values()
        return min(int(segment["offset"]) for segment in segments)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("its JSON does not tell where the data begins") from error
