"""How a disk is opened, in the same words whether a spec or XML says so: what libvirt must not lose without a word.

A guest whose disk has lost its encryption would write plain bytes over the cipher's; one that has lost its initiator
would be another host to the target. Which bytes a disk is does not belong here (that is its `source`, told by
`observed.py` at every look), nor the value of any secret.
"""

from __future__ import annotations

from collections.abc import Mapping

from lxml import etree

from sri_libvirt.domain.spec import Disk
from sri_libvirt.domain.xml import attribute

Access = Mapping[str, str]
"""What is said of each of these, in words; what nothing is said of is not in it."""


def of_disk(disk: Disk) -> Access:
    """What the XML of a disk must say."""
    net, encryption = disk.network, disk.encryption
    auth = net.auth if net else None
    return _said(
        {
            "type": disk.kind,
            "format": disk.format,
            "read-only": "yes" if disk.read_only else "",
            "TLS": "yes" if net and net.tls else "",
            "configuration": net.config if net else "",
            "reconnect": str(net.reconnect or "") if net else "",
            "initiator": net.initiator if net else "",
            "user": auth.user if auth else "",
            "authentication": _secret(auth.kind, auth.secret) if auth else "",
            "encryption": f"{encryption.format} by {encryption.engine}" if encryption else "",
            "passphrase": _secret("passphrase", encryption.secret) if encryption else "",
        }
    )


def of_xml(node: etree._Element) -> Access:
    """What a `<disk>` says, live or persistent."""
    source, encryption = node.find("source"), node.find("source/encryption")
    tls = attribute(source, "tls")
    by = (attribute(encryption, name) for name in ("format", "engine"))
    return _said(
        {
            "type": attribute(node, "type"),
            "format": attribute(node.find("driver"), "type"),
            "read-only": "yes" if node.find("readonly") is not None else "",
            "TLS": "" if tls == "no" else tls,
            "configuration": attribute(node.find("source/config"), "file"),
            "reconnect": attribute(node.find("source/reconnect"), "delay"),
            "initiator": attribute(node.find("source/initiator/iqn"), "name"),
            "user": attribute(node.find("source/auth"), "username"),
            "authentication": _secret_of(node.find("source/auth/secret")),
            "encryption": " by ".join(by) if encryption is not None else "",
            "passphrase": _secret_of(node.find("source/encryption/secret")),
        }
    )


def _secret_of(node: etree._Element | None) -> str:
    return _secret(attribute(node, "type"), attribute(node, "uuid")) if node is not None else ""


def _secret(kind: str, uuid: str) -> str:
    return f"{kind} secret {uuid}"


def _said(words: Access) -> Access:
    return {name: word for name, word in words.items() if word}
