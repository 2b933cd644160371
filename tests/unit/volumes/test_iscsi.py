"""iSCSI volumes: portal, target, LUN, who logs in and by which name."""

from __future__ import annotations

import pytest

from sri_libvirt import names
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DiskHost, DiskSource, SecretReference
from sri_libvirt.errors import NotReady
from sri_libvirt.paths import MachinePaths
from sri_libvirt.volumes.iscsi import IscsiVolumes
from tests.connected import MACHINE, StubAsking, refused, volume, waits, wanted

TARGET = "iqn.2005-10.org.freenas.ctl:disk-1"
ATTRIBUTES = {"portal": "10.0.0.5", "target": TARGET, "lun": "1"}
CHAP = {"username": b"tenant", "password": b"correct horse"}
INITIATOR = names.initiator("a store")


def iscsi(**changes: str) -> pb.Volume:
    return volume("iscsi", {**ATTRIBUTES, **changes})


def driver(asking: StubAsking | None = None) -> IscsiVolumes:
    return IscsiVolumes(INITIATOR, asking)


def test_what_qemu_is_told() -> None:
    assert driver().source(MACHINE, volume("iscsi", ATTRIBUTES, CHAP)) == DiskSource(
        handle="iscsi/4711",
        path="",
        format="raw",
        size=0,
        kind="network",
        protocol="iscsi",
        name=f"{TARGET}/1",
        hosts=(DiskHost("10.0.0.5", 3260),),
        user="tenant",
        initiator=INITIATOR,
        secrets=(SecretReference("auth", names.secret_uuid(MACHINE, "data", "auth")),),
    )
    assert driver().secrets(volume("iscsi", ATTRIBUTES, CHAP)) == {"auth": b"correct horse"}


def test_without_chap() -> None:
    source = driver().source(MACHINE, iscsi())
    assert (source.user, source.secrets, driver().secrets(iscsi())) == ("", (), {})


def test_with_a_key_for_qemu() -> None:
    asked = volume("iscsi", ATTRIBUTES, CHAP, {"encryptionKey": b"key"})
    assert driver().secrets(asked) == {"auth": b"correct horse", "encryption": b"key"}
    assert driver().source(MACHINE, asked).encryption == wanted("qemu")
    assert [each.purpose for each in driver().source(MACHINE, asked).secrets] == ["auth", "encryption"]


def test_an_initiator_of_its_own() -> None:
    own = "iqn.1994-05.com.example:own"
    assert driver().source(MACHINE, iscsi(initiator=own)).initiator == own
    assert driver().source(MACHINE, iscsi(initiator="")).initiator == INITIATOR


def test_a_hosts_initiator_is_a_name_and_stays() -> None:
    assert names.initiator("a store") == INITIATOR != names.initiator("another")
    driver().validate(iscsi(initiator=INITIATOR))


@pytest.mark.parametrize(
    "name",
    [
        "iqn.2001-04.com.example",
        "iqn.2001-04.com.example:storage:disk2.sys1.xyz",
        "iqn.2003-01.org.linux-iscsi.host.x8664:sn.0123",
        "eui.02004567A425678D",
        "naa.52004567BA64678D",
        "naa.62004567BA64678D0123456789ABCDEF",
    ],
)
def test_names_of_targets(name: str) -> None:
    assert driver().source(MACHINE, iscsi(target=name, lun="0")).name == f"{name}/0"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("portal", "", "must be set"),
        ("portal", "::1", "too many colons"),
        ("portal", "10.0.0.5:0", "the port"),
        ("portal", "a,b", "neither"),
        ("target", "", "must be set"),
        ("target", "disk", "no iSCSI name"),
        ("target", "iqn.2001-13.com.example", "no iSCSI name"),
        ("target", "iqn.2001-04.com.example:a/1", "no iSCSI name"),
        ("target", "iqn.2001-04.com.example:a b", "no iSCSI name"),
        ("target", "iqn.2001-04.com.example:", "no iSCSI name"),
        ("target", f"iqn.2001-04.com.example:{'a' * 200}", "no iSCSI name"),
        ("target", "eui.123", "no iSCSI name"),
        ("target", "naa.52004567BA64678", "no iSCSI name"),
        ("lun", "", "must be set"),
        ("lun", "-1", "from 0 to 16383"),
        ("lun", "01", "from 0 to 16383"),
        ("lun", "0x1", "from 0 to 16383"),
        ("lun", "16384", "from 0 to 16383"),
        ("lun", "1\n", "U+000A"),
        ("lun", "٣", "from 0 to 16383"),
        ("initiator", "me", "no iSCSI name"),
    ],
)
def test_attributes_that_are_wrong(key: str, value: str, words: str) -> None:
    refused(driver(), iscsi(**{key: value}), f'connection.attributes["{key}"]', words)


@pytest.mark.parametrize(
    ("secrets", "key", "words"),
    [
        ({"username": b"tenant"}, "password", "must be set"),
        ({"username": b"tenant", "password": b""}, "password", "must be set"),
        ({"password": b"correct horse"}, "username", "since there is a password"),
        ({"username": b"", "password": b"correct horse"}, "username", "since there is a password"),
        ({"username": b"\xff", "password": b"x"}, "username", "not UTF-8"),
        ({"username": b"a\n", "password": b"x"}, "username", "line break"),
        ({"username": b"a" * 256, "password": b"x"}, "username", "at most 255"),
        ({"username": b"tenant", "password": b"\xff\xfe"}, "password", "not UTF-8"),
        ({"username": b"tenant", "password": b"a\0b"}, "password", "a NUL"),
        ({"username": b"tenant", "password": b"pw" * 128}, "password", "at most 255"),
    ],
)
def test_secrets_that_are_wrong(secrets: dict[str, bytes], key: str, words: str) -> None:
    refused(driver(), volume("iscsi", ATTRIBUTES, secrets), f'connection.secret_data["{key}"]', words)


def test_who_is_refused_hears_by_which_name_the_target_knows_this_host(paths: MachinePaths) -> None:
    asking = StubAsking(NotReady("there is no LUN 1", "Make it.", "volume-refused"))
    error = waits(driver(asking), iscsi(), paths, "there is no LUN 1")
    assert error.advice == f"Make it. The target sees the initiator {INITIATOR}."
    assert error.code == "volume-refused"
    asking.answer = NotReady("it does not answer", "Look.", "backend-silent")
    assert waits(driver(asking), iscsi(), paths, "does not answer").advice == "Look."
