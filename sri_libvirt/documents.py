"""YAML files of an operator, read as nodes and never as values: so every mistake has its line, a duplicate key is one,
and `010` or `1_000` cannot turn into a number that nobody meant.

What stands in which file does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import yaml

from sri_libvirt.errors import ConfigError

_STRING = "tag:yaml.org,2002:str"

T = TypeVar("T")


def read(path: Path, what: str) -> str:
    """The text of a file; `what` names it in messages. Raises ConfigError."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{what} {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{what} {path}: not UTF-8 text") from None


def nodes(text: str, source: str) -> list[yaml.Node]:
    """The documents of a text, empty ones left out; `source` names it in messages. Raises ConfigError."""
    try:
        documents = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{source}: line {line}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not YAML: {error}") from None
    return [document for document in documents if not is_null(document)]


@dataclass
class Reader:
    """Reads nodes and collects mistakes: (line, problem)."""

    mistakes: list[tuple[int, str]] = field(default_factory=list)

    def refuse(self, source: str) -> None:
        """Raise ConfigError with all mistakes, each with its line, if there are any."""
        if self.mistakes:
            lines = [f"line {line}: {problem}" for line, problem in sorted(self.mistakes)]
            raise ConfigError("\n  ".join([f"{source}: {len(lines)} mistake(s)", *lines]))

    def wrong(self, node: yaml.Node, problem: str) -> None:
        self.mistakes.append((node.start_mark.line + 1, problem))

    def value(
        self, parent: yaml.Node, node: yaml.Node | None, key: str, convert: Callable[[str], T], *, string: bool = False
    ) -> T | None:
        """A scalar through `convert`, whose ValueError becomes a mistake; None after a mistake."""
        if node is None:
            self.wrong(parent, f"{key} is missing")
        elif not isinstance(node, yaml.ScalarNode) or (string and node.tag != _STRING):
            self.wrong(node, f"{key} must be a {'string' if string else 'single value'}")
        else:
            try:
                return convert(node.value)
            except ValueError as error:
                self.wrong(node, f"{key}: {error}")
        return None

    def text(self, fields: Mapping[str, yaml.Node], key: str, parent: yaml.Node) -> str | None:
        return self.value(parent, fields.get(key), key, str, string=True)

    def mapping(self, node: yaml.Node | None, what: str, allowed: set[str] | None = None) -> dict[str, yaml.Node]:
        """A mapping's values by key; unknown and duplicate keys are mistakes. Nothing is an empty mapping."""
        if node is None or is_null(node):
            return {}
        if not isinstance(node, yaml.MappingNode):
            self.wrong(node, f"{what} must be a mapping")
            return {}
        fields: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.wrong(key, f"a key of {what} must be a string")
            elif key.value in fields:
                self.wrong(key, f"key {key.value!r} is there twice in {what}")
            elif allowed is not None and key.value not in allowed:
                self.wrong(key, f"unknown key {key.value!r} in {what}; known are {', '.join(sorted(allowed))}")
            else:
                fields[key.value] = value
        return fields

    def sequence(self, node: yaml.Node | None, what: str) -> Iterator[yaml.Node]:
        if isinstance(node, yaml.SequenceNode):
            yield from node.value
        elif node is not None and not is_null(node):
            self.wrong(node, f"{what} must be a list")


def is_null(node: yaml.Node) -> bool:
    """An empty document, or a key without a value."""
    return bool(node.tag == "tag:yaml.org,2002:null")
