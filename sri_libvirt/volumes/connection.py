"""Reading a VolumeConnection: what a driver needs of its maps, with the path of each key where it is wrong.

Everything here raises `InvalidSpec`, its path relative to the volume, and is pure. Attributes that nobody asks for are
ignored. Values of attributes are quoted in messages, those of `secret_data` and `encryption_data` never. What a value
means to a backend does not belong here (see each driver).
"""

from __future__ import annotations

import base64
import binascii
import posixpath
from typing import Literal

from sri_libvirt import printable
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DiskHost
from sri_libvirt.errors import InvalidSpec
from sri_libvirt.paths import unspeakable
from sri_libvirt.volumes import hosts as addresses

ENCRYPTION_KEY = "encryptionKey"

SECRET_BYTES = 1 << 16
"""The longest value of a secret that libvirt takes (REMOTE_SECRET_VALUE_MAX)."""

PATH_BYTES = 4095
"""Linux opens no longer path (PATH_MAX, with its NUL)."""

_FORM = "write host:port, an IPv6 address in brackets"
_WORDS = {"yes": True, "true": True, "no": False, "false": False}


def check_handle(volume: pb.Volume) -> None:
    """A volume is told from others by its handle, so there must be one."""
    if not volume.connection.handle:
        raise InvalidSpec("connection.handle", "must not be empty")


def attribute(volume: pb.Volume, key: str) -> str:
    """An attribute that must be there."""
    if not (value := optional(volume, key)):
        raise InvalidSpec(attribute_path(key), "must be set, and not be empty")
    return value


def optional(volume: pb.Volume, key: str) -> str:
    """An attribute, "" where it is not given."""
    value = volume.connection.attributes.get(key, "")
    if found := unspeakable(value):
        raise InvalidSpec(attribute_path(key), f"holds {found}, which libvirt cannot be told")
    return value


def wrong(key: str, value: str, problem: str) -> InvalidSpec:
    """The refusal of an attribute's value."""
    return InvalidSpec(attribute_path(key), f"{printable.quote(value)} {problem}")


def choice(volume: pb.Volume, key: str, *words: str) -> str:
    """An attribute that must be there and be one of these words."""
    value = attribute(volume, key)
    if value not in words:
        raise wrong(key, value, f"is not one of {', '.join(words)}")
    return value


def switch(volume: pb.Volume, key: str) -> bool:
    """An attribute that says yes or no; no where it is not given."""
    value = optional(volume, key) or "no"
    if value not in _WORDS:
        raise wrong(key, value, f"is not one of {', '.join(_WORDS)}")
    return _WORDS[value]


def absolute_path(volume: pb.Volume, key: str, most: int = PATH_BYTES) -> str:
    """An absolute path of at most `most` bytes, in its plain form: what it is below is told by its words."""
    value = attribute(volume, key)
    if not value.startswith("/") or value.startswith("//") or posixpath.normpath(value) != value:
        raise wrong(key, value, "is not an absolute path without '.', '..', '//' and a slash at its end")
    if len(value.encode()) > most:
        raise InvalidSpec(attribute_path(key), f"has {len(value.encode())} bytes; at most {most} can be opened")
    return value


def host(volume: pb.Volume, key: str, default_port: int = 0) -> DiskHost:
    """An attribute that is one `host:port`; see `hosts.host`."""
    value = attribute(volume, key)
    try:
        return addresses.host(value, default_port)
    except ValueError as error:
        form = _FORM.replace(":port", "[:port]") if default_port else _FORM
        raise wrong(key, value, f"cannot be used: {error}; {form}") from None


def hosts(volume: pb.Volume, key: str) -> tuple[DiskHost, ...]:
    """An attribute that is a comma list of `host:port`."""
    value = attribute(volume, key)
    try:
        return addresses.hosts(value)
    except ValueError as error:
        raise wrong(key, value, f"cannot be used: {error}; {_FORM}, commas and no spaces between several") from None


def secret(volume: pb.Volume, key: str) -> bytes:
    """An entry of `secret_data` that must be there."""
    return _secret(secret_path(key), volume.connection.secret_data.get(key, b""))


def has_secret(volume: pb.Volume, key: str) -> bool:
    """Whether an entry of `secret_data` is given."""
    return bool(volume.connection.secret_data.get(key, b""))


def name(volume: pb.Volume, key: str) -> str:
    """An entry of `secret_data` that must be there and is a name: it is stored and shown, and libvirt is told it."""
    try:
        value = secret(volume, key).decode()
    except UnicodeDecodeError:
        raise InvalidSpec(secret_path(key), "is not UTF-8") from None
    if not value.isprintable():
        raise InvalidSpec(secret_path(key), "holds what cannot be printed: a line break at its end?")
    return value


def words(volume: pb.Volume, key: str, most: int) -> bytes:
    """An entry of `secret_data` that must be there and is given on as text: UTF-8 of at most `most` bytes."""
    value = secret(volume, key)
    _check_text(secret_path(key), value)
    if len(value) > most:
        raise InvalidSpec(secret_path(key), f"has {len(value)} bytes; at most {most} are taken")
    return value


def base64_text(volume: pb.Volume, key: str) -> bytes:
    """The bytes that an entry of `secret_data` holds in base64. Line breaks are skipped, as Go's decoder does."""
    text = secret(volume, key).translate(None, b"\r\n")
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        value = b""
    if not value:
        raise InvalidSpec(secret_path(key), "is not base64 text")
    return value


def passphrase(volume: pb.Volume, engine: Literal["qemu", "librbd"]) -> bytes | None:
    """The bytes of `encryption_data`'s key, None of a volume without encryption.

    They are the passphrase of a LUKS key slot as they are, a line break at their end included: nothing is decoded.
    librbd is given any bytes; QEMU's own LUKS takes them for UTF-8 text, and gives up at any other (QEMU's
    block/rbd.c and crypto/block-luks.c).
    """
    given = volume.connection.encryption_data
    if not given:
        return None
    path = f"connection.encryption_data[{printable.quote(ENCRYPTION_KEY)}]"
    value = _secret(path, given.get(ENCRYPTION_KEY, b""))
    if engine == "qemu":
        _check_text(path, value)
    return value


def attribute_path(key: str) -> str:
    """The path of an attribute, relative to the volume."""
    return f"connection.attributes[{printable.quote(key)}]"


def secret_path(key: str) -> str:
    """The path of an entry of `secret_data`, relative to the volume."""
    return f"connection.secret_data[{printable.quote(key)}]"


def _secret(path: str, value: bytes) -> bytes:
    if not value:
        raise InvalidSpec(path, "must be set, and not be empty")
    if len(value) > SECRET_BYTES:
        raise InvalidSpec(path, f"has {len(value)} bytes; libvirt takes at most {SECRET_BYTES}")
    return value


def _check_text(path: str, value: bytes) -> None:
    try:
        value.decode()
    except UnicodeDecodeError:
        raise InvalidSpec(path, "is not UTF-8, which QEMU needs it to be") from None
    if b"\0" in value:
        raise InvalidSpec(path, "holds a NUL, which QEMU cannot be told")
