"""A probe opens the very thing that QEMU will open: its nodes, beside those that this host's libvirt writes."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from itertools import pairwise
from typing import Any

import libvirt
import pytest

from sri_libvirt.devices import DiskHost, DiskSource
from sri_libvirt.domain import disks
from sri_libvirt.domain.render import Renderer
from sri_libvirt.volumes import blockdev
from tests.e2e.libvirtd import PrivateLibvirt
from tests.unit.domain import samples

pytestmark = pytest.mark.e2e

IPV6 = DiskHost("fd00::1", 3261)
SOURCES = {**samples.DISKS, "iscsi-ipv6": replace(samples.DISKS["iscsi"], hosts=(IPV6,))}

HOW = frozenset({"node-name", "read-only", "auto-read-only", "discard", "detect-zeroes", "cache", "aio"})
"""What is said of how QEMU shall treat a disk, not of which it is."""


def secret(connection: libvirt.virConnect, uuid: str, usage: str) -> None:
    """A secret of that kind, in the place of any other of that UUID."""
    for each in connection.listAllSecrets():
        if each.UUIDString() == uuid:
            each.undefine()
    name = {"ceph": "name", "iscsi": "target", "volume": "volume"}[usage]
    text = f"<uuid>{uuid}</uuid><usage type='{usage}'><{name}>{uuid}</{name}></usage>"
    connection.secretDefineXML(f"<secret ephemeral='yes' private='yes'>{text}</secret>").setValue(b"sixteen letters!")


def native(connection: libvirt.virConnect, source: DiskSource) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The node that libvirt makes of a source, those below it in their places, and the objects that QEMU is given."""
    device = Renderer().render_device(disks.one(samples.source_row(source)))
    device = re.sub("<address type='pci'[^>]*/>", "", device)
    words = shlex.split(
        connection.domainXMLToNative(
            "qemu-argv",
            "<domain type='qemu'><name>x</name><memory>65536</memory><os><type machine='q35'>hvm</type></os>"
            f"<devices>{device}</devices></domain>",
        )
    )
    pairs = list(pairwise(words))
    nodes = [json.loads(text) for word, text in pairs if word == "-blockdev"]
    objects = [json.loads(text) for word, text in pairs if word == "-object"]
    known: dict[str, dict[str, Any]] = {}
    for node in nodes:
        name = node["node-name"]
        known[name] = {key: known.get(value, value) if key == "file" else value for key, value in node.items()}
        known[name] = which(known[name])
    found = known[nodes[-1]["node-name"]]
    # libvirt 11 has no node for a raw disk but that of its storage.
    return found["file"] if found["driver"] == "raw" else found, objects


def which(node: dict[str, Any]) -> dict[str, Any]:
    """A node, and those below it, without how they shall be treated."""
    kept = {key: value for key, value in node.items() if key not in HOW}
    return {key: which(value) if key == "file" and isinstance(value, dict) else value for key, value in kept.items()}


def named(node: Any) -> Any:
    """A node with secrets and certificates called as ours are."""
    if isinstance(node, dict):
        return {key: named(value) for key, value in node.items()}
    if isinstance(node, str) and "-secret0" in node:
        return "encryption" if "encryption" in node else "auth"
    return "tls" if isinstance(node, str) and node.endswith("_tls0") else node


def ours(source: DiskSource) -> dict[str, Any]:
    """The same of the probe."""
    encryption = source.encryption
    if encryption and encryption.engine == "qemu":
        return blockdev.luks(source, key=True)
    if source.format == "qcow2":
        return blockdev.qcow2(source)
    return blockdev.storage(source, encryption)


@pytest.mark.parametrize("name", SOURCES)
def test_libvirt_tells_qemu_what_the_probe_does(private_libvirt: PrivateLibvirt, name: str) -> None:
    source = SOURCES[name]
    connection = libvirt.open(private_libvirt.uri)
    try:
        secret(connection, samples.AUTH.uuid, "iscsi" if source.protocol == "iscsi" else "ceph")
        secret(connection, samples.PASSPHRASE.uuid, "volume")
        node, objects = native(connection, source)
    finally:
        connection.close()
    assert named(node) == which(ours(source))
    for credentials in (each for each in objects if each["qom-type"] == "tls-creds-x509"):
        assert credentials["dir"] == blockdev.host_tls_directory()
        assert (credentials["endpoint"], credentials["verify-peer"]) == ("client", True)
