"""Reading a machine from a file in srictl's form: YAML or JSON with the proto's own field names (contract E).

Enums may be numbers, as srictl writes them, or names; bytes are base64. Keys that the SRI does not have are ignored, as
srictl ignores them, but told. Whether a machine is right does not belong here (that is `server/validate.py`).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from google.protobuf import json_format

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML without booleans and dates: the SRI has neither, and `power: ON` would be true, which is 1, POWER_OFF."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse(text: str, source: str, warn: Callable[[str], None]) -> pb.Machine:
    """The machine that a file's text describes; `source` names it in messages. Raises ConfigError."""
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 -- a SafeLoader; JSON is YAML
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{source}: line {line}: not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{source}: not YAML: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{source}: must hold one machine, a mapping with metadata and spec")
    try:
        value = json.loads(json.dumps(value))  # plain, and without what YAML's aliases share
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: holds what JSON cannot say: {error}") from None
    for path in _drop_unknown(value, pb.Machine.DESCRIPTOR, ""):
        warn(f"{source}: ignored: the SRI has no field {path}")
    _check_base64(value, source)
    try:
        return json_format.ParseDict(value, pb.Machine())
    except json_format.ParseError as error:
        raise ConfigError(f"{source}: {str(error).splitlines()[0]}") from None


def _drop_unknown(value: dict[Any, Any], message: Any, path: str) -> Iterator[str]:
    """Take out the keys that a message does not have; gives their paths."""
    for key in list(value):
        field = message.fields_by_name.get(key)
        if field is None:
            yield f"{path}{key}"
            del value[key]
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            entries = value[key] if isinstance(value[key], list) else [value[key]]
            for entry in entries:
                if isinstance(entry, dict):
                    yield from _drop_unknown(entry, field.message_type, f"{path}{key}.")


def _check_base64(value: dict[Any, Any], source: str) -> None:
    """protobuf drops what is not base64 without a word, and ignition data is easily given as it is."""
    spec = value.get("spec")
    ignition = spec.get("ignition_data") if isinstance(spec, dict) else None
    if isinstance(ignition, str):
        try:
            base64.b64decode("".join(ignition.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ConfigError(f"{source}: spec.ignition_data is not base64: {error}") from None
