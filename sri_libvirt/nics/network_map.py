"""The operator's network map: which network ids lead to which driver, with which parameters.

A file of entries, of which the first that matches a network id decides::

    networks:
      - network_id: "ironcore-net://prod/*"
        driver: bridge
        bridge: br-prod
        vlan: 42

`network_id` is a glob over the whole id (`*`, `?`, `[abc]`). What a driver does does not belong here, nor what an id
means that no entry matches (that is `registry.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sri_libvirt import documents
from sri_libvirt.nics.base import Entry, NicDriver, Parameter

_OF_ENTRY = ("network_id", "driver")


def load(path: Path, drivers: Sequence[NicDriver]) -> tuple[Entry, ...]:
    """The entries of a file, in its order. Raises ConfigError with all its mistakes, each with its line."""
    return parse(documents.read(path, "network map"), str(path), drivers)


def parse(text: str, source: str, drivers: Sequence[NicDriver]) -> tuple[Entry, ...]:
    """The entries of a file's text; `source` names it in messages. Raises ConfigError."""
    called = f"network map {source}"
    reader = _Reader(drivers={driver.name: driver for driver in drivers})
    for document in documents.nodes(text, called):
        fields = reader.mapping(document, "the file", {"networks"})
        for item in reader.sequence(fields.get("networks"), "networks"):
            reader.entry(item)
    reader.refuse(called)
    return tuple(reader.entries)


@dataclass
class _Reader(documents.Reader):
    """Reads nodes into entries."""

    drivers: Mapping[str, NicDriver] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)

    def entry(self, node: yaml.Node) -> None:
        fields = self.mapping(node, "an entry")
        if not isinstance(node, yaml.MappingNode):
            return
        pattern = self.value(node, fields.get("network_id"), "network_id", _glob, string=True)
        named = self.text(fields, "driver", node)
        driver = self.drivers.get(named or "")
        if named is not None and driver is None:
            self.wrong(fields["driver"], f"there is no driver {named!r}; there are {', '.join(sorted(self.drivers))}")
        if driver is None:
            return
        if barred := getattr(driver, "barred", ""):
            self.wrong(fields["driver"], barred)
        values = self._parameters(node, driver, fields)
        if pattern is not None and values is not None:
            bind: Callable[[Mapping[str, Any]], NicDriver] | None = getattr(driver, "bound", None)
            self.entries.append(Entry(pattern, bind(values) if bind else driver, values))

    def _parameters(
        self, node: yaml.Node, driver: NicDriver, fields: Mapping[str, yaml.Node]
    ) -> Mapping[str, Any] | None:
        """What the entry says for its driver; None after a mistake."""
        before = len(self.mistakes)
        known: Mapping[str, Parameter] = getattr(driver, "parameters", {})
        values: dict[str, Any] = {}
        for key, value in fields.items():
            if key in known:
                values[key] = self._value(node, value, key, known[key])
            elif key not in _OF_ENTRY:
                all_known = ", ".join(sorted((*_OF_ENTRY, *known)))
                self.wrong(value, f"unknown key {key!r} of an entry for {driver.name}; known are {all_known}")
        for key, parameter in known.items():
            if parameter.required and key not in fields:
                self.wrong(node, f"{key} is missing")
        said = [key for key in getattr(driver, "exclusive", ()) if key in fields]
        if len(said) > 1:
            self.wrong(node, f"only one of {', '.join(said)} may be there")
        return values if len(self.mistakes) == before else None

    def _value(self, parent: yaml.Node, node: yaml.Node, key: str, parameter: Parameter) -> object:
        if parameter.many:
            return tuple(self.value(node, each, key, parameter.read) for each in self.sequence(node, key))
        if parameter.parts is None:
            return self.value(parent, node, key, parameter.read)
        before = len(self.mistakes)
        fields = self.mapping(node, key, set(parameter.parts))
        parts = {name: self._value(node, each, name, parameter.parts[name]) for name, each in fields.items()}
        if isinstance(node, yaml.MappingNode):
            for name, part in parameter.parts.items():
                if part.required and name not in fields:
                    self.wrong(node, f"{name} of {key} is missing")
        return parameter.read(parts) if len(self.mistakes) == before else None


def _glob(text: str) -> str:
    if not text:
        raise ValueError("is empty: an interface without a network id waits for one")
    opened = text.find("[")
    if opened >= 0 and "]" not in text[opened + 2 :]:
        raise ValueError(f"{text[:64]!r} has a '[' without its ']'")
    return text
