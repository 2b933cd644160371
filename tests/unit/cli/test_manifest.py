"""Machine files in srictl's form."""

from __future__ import annotations

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.cli.manifest import parse
from sri_libvirt.errors import ConfigError
from sri_libvirt.records import class_name

FULL = """\
metadata:
  labels: {on: yes, since: 2020-01-01}
spec:
  power: 1
  class: small
  image: {image: "file:///images/x.raw"}
  ignition_data: aGVsbG8=
  volumes:
  - name: my-volume
    device: oda
    empty_disk: {size_bytes: 1099511627776}
  - name: none
    empty_disk: {}
  network_interfaces:
  - {name: my-nic, network_id: my-network, ips: [192.168.178.1]}
"""


def read(text: str) -> tuple[pb.Machine, list[str]]:
    told: list[str] = []
    return parse(text, "f", told.append), told


def test_every_field() -> None:
    machine, told = read(FULL)
    assert not told
    assert dict(machine.metadata.labels) == {"on": "yes", "since": "2020-01-01"}
    assert (machine.spec.power, class_name(machine.spec), machine.spec.ignition_data) == (
        pb.POWER_OFF,
        "small",
        b"hello",
    )
    assert machine.spec.volumes[0].empty_disk.size_bytes == 1 << 40
    assert machine.spec.volumes[1].HasField("empty_disk")
    assert list(machine.spec.network_interfaces[0].ips) == ["192.168.178.1"]


def test_json_and_names_of_enums() -> None:
    assert read('{"spec": {"power": "POWER_OFF"}}')[0].spec.power == pb.POWER_OFF


def test_unknown_keys_are_ignored_and_told() -> None:
    machine, told = read("spec: {class: a, cpus: 4, volumes: [{name: v, size: 1}]}\nkind: Machine")
    assert class_name(machine.spec) == "a"
    assert told == [f"f: ignored: the SRI has no field {path}" for path in ("spec.cpus", "spec.volumes.size", "kind")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "one machine"),
        ("- a", "one machine"),
        ("a: [", "line 1: not YAML"),
        ("a: b\n---\nc: d", "not YAML"),
        ("spec: {power: ON}", "Invalid enum value ON"),
        ("spec: {power: off}", "Invalid enum value off"),
        ("metadata: {labels: {a: 1}}", "labels"),
        ("spec: {volumes: {}}", "volumes"),
        ("spec: {ignition_data: '#cloud-config'}", "not base64"),
        ("spec: &s {volumes: [*s]}", "JSON cannot say"),
        ("spec: !!binary aGVs", "JSON cannot say"),
        ("spec: !!python/name:os.system x", "not YAML"),
    ],
)
def test_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
