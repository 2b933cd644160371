"""iSCSI: one LUN of a target, to which QEMU logs in by libiscsi, with CHAP where a name and a password are given.

The initiator's name is the volume's own or this host's: derived from the store, so the same for as long as that lives;
targets let initiators in by it. Discovery, kernel sessions and multipath do not belong here (a device that the host has
by itself is a `block` volume).
"""

from __future__ import annotations

import re
from dataclasses import replace

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DEFAULT_PORTS, DiskSource, SecretPurpose
from sri_libvirt.errors import InvalidSpec, NotReady
from sri_libvirt.paths import MachinePaths
from sri_libvirt.volumes import connection
from sri_libvirt.volumes.base import Asking
from sri_libvirt.volumes.connected import ConnectedVolumes

LARGEST_LUN = 16383
"""What libiscsi can address: a LUN of SAM's flat space."""

NAME_BYTES = 223
"""The longest name of a target or initiator (RFC 7143, 4.2.7.1)."""

CHAP_BYTES = 255
"""What libiscsi keeps of a user's name and password; it would cut longer ones without a word."""

_NAME = re.compile(
    r"iqn\.[0-9]{4}-(?:0[1-9]|1[0-2])\.[A-Za-z0-9][A-Za-z0-9.-]*(?::[A-Za-z0-9._:-]+)?"
    r"|eui\.[0-9A-Fa-f]{16}|naa\.(?:[0-9A-Fa-f]{16}){1,2}"
)
_FORM = "is no iSCSI name: iqn.YYYY-MM.DOMAIN:WORD, eui. and 16, or naa. and 16 or 32 hexadecimal digits"


class IscsiVolumes(ConnectedVolumes):
    """The volume driver for `iscsi`. `initiator` is this host's name, for volumes that give none."""

    name = "iscsi"

    def __init__(self, initiator: str, asking: Asking | None = None) -> None:
        super().__init__(asking)
        self._initiator = initiator

    def source(self, machine_id: str, volume: pb.Volume) -> DiskSource:
        return replace(
            self._blank(machine_id, volume),
            kind="network",
            protocol="iscsi",
            name=f"{_name('target', connection.attribute(volume, 'target'))}/{_lun(volume)}",
            hosts=(connection.host(volume, "portal", DEFAULT_PORTS["iscsi"]),),
            user=_user(volume),
            initiator=_name("initiator", connection.optional(volume, "initiator") or self._initiator),
        )

    def secrets(self, volume: pb.Volume) -> dict[SecretPurpose, bytes]:
        found = super().secrets(volume)
        if _user(volume):
            found["auth"] = connection.words(volume, "password", CHAP_BYTES)
        elif connection.has_secret(volume, "password"):
            raise InvalidSpec(connection.secret_path("username"), "must be set, since there is a password")
        return found

    def prepare(self, machine_id: str, volume: pb.Volume, paths: MachinePaths) -> DiskSource:
        """As of every driver; who is refused hears by which name the target knows this host."""
        try:
            return super().prepare(machine_id, volume, paths)
        except NotReady as error:
            if error.code != "volume-refused":
                raise
            initiator = f"The target sees the initiator {self.source(machine_id, volume).initiator}."
            raise NotReady(str(error), f"{error.advice} {initiator}".strip(), error.code) from error


def _name(key: str, value: str) -> str:
    if len(value) > NAME_BYTES or not _NAME.fullmatch(value):
        raise connection.wrong(key, value, _FORM)
    return value


def _lun(volume: pb.Volume) -> int:
    value = connection.attribute(volume, "lun")
    if not re.fullmatch(r"0|[1-9][0-9]{0,4}", value) or int(value) > LARGEST_LUN:
        raise connection.wrong("lun", value, f"is not a number from 0 to {LARGEST_LUN}")
    return int(value)


def _user(volume: pb.Volume) -> str:
    """Whom the password is of; "" of a volume without CHAP."""
    if not connection.has_secret(volume, "username"):
        return ""
    connection.words(volume, "username", CHAP_BYTES)
    return connection.name(volume, "username")
