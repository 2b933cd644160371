"""libvirt's secrets as we make them: kept in its memory alone, told to nobody but QEMU, and marked as ours.

The mark is the usage name, `sri-libvirt:<instance>:<uuid>`: libvirt lets a name serve one secret, and lists it without
reading any XML. A value never stands in XML, so it is in no error and no log of libvirt's. When a secret is set or
dropped does not belong here.
"""

from __future__ import annotations

import libvirt
from lxml import etree

from sri_libvirt.hypervisor import faults
from sri_libvirt.hypervisor.base import Secret, SecretUsage

_MARK = "sri-libvirt"
_NAMED_BY = {SecretUsage.CEPH: "name", SecretUsage.ISCSI: "target", SecretUsage.VOLUME: "volume"}
"""The element that holds the usage name (https://libvirt.org/formatsecret.html)."""


def set_value(connection: libvirt.virConnect, secret: Secret, value: bytes) -> None:
    """Have the secret with this value, whether it is there or not. Raises libvirtError, also of an empty value."""
    connection.secretDefineXML(xml(secret), 0).setValue(value, 0)


def drop(connection: libvirt.virConnect, uuid: str, instance: str) -> None:
    """Forget it; one that is not there, or carries another mark, is let be. Raises libvirtError."""
    try:
        found = connection.secretLookupByUUIDString(uuid)
        if instance_of(found.usageID()) == instance:
            found.undefine()
    except libvirt.libvirtError as error:
        if not faults.is_code(error, libvirt.VIR_ERR_NO_SECRET):
            raise


def marked(connection: libvirt.virConnect) -> dict[str, str]:
    """All that carry a provider's mark, by UUID, with its store's instance. Raises libvirtError."""
    try:
        found = {each.UUIDString(): instance_of(each.usageID()) for each in connection.listAllSecrets(0)}
    except libvirt.libvirtError as error:
        if faults.is_code(error, libvirt.VIR_ERR_NO_SUPPORT):
            return {}  # its driver for secrets is a package of its own in places; without it there are none
        raise
    return {uuid: instance for uuid, instance in found.items() if instance}


def xml(secret: Secret) -> str:
    """What libvirt is told of a secret before its value."""
    root = etree.Element("secret", ephemeral="yes", private="yes")
    etree.SubElement(root, "uuid").text = secret.uuid
    usage = etree.SubElement(root, "usage", type=secret.usage)
    etree.SubElement(usage, _NAMED_BY[secret.usage]).text = _usage_name(secret)
    return etree.tostring(root, encoding="unicode")


def instance_of(usage_name: str) -> str:
    """Which store's provider has set the secret of this usage name; "" if none has."""
    mark, _, rest = usage_name.removeprefix("/").partition(":")
    return rest.partition(":")[0] if mark == _MARK else ""


def _usage_name(secret: Secret) -> str:
    name = f"{_MARK}:{secret.instance}:{secret.uuid}"
    return f"/{name}" if secret.usage is SecretUsage.VOLUME else name  # its schema wants a path there
