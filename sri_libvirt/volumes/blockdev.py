"""What libvirt tells QEMU's block layer of a disk, so that a probe opens the very same. Pure.

Nodes are as libvirt 9.0 to 11.3 write them for `-blockdev`, without what is of no meaning for a look: names, discards,
caches but for devices. Secrets are named by their purpose, certificates by "tls". What is asked of a node does not
belong here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sri_libvirt.devices import DiskHost, DiskSource, Encryption

Node = dict[str, Any]

_QEMU_CONF = Path("/etc/libvirt/qemu.conf")
_NBD_CERTIFICATES = Path("/etc/pki/libvirt-nbd")
_CERTIFICATES = "/etc/pki/qemu"


def storage(source: DiskSource, encryption: Encryption | None = None) -> Node:
    """Where the bytes are; those that librbd decrypts, if `encryption` says so."""
    match source.kind, source.protocol:
        case "network", "rbd":
            return _rbd(source, encryption)
        case "network", "nbd":
            return _nbd(source)
        case "network", "iscsi":
            return _iscsi(source)
        case "block", _:
            # Past the page cache QEMU reads the first block to open a device; else a look would read nothing of it,
            # and take one that hangs at every read for one that answers (its block/file-posix.c, raw_probe_alignment).
            return {"driver": "host_device", "filename": source.path, "cache": {"direct": True}}
        case _:
            return {"driver": "file", "filename": source.path}


def qcow2(source: DiskSource) -> Node:
    """What a qcow2 file holds; no other file that it names is opened as its base."""
    return {"driver": "qcow2", "file": storage(source), "backing": None}


def luks(source: DiskSource, *, key: bool) -> Node:
    """What QEMU's LUKS driver makes of the bytes; without the key it shows the header alone."""
    return {"driver": "luks", **({"key-secret": "encryption"} if key else {}), "file": storage(source)}


def tls_directory(settings: str, *, own: bool) -> str:
    """Where libvirt has QEMU look for NBD's certificates, by the text of qemu.conf; `own`: NBD's own directory exists.

    (libvirt's src/qemu/qemu_conf.c, virQEMUDriverConfigSetDefaults.)
    """
    found = dict(re.findall(r'^\s*(\w+_tls_x509_cert_dir)\s*=\s*"([^"]*)"', settings, re.MULTILINE))
    default = found.get("default_tls_x509_cert_dir") or _CERTIFICATES
    return found.get("nbd_tls_x509_cert_dir") or (str(_NBD_CERTIFICATES) if own else default)


def host_tls_directory() -> str:
    """The same on this host."""
    try:
        settings = _QEMU_CONF.read_text(errors="replace")
    except OSError:  # a pod has none
        settings = ""
    return tls_directory(settings, own=_NBD_CERTIFICATES.exists())


def monitors(source: DiskSource) -> str:
    """The monitors of a Ceph cluster as its own tools take them."""
    return ",".join(map(str, source.hosts))


def _rbd(source: DiskSource, encryption: Encryption | None) -> Node:
    pool, _, image = source.name.partition("/")
    node: Node = {"driver": "rbd", "pool": pool, "image": image}
    if source.config:
        node["conf"] = source.config
    node["server"] = [{"host": host.name, "port": str(host.port)} for host in source.hosts]
    if encryption:
        node["encrypt"] = {"format": encryption.format, "key-secret": "encryption"}
    if source.user:
        node |= {"user": source.user, "auth-client-required": ["cephx", "none"], "key-secret": "auth"}
    return node


def _nbd(source: DiskSource) -> Node:
    node: Node = {"driver": "nbd", "server": _nbd_server(source.hosts[0])}
    if source.name:
        node["export"] = source.name
    if source.tls:
        node["tls-creds"] = "tls"
    if source.reconnect:
        node["reconnect-delay"] = source.reconnect
    return node


def _nbd_server(host: DiskHost) -> Node:
    if host.socket:
        return {"type": "unix", "path": host.socket}
    return {"type": "inet", "host": host.name, "port": str(host.by("nbd").port)}


def _iscsi(source: DiskSource) -> Node:
    target, _, lun = source.name.rpartition("/")
    node: Node = {"driver": "iscsi", "portal": str(source.hosts[0].by("iscsi")), "target": target, "lun": int(lun)}
    node["transport"] = "tcp"
    if source.user:
        node |= {"user": source.user, "password-secret": "auth"}
    if source.initiator:
        node["initiator-name"] = source.initiator
    return node
