"""Machine files in srictl's form."""

from __future__ import annotations

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.cli import manifest
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
    return manifest.machine(text, "f", told.append), told


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


VOLUME = """\
name: data
device: oda
connection:
  driver: ceph
  handle: wwn
  attributes: {monitors: "192.0.2.1:6789", image: pool/a}
  secret_data: {userID: Z3Vlc3Q=, userKey: a2V5}
"""


def read_volume(text: str) -> tuple[pb.Volume, list[str]]:
    told: list[str] = []
    return manifest.volume(text, "f", told.append), told


def test_a_volume() -> None:
    volume, told = read_volume(f"{VOLUME}  handel: x\n")
    assert told == ["f: ignored: the SRI has no field connection.handel"]
    assert (volume.name, volume.connection.driver, volume.connection.attributes["image"]) == ("data", "ceph", "pool/a")
    assert dict(volume.connection.secret_data) == {"userID": b"guest", "userKey": b"key"}


@pytest.mark.parametrize(
    ("secret", "path"),
    [
        ("{userKey: hunter2!}", 'connection.secret_data["userKey"]'),
        ("{userKey: 42}", 'connection.secret_data["userKey"]'),
        ("{userKey: null}", 'connection.secret_data["userKey"]'),
        ("{userKey: [hunter2]}", 'connection.secret_data["userKey"]'),
        ("hunter2", 'connection.secret_data[""]'),
    ],
)
def test_a_secret_that_is_not_base64_is_told_by_its_path_alone(secret: str, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_volume(VOLUME.replace("{userID: Z3Vlc3Q=, userKey: a2V5}", secret))
    assert str(caught.value).startswith(f"f: {path} is not base64: ")
    assert "hunter2" not in str(caught.value)
