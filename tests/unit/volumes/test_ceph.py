"""Ceph volumes: what of their message is needed (contract D), and what QEMU is told of it."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import pytest

from sri_libvirt import names
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DiskHost, DiskSource, Encryption, SecretReference
from sri_libvirt.paths import MachinePaths
from sri_libvirt.volumes.base import Found
from sri_libvirt.volumes.ceph import HOT_LIBRBD, CephVolumes
from tests.connected import MACHINE, SIZE, StubAsking, refused, volume

KEY = bytes(range(28))
ATTRIBUTES = {"monitors": "10.0.0.1:6789,[2001:db8::1]:3300", "image": "pool/img-1"}
SECRETS = {"userID": b"guest", "userKey": base64.b64encode(KEY)}
PASSPHRASE = b"\xffnot text\n"

AUTH = SecretReference("auth", names.secret_uuid(MACHINE, "data", "auth"))
ENCRYPTION = SecretReference("encryption", names.secret_uuid(MACHINE, "data", "encryption"))


def ceph(**changes: dict[str, str] | dict[str, bytes]) -> pb.Volume:
    parts = {"attributes": ATTRIBUTES, "secrets": SECRETS, "encryption": {}, **changes}
    return volume("ceph", parts["attributes"], parts["secrets"], parts["encryption"])  # type: ignore[arg-type]


def test_what_qemu_is_told() -> None:
    assert CephVolumes().source(MACHINE, ceph()) == DiskSource(
        handle="ceph/4711",
        path="",
        format="raw",
        size=0,
        kind="network",
        protocol="rbd",
        name="pool/img-1",
        hosts=(DiskHost("10.0.0.1", 6789), DiskHost("2001:db8::1", 3300)),
        user="guest",
        secrets=(AUTH,),
    )


def test_the_key_is_decoded_and_the_passphrase_is_not() -> None:
    both = ceph(encryption={"encryptionKey": PASSPHRASE})
    assert CephVolumes().secrets(both) == {"auth": KEY, "encryption": PASSPHRASE}
    source = CephVolumes().source(MACHINE, both)
    assert (source.encryption, source.secrets) == (Encryption("librbd", "luks"), (AUTH, ENCRYPTION))


def test_line_breaks_in_the_key_are_skipped_as_go_does() -> None:
    text = base64.b64encode(KEY)
    broken = ceph(secrets={**SECRETS, "userKey": text[:10] + b"\r\n" + text[10:] + b"\n"})
    CephVolumes().validate(broken)
    assert CephVolumes().secrets(broken) == {"auth": KEY}


def test_unknown_attributes_are_ignored() -> None:
    more = ceph(attributes={**ATTRIBUTES, "clusterID": "x\ny", "": ""})
    assert CephVolumes().source(MACHINE, more) == CephVolumes().source(MACHINE, ceph())


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("monitors", None, "must be set"),
        ("monitors", "", "must be set"),
        ("monitors", "mon", "missing port"),
        ("monitors", "::1:6789", "too many colons"),
        ("monitors", "a:1,b", "entry 2"),
        ("monitors", "a:1, b:2", "no spaces"),
        ("image", None, "must be set"),
        ("image", "", "must be set"),
        ("image", "img", "POOL/IMAGE"),
        ("image", "pool/", "POOL/IMAGE"),
        ("image", "/img", "POOL/IMAGE"),
        ("image", "pool/namespace/img", "POOL/IMAGE"),
        ("image", "pool/img@snapshot", "POOL/IMAGE"),
        ("image", "pool/img\n", "U+000A"),
    ],
)
def test_attributes_that_are_wrong(key: str, value: str | None, words: str) -> None:
    attributes = {each: text for each, text in {**ATTRIBUTES, key: value}.items() if text is not None}
    refused(CephVolumes(), ceph(attributes=attributes), f'connection.attributes["{key}"]', words)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("userID", None, "must be set"),
        ("userID", b"", "must be set"),
        ("userID", b"\xff", "not UTF-8"),
        ("userID", b"guest\n", "line break"),
        ("userID", b"gu\0est", "cannot be printed"),
        ("userKey", None, "must be set"),
        ("userKey", b"", "must be set"),
        ("userKey", KEY, "not base64"),
        ("userKey", b"AQ==x", "not base64"),
        ("userKey", b"AQ", "not base64"),
        ("userKey", b"A Q==", "not base64"),
        ("userKey", b"\n", "not base64"),
        ("userKey", b"A" * 65540, "at most 65536"),
    ],
)
def test_secrets_that_are_wrong(key: str, value: bytes | None, words: str) -> None:
    secrets = {each: data for each, data in {**SECRETS, key: value}.items() if data is not None}
    refused(CephVolumes(), ceph(secrets=secrets), f'connection.secret_data["{key}"]', words)


@pytest.mark.parametrize("given", [{"encryptionKey": b""}, {"other": b"x"}])
def test_encryption_without_its_key(given: dict[str, bytes]) -> None:
    refused(CephVolumes(), ceph(encryption=given), 'connection.encryption_data["encryptionKey"]', "must be set")


def test_a_handle_is_needed() -> None:
    nameless = volume("ceph", ATTRIBUTES, SECRETS, handle="")
    refused(CephVolumes(), nameless, "connection.handle", "must not be empty")


def test_what_was_found_is_in_what_is_prepared(paths: MachinePaths) -> None:
    asking = StubAsking(Found(SIZE, Encryption("librbd", "luks2")))
    driver = CephVolumes(asking)
    asked = ceph(encryption={"encryptionKey": PASSPHRASE})
    source = driver.source(MACHINE, asked)
    prepared = driver.prepare(MACHINE, asked, paths)
    assert prepared == replace(source, size=SIZE, encryption=Encryption("librbd", "luks2"))
    assert asking.asked == [(MACHINE, ("volume", MACHINE, "data"), source, driver.secrets(asked))]


def test_the_file_for_librados_is_told_where_it_exists(paths: MachinePaths, tmp_path: Path) -> None:
    conf = tmp_path / "sri-libvirt.conf"
    driver = CephVolumes(StubAsking(), conf)
    without = driver.prepare(MACHINE, ceph(), paths)
    assert without.config == ""
    assert str(conf) in without.note
    conf.touch()
    found = driver.prepare(MACHINE, ceph(), paths)
    assert (found.config, found.note) == (str(conf), "")
    assert driver.source(MACHINE, ceph()).config == "", "which files there are is no affair of the message"


@pytest.mark.parametrize(
    ("version", "encrypted", "cold"),
    [(0, True, True), (9_000_000, True, True), (HOT_LIBRBD, True, False), (9_000_000, False, False)],
)
def test_what_an_old_libvirt_cannot_plug(version: int, encrypted: bool, cold: bool) -> None:
    driver = CephVolumes(libvirt_version=lambda: version)
    asked = ceph(encryption={"encryptionKey": PASSPHRASE} if encrypted else {})
    assert bool(driver.cold_only(asked)) == cold
