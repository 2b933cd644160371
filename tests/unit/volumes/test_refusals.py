"""What programs say is told in a user's words: recorded of two releases, and what nobody can provoke in a test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sri_libvirt.devices import DiskHost, DiskSource, from_json
from sri_libvirt.volumes import refusals
from tests.backends.faults import FAULTS

RECORDED = {file.stem: json.loads(file.read_text()) for file in (Path(__file__).parent / "recorded").glob("*.json")}
HEARD = [(release, name) for release, faults in sorted(RECORDED.items()) for name in faults]

HOSTS = (DiskHost("storage.example", 1234),)
RBD = DiskSource("", "", "raw", 0, kind="network", protocol="rbd", name="pool/image", hosts=HOSTS, user="me")
NBD = DiskSource("", "", "raw", 0, kind="network", protocol="nbd", name="export", hosts=HOSTS)
ISCSI = DiskSource("", "", "raw", 0, kind="network", protocol="iscsi", name="iqn.x:y/1", hosts=HOSTS)
FILE = DiskSource("", "/srv/a.raw", "raw", 0)
DEVICE = DiskSource("", "/dev/a", "raw", 0, kind="block")

REFUSED, SILENT = "volume-refused", "backend-silent"

AUTHENTICATION = (
    "-1 monclient(hunting): handle_auth_bad_method server allowed_methods [2] but i only support [2,1]\n"
    "0 monclient(hunting): authenticate timed out after 5\nrbd: couldn't connect to the cluster!"
)
"""Of rbd with a wrong key, where it tries both protocols on one port."""

UNPROVOKED = (
    (RBD, "Unknown driver 'rbd'", REFUSED, "QEMU cannot open the Ceph image pool/image: its driver for that is not"),
    (RBD, "encryption load fail: Invalid argument", REFUSED, "librbd cannot use the LUKS header of the Ceph image"),
    (
        RBD,
        AUTHENTICATION,
        REFUSED,
        "Ceph does not let in the user me with the key that is given",
    ),
    (RBD, "error connecting: Operation not supported", SILENT, "the Ceph monitors storage.example:1234 cannot be conn"),
    (NBD, "Failed to connect to 'a:1': No route to host", SILENT, "no answer from the NBD server storage.example:1234"),
    (NBD, "Failed to connect to 'a:1': Network is unreachable", SILENT, "no answer from the NBD server storage.exam"),
    (NBD, "Failed to connect to '/s': Permission denied", REFUSED, "the NBD server storage.example:1234 may not be op"),
    (NBD, "Failed to read initial magic: Unexpected end-of-file", SILENT, "the NBD server storage.example:1234 speaks"),
    (ISCSI, "Status: Authorization failure(514)", REFUSED, "the iSCSI portal storage.example:1234 does not let this"),
    (FILE, "Could not open '/srv/a.raw': Input/output error", SILENT, "the storage of the file /srv/a.raw does not wo"),
    (FILE, "Could not open '/srv/a.raw': Stale file handle", SILENT, "the storage of the file /srv/a.raw does not wor"),
    (DEVICE, "Could not open '/dev/a': Permission denied", REFUSED, "this process may not open the device /dev/a"),
    (DEVICE, "Could not open '/dev/a': Device or resource busy", REFUSED, "the device /dev/a is used by this host its"),
    (DEVICE, "Could not open '/dev/a': No medium found", REFUSED, "there is nothing behind the device /dev/a"),
)


@pytest.mark.parametrize(("release", "name"), HEARD)
def test_what_was_recorded_is_told_in_a_users_words(release: str, name: str) -> None:
    heard = RECORDED[release][name]
    source = from_json(json.dumps(heard["source"]))
    assert isinstance(source, DiskSource)
    error = refusals.explain(source, heard["words"], heard["status"])
    fault = FAULTS[name.removesuffix(" without rbd")]
    told = fault.told(source)
    assert (error.code, str(error)[: len(told)]) == (fault.code, told)


def test_all_releases_were_recorded_for_the_same_faults() -> None:
    assert {"qemu-7.2", "qemu-10.0"} <= set(RECORDED)
    assert all(set(each) == set(RECORDED["qemu-7.2"]) for each in RECORDED.values())


@pytest.mark.parametrize(("source", "words", "code", "problem"), UNPROVOKED)
def test_what_cannot_be_provoked_is_told_too(source: DiskSource, words: str, code: str, problem: str) -> None:
    error = refusals.explain(source, words, 1)
    assert (error.code, str(error)[: len(problem)]) == (code, problem)


def test_every_row_of_the_table_has_been_heard() -> None:
    heard = [
        (each["source"]["protocol"], each["words"], each["status"])
        for all_ in RECORDED.values()
        for each in all_.values()
    ]
    heard += [(source.protocol, words, 1) for source, words, _, _ in UNPROVOKED]
    for protocol, rows in refusals.TABLE.items():
        found = {refusals.meaning(protocol, words, status) for of, words, status in heard if of == protocol}
        own = set(rows) - set(refusals.COMMON)
        assert own <= found, [row.pattern for row in own - found]
    everything = {refusals.meaning(protocol, words, status) for protocol, words, status in heard}
    assert set(refusals.COMMON) <= everything


def test_what_nobody_has_heard_yet_is_told_as_it_was_said() -> None:
    error = refusals.explain(NBD, "one\ntwo", 1)
    assert (error.code, str(error)) == (REFUSED, "the NBD export export cannot be opened: one; two")
    long = str(refusals.explain(NBD, "x" * 10_000, 1))
    assert len(long) < 700


def test_an_ipv6_host_and_a_default_port_are_shown_as_people_write_them() -> None:
    source = DiskSource("", "", "raw", 0, kind="network", protocol="nbd", name="", hosts=(DiskHost("fd00::1"),))
    assert str(refusals.silent(source, 10)) == "no answer from the NBD server [fd00::1]:10809 within 10 s"


def test_names_with_braces_are_shown_as_they_are() -> None:
    source = DiskSource("", "/srv/{what}{0}.raw", "raw", 0)
    assert "/srv/{what}{0}.raw" in str(refusals.explain(source, "{words} {", 1))
