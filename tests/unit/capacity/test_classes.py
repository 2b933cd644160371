"""Class files: both forms, and every mistake with its line, all at once."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sri_libvirt.capacity import classes
from sri_libvirt.capacity.placement import quantity
from sri_libvirt.errors import ConfigError
from sri_libvirt.records import GIB, ClassPolicy, MachineClass

MANIFESTS = """\
apiVersion: compute.spheric.cloud/v1alpha1
kind: MachineClass
metadata:
  name: small
  labels: {tier: cheap}
capabilities:
  cpu: 500m
  memory: 1.5Gi
---
apiVersion: v1
kind: List
items:
- apiVersion: compute.spheric.cloud/v1alpha1
  kind: MachineClass
  metadata:
    name: large
    annotations:
      sri-libvirt.spheric.cloud/root-disk: 40Gi
      sri-libvirt.spheric.cloud/firmware: uefi
      other.example/note: kept out
  capabilities: {cpu: 4, memory: "8Gi"}
---
"""


@pytest.mark.rule("R-A8-2")
def test_manifests() -> None:
    assert classes.parse(MANIFESTS, "f") == {
        "small": MachineClass("small", 500, 3 << 29),
        "large": MachineClass("large", 4000, 8 * GIB, ClassPolicy(40 * GIB, "uefi")),
    }


def test_short_form(tmp_path: Path) -> None:
    file = tmp_path / "classes.yaml"
    file.write_text(
        "classes:\n"
        "- {name: c1-m1, cpu: 1, memory: 1Gi}\n"
        "- {name: big, cpu: 1e1, memory: 64Gi, root_disk: 100G, firmware: bios}\n"
    )
    assert list(classes.load(file).values()) == [
        MachineClass("c1-m1", 1000, GIB),
        MachineClass("big", 10_000, 64 * GIB, ClassPolicy(100_000_000_000, "bios")),
    ]


def test_all_mistakes_are_told_with_their_lines() -> None:
    text = """\
classes:
- {name: a, cpu: 9m, memory: 1Gi}
- {name: b, cpu: 1, memory: 0}
- name: c
  cpu: 1
  memory: 1Gi
  disk: 10Gi
- {name: d, cpu: 1, memory: 1Gi, firmware: coreboot}
- {name: ok, cpu: 1, memory: 1Gi}
- {name: ok, cpu: 2, memory: 2Gi}
- {cpu: 1, memory: 1Gi}
- {name: Upper, cpu: 1, memory: 1Gi}
- {name: e, cpu: [1], memory: 1Gi, cpu: 2}
- {name: 7, cpu: 1, memory: 1 Gi}
- {name: g, cpu: 1, memory: 1Gi, root_disk: -1}
"""
    with pytest.raises(ConfigError) as caught:
        classes.parse(text, "my.yaml")
    first, *lines = str(caught.value).split("\n  ")
    assert first == "machine classes my.yaml: 12 mistake(s)"
    assert lines == [
        "line 2: cpu: 9m is below the least, 10m",
        "line 3: memory: 0 must be more than 0",
        "line 7: unknown key 'disk' in a class; known are cpu, firmware, memory, name, root_disk",
        "line 8: firmware: 'coreboot' is not one of default, bios, uefi",
        "line 10: class 'ok' is there twice",
        "line 11: name is missing",
        "line 12: name: 'Upper' is not a name of lower-case letters, digits, '-' and '.'",
        "line 13: cpu must be a single value",
        "line 13: key 'cpu' is there twice in a class",
        "line 14: memory: '1 Gi' is not a quantity such as 4, 500m, 8Gi or 1e3",
        "line 14: name must be a string",
        "line 15: root_disk: -1 must be more than 0",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no machine class"),
        ("---\n---\n", "no machine class"),
        ("classes: []", "no machine class"),
        ("classes: {}", "classes must be a list"),
        ("- a", "a manifest must be a mapping"),
        ("a: [", "line 1: not YAML"),
        ("kind: Pod", "kind 'Pod' is not MachineClass"),
        ("kind: [MachineClass]", "kind must be a string"),
        (
            "apiVersion: v1\nkind: MachineClass\nmetadata: {name: a}\ncapabilities: {cpu: 1, memory: 1}",
            "line 1: apiVersion",
        ),
        ("apiVersion: compute.spheric.cloud/v1\nkind: MachineClass\nmetadata: {name: a}", "cpu is missing"),
        ("&a {kind: List, items: [*a]}", "kind 'List' is not MachineClass"),
        ("? [a]\n: b", "key of a manifest must be a string"),
        (
            MANIFESTS.replace("/root-disk", "/rootdisk"),
            "unknown annotation",
        ),
        ("\x00", "not YAML"),
    ],
)
def test_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        classes.parse(text, "f")
    assert words in str(caught.value)


@given(st.text(alphabet="classe:{}[]-\n &*!'\"0m,<>?|#%", max_size=40))
def test_any_text_is_classes_or_a_config_error(text: str) -> None:
    with suppress(ConfigError):
        assert classes.parse("classes:\n" + text, "f")


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        classes.load(tmp_path / "absent")
    (tmp_path / "latin").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        classes.load(tmp_path / "latin")


def test_the_ladder() -> None:
    ladder = classes.built_in()
    assert list(ladder)[:4] == ["c1-m1", "c1-m2", "c1-m4", "c1-m8"]
    assert ladder["c2-m4"] == MachineClass("c2-m4", 2000, 4 * GIB)
    for name, each in ladder.items():
        assert name == each.name == f"c{each.cpu_millis // 1000}-m{each.memory_bytes // GIB}"


@pytest.mark.parametrize(
    ("cpus", "memory", "count"),
    [(8, 64 * GIB, 4), (8, 10 * GIB, 2), (1, 64 * GIB, 0), (0, 0, 0), (3, 4 * GIB - 1, 0), (9, 1000 * GIB, 4)],
)
@pytest.mark.rule("R-A8-3")
def test_quantity_is_the_hosts_total(cpus: int, memory: int, count: int) -> None:
    assert quantity(classes.built_in()["c2-m4"], cpus, memory) == count


def test_quantity_of_a_fraction_of_a_core() -> None:
    assert quantity(MachineClass("tiny", 250, GIB), 2, 100 * GIB) == 8
