"""The machine classes of an operator's file.

A file holds Kubernetes MachineClass manifests (several documents, lists) or the short form::

    classes:
      - {name: small, cpu: 500m, memory: 1Gi, root_disk: 20Gi, firmware: uefi}

Names and capabilities must equal those of the API's MachineClass objects, else the poollet does not find the class
(contract A.8). In a manifest the policy (`policy.py`) stands in annotations: `sri-libvirt.spheric.cloud/root-disk`,
`…/firmware` and so on.
How many machines of a class fit does not belong here (that is `placement.py`), nor what is offered without a file
(`ladder.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sri_libvirt import documents, quantity
from sri_libvirt.capacity import deliverable
from sri_libvirt.capacity.policy import NOT_YET, WORDS, contradictions, deliverable_or_wrong, positive_bytes
from sri_libvirt.records import ClassPolicy, MachineClass

KINDS = ("MachineClass", "MachineClassList", "List")
API_GROUP = "compute.spheric.cloud/"
POLICY_PREFIX = "sri-libvirt.spheric.cloud/"
LEAST_CPU_MILLIS = 10
"""Below it QEMU's share of a period would be under libvirt's least quota of 1 ms."""

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")

_POLICY = frozenset((*WORDS, *NOT_YET))


def load(path: Path) -> dict[str, MachineClass]:
    """The classes of a file, in its order. Raises ConfigError with all its mistakes, each with its line."""
    return parse(documents.read(path, "machine classes"), str(path))


def parse(text: str, source: str, *, of_cluster: bool = False) -> dict[str, MachineClass]:
    """The classes of a file's text; `source` names it in messages. Raises ConfigError.

    `of_cluster`: only names and capabilities are read, for the rest is not for us; what we could not run is no mistake.
    """
    reader, called = _Reader(of_cluster=of_cluster), f"machine classes {source}"
    for document in documents.nodes(text, called):
        reader.document(document)
    if not reader.classes and not reader.mistakes:
        reader.mistakes.append((1, "there is no machine class in it"))
    reader.refuse(called)
    return reader.classes


@dataclass
class _Reader(documents.Reader):
    """Reads nodes into classes."""

    of_cluster: bool = False
    classes: dict[str, MachineClass] = field(default_factory=dict)

    def document(self, node: yaml.Node) -> None:
        """One document: a manifest, a list of manifests, or the short form."""
        if isinstance(node, yaml.MappingNode) and "classes" in (key.value for key, _ in node.value):
            fields = self.mapping(node, "the file", {"classes"})
            for item in self.sequence(fields["classes"], "classes"):
                self.short(item)
        else:
            self.manifest(node)

    def short(self, node: yaml.Node) -> None:
        fields = self.mapping(node, "a class", {"name", "cpu", "memory", *_POLICY})
        if isinstance(node, yaml.MappingNode):
            policy = {key: value for key, value in fields.items() if key in _POLICY}
            self.add(node, fields.get("name"), fields.get("cpu"), fields.get("memory"), policy)

    def manifest(self, node: yaml.Node, kinds: tuple[str, ...] = KINDS) -> None:
        """A MachineClass, or a List or MachineClassList of them (one level: an alias could nest without end)."""
        allowed = {"apiVersion", "kind", "metadata", "capabilities", "items"}
        fields = self.mapping(node, "a manifest", allowed)
        if not isinstance(node, yaml.MappingNode):
            return
        kind = self.text(fields, "kind", node)
        if kind is not None and kind not in kinds:
            self.wrong(fields["kind"], f"kind {kind!r} is not {' or '.join(kinds)}")
        elif kind == "MachineClass":
            self.machine_class(node, fields)
        elif kind is not None:
            for item in self.sequence(fields.get("items"), "items"):
                self.manifest(item, KINDS[:1])

    def machine_class(self, node: yaml.Node, fields: dict[str, yaml.Node]) -> None:
        version = self.text(fields, "apiVersion", node)
        if version is not None and not version.startswith(API_GROUP):
            self.wrong(fields["apiVersion"], f"apiVersion {version!r} is not of the group {API_GROUP[:-1]}")
        if "items" in fields:
            self.wrong(fields["items"], "unknown key 'items' in a MachineClass")
        metadata = self.mapping(fields.get("metadata"), "metadata")
        known = None if self.of_cluster else {"cpu", "memory"}
        capabilities = self.mapping(fields.get("capabilities"), "capabilities", known)
        policy: dict[str, yaml.Node] = {}
        for key, value in self.mapping(metadata.get("annotations"), "annotations").items():
            word = key.removeprefix(POLICY_PREFIX).replace("-", "_")
            if not key.startswith(POLICY_PREFIX) or self.of_cluster:
                continue
            if word in _POLICY and "_" not in key:
                policy[word] = value
            else:
                self.wrong(value, f"unknown annotation {key!r}")
        self.add(node, metadata.get("name"), capabilities.get("cpu"), capabilities.get("memory"), policy)

    def add(
        self,
        node: yaml.Node,
        name_node: yaml.Node | None,
        cpu_node: yaml.Node | None,
        memory_node: yaml.Node | None,
        policy: Mapping[str, yaml.Node],
    ) -> None:
        """Check one class's values and take it up."""
        name = self.value(node, name_node, "name", _name, string=True)
        cpu = self.value(node, cpu_node, "cpu", quantity.millis if self.of_cluster else _cpu)
        memory = self.value(node, memory_node, "memory", positive_bytes if self.of_cluster else _memory)
        wished = self.policy(node, policy)
        if name is not None and name in self.classes:
            self.wrong(name_node or node, f"class {name!r} is there twice")
        elif name and cpu and memory and wished:
            self.classes[name] = MachineClass(name, cpu, memory, wished)

    def policy(self, parent: yaml.Node, nodes: Mapping[str, yaml.Node]) -> ClassPolicy | None:
        """The policy; None after a mistake."""
        before = len(self.mistakes)
        wished: dict[str, Any] = {}
        for key, node in nodes.items():
            if key not in NOT_YET:
                wished[WORDS[key].field] = self.value(parent, node, key, WORDS[key].read)
            elif not (isinstance(node, yaml.ScalarNode) and node.value in ("false", "")):
                self.wrong(node, f"{key}: not yet: {NOT_YET[key]}")
        if len(self.mistakes) > before:
            return None
        found = ClassPolicy(**wished)
        for key, problem in contradictions(found).items():
            self.wrong(nodes[key], f"{key}: {problem}")
        return found if len(self.mistakes) == before else None


def _name(text: str) -> str:
    if len(text) > 253 or not _NAME.fullmatch(text):
        raise ValueError(f"{text[:64]!r} is not a name of lower-case letters, digits, '-' and '.'")
    return text


def _cpu(text: str) -> int:
    value = quantity.millis(text)
    if value < LEAST_CPU_MILLIS:
        raise ValueError(f"{text} is below the least, {LEAST_CPU_MILLIS}m")
    return deliverable_or_wrong(value, deliverable.wrong_cpu(value))


def _memory(text: str) -> int:
    value = positive_bytes(text)
    return deliverable_or_wrong(value, deliverable.wrong_memory(value))
