"""Reading a machine or volume from a file in srictl's form: YAML or JSON with the proto's own field names (contract E).

Enums may be numbers, as srictl writes them, or names; bytes are base64. Keys that the SRI does not have are ignored, as
srictl ignores them, but told. Whether a machine is right does not belong here (that is `server/validate.py`).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import yaml
from google.protobuf import json_format
from google.protobuf.message import Message

from sri_libvirt import printable
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import ConfigError

T = TypeVar("T", bound=Message)


class _Loader(yaml.SafeLoader):
    """YAML without booleans and dates: the SRI has neither, and `power: ON` would be true, which is 1, POWER_OFF."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def machine(text: str, source: str, warn: Callable[[str], None]) -> pb.Machine:
    """The machine that a file's text describes; `source` names it in messages. Raises ConfigError."""
    return _parse(text, source, warn, pb.Machine(), "one machine, a mapping with metadata and spec")


def volume(text: str, source: str, warn: Callable[[str], None]) -> pb.Volume:
    """The volume that a file's text describes. Raises ConfigError, which tells no value of its secrets."""
    return _parse(text, source, warn, pb.Volume(), "one volume, a mapping with name and connection")


def network_interface(text: str, source: str, warn: Callable[[str], None]) -> pb.NetworkInterface:
    """The network interface that a file's text describes. Raises ConfigError."""
    return _parse(
        text, source, warn, pb.NetworkInterface(), "one network interface, a mapping with name and network_id"
    )


def has_key(text: str, key: str) -> bool:
    """Whether a file's text is a mapping with this key."""
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 -- a SafeLoader; JSON is YAML
    except (yaml.YAMLError, ValueError):
        return False
    return isinstance(value, dict) and key in value


def _parse(text: str, source: str, warn: Callable[[str], None], message: T, what: str) -> T:
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 -- a SafeLoader; JSON is YAML
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{source}: line {line}: not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{source}: not YAML: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{source}: must hold {what}")
    try:
        value = json.loads(json.dumps(value))  # plain, and without what YAML's aliases share
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: holds what JSON cannot say: {error}") from None
    for path in _drop_unknown(value, message.DESCRIPTOR, ""):
        warn(f"{source}: ignored: the SRI has no field {path}")
    for path, problem in _not_base64(value, message.DESCRIPTOR, ""):
        raise ConfigError(f"{source}: {path} is not base64: {problem}")
    try:
        return json_format.ParseDict(value, message)
    except json_format.ParseError as error:
        raise ConfigError(f"{source}: {str(error).splitlines()[0]}") from None


def _drop_unknown(value: dict[Any, Any], message: Any, path: str) -> Iterator[str]:
    """Take out the keys that a message does not have; gives their paths."""
    for key in list(value):
        field = message.fields_by_name.get(key)
        if field is None:
            yield f"{path}{key}"
            del value[key]
        elif _is_message(field):
            for entry in _entries(value[key]):
                yield from _drop_unknown(entry, field.message_type, f"{path}{key}.")


def _not_base64(value: dict[Any, Any], message: Any, path: str) -> Iterator[tuple[str, str]]:
    """Where bytes are given as they are, which is easily done: protobuf drops what is not base64 without a word."""
    for key, given in value.items():
        field = message.fields_by_name[key]
        if _is_message(field):
            for entry in _entries(given):
                yield from _not_base64(entry, field.message_type, f"{path}{key}.")
        elif field.type == field.TYPE_BYTES and given is not None:
            yield from _of_bytes(given, f"{path}{key}")
        elif _is_map_of_bytes(field):
            entries = given.items() if isinstance(given, dict) else [("", given)]
            for name, each in entries:
                yield from _of_bytes(each, f"{path}{key}[{printable.quote(name)}]")


def _of_bytes(given: Any, path: str) -> Iterator[tuple[str, str]]:
    try:
        base64.b64decode("".join(given.split()), validate=True)
    except AttributeError:
        yield path, "it is no text"
    except (binascii.Error, ValueError) as error:
        yield path, str(error)


def _is_message(field: Any) -> bool:
    return field.message_type is not None and not field.message_type.GetOptions().map_entry


def _is_map_of_bytes(field: Any) -> bool:
    entry = field.message_type
    return entry is not None and entry.GetOptions().map_entry and entry.fields_by_name["value"].type == field.TYPE_BYTES


def _entries(value: Any) -> list[dict[Any, Any]]:
    return [entry for entry in (value if isinstance(value, list) else [value]) if isinstance(entry, dict)]
