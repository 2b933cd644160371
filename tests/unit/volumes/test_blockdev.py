"""What QEMU is told of a volume: literally as libvirt 9.0 and 11.3 write it (tests/e2e/test_blockdev.py compares)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from sri_libvirt.devices import DiskSource, Encryption
from sri_libvirt.volumes import blockdev
from tests.unit.domain.samples import BLOCK, DISKS, FILE, ISCSI, NBD, RBD, RECONNECTING

CEPHX = {"user": "tenant", "auth-client-required": ["cephx", "none"], "key-secret": "auth"}
SERVERS = [
    {"host": "mon2.example", "port": "6789"},
    {"host": "fd00::1", "port": "3300"},
    {"host": "10.0.0.1", "port": "6789"},
]
CEPH = {"driver": "rbd", "pool": "pool", "image": "image", "conf": "/etc/ceph/sri-libvirt.conf", "server": SERVERS}
TARGET = {"driver": "iscsi", "portal": "10.0.0.1:3260", "target": "iqn.2026-11.example:store", "lun": 1}
INITIATOR = {"transport": "tcp", "initiator-name": "iqn.2026-11.example:host"}

STORAGE: dict[str, tuple[DiskSource, Mapping[str, object]]] = {
    "file": (FILE, {"driver": "file", "filename": "/srv/volumes/data.raw"}),
    "block": (
        BLOCK,
        {
            "driver": "host_device",
            "filename": "/dev/disk/by-id/wwn-0x5000c500a0b1c2d3",
            "cache": {"direct": True},
        },
    ),
    "ceph": (RBD, {**CEPH, **CEPHX}),
    "ceph-plain": (
        replace(RBD, user="", config="", hosts=()),
        {"driver": "rbd", "pool": "pool", "image": "image", "server": []},
    ),
    "nbd": (
        NBD,
        {"driver": "nbd", "server": {"type": "inet", "host": "10.0.0.1", "port": "10809"}, "export": "export"},
    ),
    "nbd-default": (
        DISKS["nbd-ipv6"],
        {"driver": "nbd", "server": {"type": "inet", "host": "fd00::1", "port": "10810"}},
    ),
    "nbd-socket": (
        DISKS["nbd-socket"],
        {"driver": "nbd", "server": {"type": "unix", "path": "/run/nbd/a b.sock"}, "export": "export"},
    ),
    "nbd-reconnecting-tls": (
        replace(RECONNECTING, tls=True),
        {
            "driver": "nbd",
            "server": {"type": "inet", "host": "10.0.0.1", "port": "10809"},
            "export": "export",
            "tls-creds": "tls",
            "reconnect-delay": 60,
        },
    ),
    "iscsi": (replace(ISCSI, user=""), {**TARGET, **INITIATOR}),
    "iscsi-chap": (ISCSI, {**TARGET, **INITIATOR, "user": "iqn.2026-11.example:us.er", "password-secret": "auth"}),
}


@pytest.mark.parametrize("name", STORAGE)
def test_where_the_bytes_are(name: str) -> None:
    source, expected = STORAGE[name]
    assert blockdev.storage(source) == expected


def test_what_librbd_decrypts() -> None:
    node = blockdev.storage(RBD, Encryption("librbd", "luks2"))
    assert node == {**CEPH, **CEPHX, "encrypt": {"format": "luks2", "key-secret": "encryption"}}


def test_what_qemu_decrypts_and_what_it_shows_without_the_key() -> None:
    file = {"driver": "file", "filename": "/srv/volumes/data.raw"}
    assert blockdev.luks(FILE, key=True) == {"driver": "luks", "key-secret": "encryption", "file": file}
    assert blockdev.luks(FILE, key=False) == {"driver": "luks", "file": file}


def test_a_qcow2_file_has_no_base() -> None:
    file = {"driver": "file", "filename": "/srv/volumes/data.qcow2"}
    assert blockdev.qcow2(DISKS["file-qcow2"]) == {"driver": "qcow2", "file": file, "backing": None}


def test_monitors_are_written_as_ceph_takes_them() -> None:
    assert blockdev.monitors(RBD) == "mon2.example:6789,[fd00::1]:3300,10.0.0.1:6789"


@pytest.mark.parametrize(
    ("settings", "own", "directory"),
    [
        ("", False, "/etc/pki/qemu"),
        ("", True, "/etc/pki/libvirt-nbd"),
        ('#nbd_tls_x509_cert_dir = "/commented"\n', False, "/etc/pki/qemu"),
        ('default_tls_x509_cert_dir = "/all"\n', False, "/all"),
        ('default_tls_x509_cert_dir = "/all"\n', True, "/etc/pki/libvirt-nbd"),
        ('default_tls_x509_cert_dir = "/all"\nnbd_tls_x509_cert_dir="/nbd"\n', True, "/nbd"),
        ('vnc_tls_x509_cert_dir = "/vnc"\n', False, "/etc/pki/qemu"),
    ],
)
def test_certificates_are_where_libvirt_has_qemu_look_for_them(settings: str, own: bool, directory: str) -> None:
    assert blockdev.tls_directory(settings, own=own) == directory


def test_a_host_without_settings_of_libvirt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockdev, "_QEMU_CONF", tmp_path / "qemu.conf")
    monkeypatch.setattr(blockdev, "_NBD_CERTIFICATES", tmp_path / "pki")
    assert blockdev.host_tls_directory() == "/etc/pki/qemu"
    (tmp_path / "qemu.conf").write_text('nbd_tls_x509_cert_dir = "/nbd"\n')
    assert blockdev.host_tls_directory() == "/nbd"
