"""Which ignition data is cloud-init's, which is Ignition's, and what is told of the rest."""

from __future__ import annotations

import gzip
import json
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sri_libvirt import userdata


def multipart() -> bytes:
    whole = MIMEMultipart()
    whole.attach(MIMEText("#!/bin/sh\n", "x-shellscript"))
    return whole.as_bytes()


CLOUD_INIT = [
    b"#cloud-config\nhostname: a\n",
    b"#cloud-config-archive\n- {}\n",
    b"#cloud-config-jsonp\n[]\n",
    b"#!/bin/sh\n",
    b"#!/usr/bin/env python3\n",
    b"#cloud-boothook\n#!/bin/sh\n",
    b"#include\nhttps://example.org/\n",
    b"#include-once\nhttps://example.org/\n",
    b"#part-handler\n",
    b"#upstart-job\n",
    b"## template: jinja\n#cloud-config\n",
    b"\n  #cloud-config\n",
    b"#Cloud-Config\n",
    b'Content-Type: multipart/mixed; boundary="="\nMIME-Version: 1.0\n\n--=\n',
    b"From me\nMIME-Version: 1.0\nContent-Type: multipart/mixed\n\n",
    multipart(),
    gzip.compress(b"#cloud-config\n"),
]
IGNITION = [
    b'{"ignition": {"version": "3.4.0"}}',
    b' \n{"storage": {}, "ignition": {"config": {}, "version": "2.2.0"}}\n',
    json.dumps({"ignition": {"version": "3.4.0"}, "x": "MIME-Version: 1.0\n#cloud-config"}).encode(),
]
UNKNOWN = [
    b"variant: fcos\nversion: 1.5.0\n",
    b"{}",
    b'{"ignition": {}}',
    b'{"ignition": {"version": 3}}',
    b'["ignition"]',
    b"{" * 100_000,
    b"\0\xff",
    b"\xef\xbb\xbf#cloud-config\n",
    b"hostname: a\n",
    b" ",
]


@pytest.mark.parametrize("data", CLOUD_INIT, ids=range(len(CLOUD_INIT)))
def test_every_documented_kind_of_user_data_is_cloud_inits(data: bytes) -> None:
    assert userdata.kind(data) == "cloud-init"
    assert userdata.note(data, seeded=True) == ""
    assert "an older version made it so" in userdata.note(data, seeded=False)


@pytest.mark.parametrize("data", IGNITION, ids=range(len(IGNITION)))
def test_ignitions_json(data: bytes) -> None:
    assert userdata.kind(data) == "ignition"
    assert userdata.note(data, seeded=False) == ""


@pytest.mark.parametrize("data", UNKNOWN, ids=range(len(UNKNOWN)))
def test_what_is_neither_is_told_of(data: bytes) -> None:
    assert userdata.kind(data) == "unknown"
    assert "neither" in userdata.note(data, seeded=False)


def test_nothing_is_nothing() -> None:
    assert (userdata.kind(b""), userdata.note(b"", seeded=False)) == ("none", "")


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_are_a_fault(data: bytes, seeded: bool) -> None:
    userdata.note(data, seeded=seeded)


@given(st.text(max_size=300))
def test_a_hostname_is_one_that_linux_takes_or_none(name: str) -> None:
    found = userdata.hostname(name)
    assert len(found) <= userdata.HOSTNAME_MOST
    assert not found or all(label.strip("-") == label != "" for label in found.split("."))
    assert found.isascii()
