"""Seed disks and fw_cfg payloads: what a guest reads, and that only one guest can."""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path

import pycdlib
import pytest

from sri_libvirt.errors import NotReady
from sri_libvirt.images import seed
from sri_libvirt.paths import MachinePaths

ID = "6b3ffb4e-8d3c-4f52-9d0a-0d2f3c1f0a01"
DATA = b"#cloud-config\npassword: \xc3\xa4\n" * 200


def read(path: Path, name: str, namespace: str) -> bytes:
    iso = pycdlib.PyCdlib()
    iso.open(str(path))
    out = io.BytesIO()
    iso.get_file_from_iso_fp(out, **{namespace: f"/{name}"})
    assert iso.pvd.volume_identifier.decode().strip() == "cidata"
    iso.close()
    return out.getvalue()


@pytest.mark.parametrize("namespace", ["rr_path", "joliet_path"])
def test_nocloud_seed(tmp_path: Path, namespace: str) -> None:
    paths = MachinePaths(tmp_path)
    source = seed.write_seed(paths, DATA, ID, "web-1")
    assert (source.path, source.format, source.read_only) == (str(paths.seed), "raw", True)
    assert source.size == paths.seed.stat().st_size
    assert read(paths.seed, "user-data", namespace) == DATA
    assert json.loads(read(paths.seed, "meta-data", namespace)) == {"instance-id": ID, "local-hostname": "web-1"}
    assert stat.S_IMODE(paths.seed.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["", "a: b", "-x", "a\n", "ü", "a..b", "a-.b"])
def test_what_is_no_hostname_is_left_out_and_told(tmp_path: Path, name: str) -> None:
    paths = MachinePaths(tmp_path)
    made = seed.write_seed(paths, DATA, ID, name)
    assert json.loads(read(paths.seed, "meta-data", "rr_path")) == {"instance-id": ID}
    assert ("gets no hostname" in made.note) == bool(name)


@pytest.mark.parametrize(
    ("name", "hostname"),
    [
        ("web-1", "web-1"),
        ("Web.Example", "web.example"),
        ("a" * 63, "a" * 63),
        ("a" * 64, "a" * 63),
        ("b" * 62 + "-" + "c" * 190, "b" * 62),
        ("node." * 50 + "end", ("node." * 13)[:63]),
    ],
)
def test_a_hostname_is_one_that_linux_takes(tmp_path: Path, name: str, hostname: str) -> None:
    paths = MachinePaths(tmp_path)
    made = seed.write_seed(paths, DATA, ID, name)
    assert json.loads(read(paths.seed, "meta-data", "rr_path"))["local-hostname"] == hostname
    assert len(hostname) <= 63
    assert max(map(len, hostname.split("."))) <= 63
    assert (hostname in made.note) == (len(name) > 63), "a hostname that was cut is told of"


def test_again_is_the_same(tmp_path: Path) -> None:
    paths = MachinePaths(tmp_path)
    first = seed.write_seed(paths, DATA, ID, "")
    assert seed.write_seed(paths, DATA, ID, "") == first
    assert [path.name for path in tmp_path.iterdir()] == ["seed.raw"]


def test_ignition(tmp_path: Path) -> None:
    paths = MachinePaths(tmp_path)
    for data in (b'{"ignition": {}}', b"\0\xff", b"#!/bin/sh\n"):
        seed.write_ignition(paths, data)
        assert paths.ignition.read_bytes() == data
        assert stat.S_IMODE(paths.ignition.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["ignition"]


def test_an_unwritable_place_leaves_nothing_behind(tmp_path: Path) -> None:
    paths = MachinePaths(tmp_path / "absent")
    with pytest.raises(NotReady, match="cannot be written"):
        seed.write_ignition(paths, b"{}")
    (tmp_path / "ignition").mkdir()
    with pytest.raises(NotReady, match="cannot be written"):
        seed.write_ignition(MachinePaths(tmp_path), b"{}")
    assert [path.name for path in tmp_path.iterdir()] == ["ignition"]
