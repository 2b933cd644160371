"""Class files: both forms, and every mistake with its line, all at once."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sri_libvirt.capacity import classes
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
      sri-libvirt.spheric.cloud/memory-overhead: 300Mi
      other.example/note: kept out
  capabilities: {cpu: 4, memory: "8Gi"}
---
"""


@pytest.mark.rule("R-A8-2")
def test_manifests() -> None:
    assert classes.parse(MANIFESTS, "f") == {
        "small": MachineClass("small", 500, 3 << 29),
        "large": MachineClass("large", 4000, 8 * GIB, ClassPolicy(40 * GIB, "uefi", 300 << 20)),
    }


def test_short_form(tmp_path: Path) -> None:
    file = tmp_path / "classes.yaml"
    file.write_text(
        "classes:\n"
        "- {name: c1-m1, cpu: 1, memory: 1Gi}\n"
        "- {name: big, cpu: 1e1, memory: 64Gi, root_disk: 100G, firmware: bios, memory_overhead: 0, "
        "vtpm: false, template: /etc/big}\n"
    )
    assert list(classes.load(file).values()) == [
        MachineClass("c1-m1", 1000, GIB),
        MachineClass("big", 10_000, 64 * GIB, ClassPolicy(100_000_000_000, "bios", 0, "/etc/big")),
    ]


def test_how_disks_are_opened() -> None:
    text = (
        "classes: [{name: a, cpu: 1, memory: 1Gi, "
        "disk_cache: writeback, disk_io: threads, disk_discard: ignore, disk_detect_zeroes: on}]"
    )
    policy = ClassPolicy(disk_cache="writeback", disk_io="threads", disk_discard="ignore", disk_detect_zeroes="on")
    assert classes.parse(text, "f") == {"a": MachineClass("a", 1000, GIB, policy)}
    assert ClassPolicy().disk_cache == ClassPolicy().disk_io == "auto"


KEYS = (
    "cpu, dedicated_cpus, disk_cache, disk_detect_zeroes, disk_discard, disk_io, firmware, hugepages, memory, "
    "memory_overhead, name, numa, pci_devices, root_disk, secure_boot, template, vfs, vtpm"
)


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
- name: h
  cpu: 1
  memory: 1Gi
  memory_overhead: -1Mi
  dedicated_cpus: true
  hugepages: 1Gi
  numa: {nodes: 1}
  pci_devices: [gpu]
  secure_boot: yes
  template: big
  vfs: 2
  vtpm: true
- {name: i, cpu: 0, memory: 1Gi, vtpm: false}
- {name: j, cpu: 255, memory: 32Mi, root_disk: 1Mi, bogus: 1}
- {name: k, cpu: 255001m, memory: 4, root_disk: 10}
- {name: l, cpu: 256, memory: 1Gi, root_disk: 8Ei}
- name: m
  cpu: 1
  memory: 1Gi
  disk_cache: writethrough
  disk_io: [native]
  disk_discard: yes
  disk_detect_zeroes: discard
- name: n
  cpu: 1
  memory: 1Gi
  disk_cache: writeback
  disk_discard: ignore
  disk_io: native
  disk_detect_zeroes: unmap
"""
    with pytest.raises(ConfigError) as caught:
        classes.parse(text, "my.yaml")
    first, *lines = str(caught.value).split("\n  ")
    assert first == "machine classes my.yaml: 34 mistake(s)"
    assert lines == [
        "line 2: cpu: 9m is below the least, 10m",
        "line 3: memory: 0 must be more than 0",
        f"line 7: unknown key 'disk' in a class; known are {KEYS}",
        "line 8: firmware: 'coreboot' is not one of default, bios, uefi",
        "line 10: class 'ok' is there twice",
        "line 11: name is missing",
        "line 12: name: 'Upper' is not a name of lower-case letters, digits, '-' and '.'",
        "line 13: cpu must be a single value",
        "line 13: key 'cpu' is there twice in a class",
        "line 14: memory: '1 Gi' is not a quantity such as 4, 500m, 8Gi or 1e3",
        "line 14: name must be a string",
        "line 15: root_disk: -1 must be more than 0",
        "line 19: memory_overhead: -1Mi must not be negative",
        "line 20: dedicated_cpus: not yet: guests cannot have CPUs of their own yet",
        "line 21: hugepages: not yet: guests cannot have huge pages yet",
        "line 22: numa: not yet: guests are not placed on NUMA nodes yet",
        "line 23: pci_devices: not yet: devices are not passed through yet",
        "line 24: secure_boot: not yet: Secure Boot is not offered yet",
        "line 25: template: 'big' is not an absolute path of a directory",
        "line 26: vfs: not yet: virtual functions are not handed out yet",
        "line 27: vtpm: not yet: virtual TPMs are not offered yet",
        "line 28: cpu: 0 is below the least, 10m",
        f"line 29: unknown key 'bogus' in a class; known are {KEYS}",
        "line 30: cpu: a machine can have 255 vCPUs, not 256",
        "line 30: memory: a machine needs 32 MiB of memory, not 4 B",
        "line 30: root_disk: a root disk needs 1 MiB, not 10 B",
        "line 31: cpu: a machine can have 255 vCPUs, not 256",
        "line 31: root_disk: '8Ei' is too large",
        "line 35: disk_cache: 'writethrough' is not one of auto, none, writeback",
        "line 36: disk_io must be a single value",
        "line 37: disk_discard: 'yes' is not one of unmap, ignore",
        "line 38: disk_detect_zeroes: 'discard' is not one of off, on, unmap",
        "line 44: disk_io: native goes with disk_cache none alone: QEMU refuses Linux AIO through the page cache",
        "line 45: disk_detect_zeroes: unmap discards zeroes, which disk_discard ignore forbids",
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
