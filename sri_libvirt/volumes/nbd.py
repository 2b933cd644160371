"""Network block devices: an export of an NBD server, by TCP or on a unix socket of this host.

A socket is something of the host, so it lies below one of the operator's directories. With `tls` QEMU uses the
certificates that qemu.conf names. A server that goes away is waited for where libvirt has a word for that; where it has
none, a guest's disk is lost with the connection until its next cold start. Who may connect to a server is the server's
own affair.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DiskHost, DiskSource
from sri_libvirt.errors import InvalidSpec, NotReady
from sri_libvirt.volumes import connection
from sri_libvirt.volumes.allowed import AllowedDirectories
from sri_libvirt.volumes.base import Asking
from sri_libvirt.volumes.connected import ConnectedVolumes

RECONNECT_SECONDS = 60
RECONNECT_SINCE = 9_002_000
"""The first libvirt that knows `<reconnect>` of NBD; the schema of the ones before refuses it."""

SOCKET_BYTES = 107
"""The longest path of a unix socket (unix(7))."""

EXPORT_BYTES = 4096
"""The longest string of the protocol."""


class NbdVolumes(ConnectedVolumes):
    """The volume driver for `nbd`. Sockets lie below the directories of `sockets`."""

    name = "nbd"

    def __init__(
        self,
        sockets: AllowedDirectories,
        asking: Asking | None = None,
        libvirt_version: Callable[[], int] = lambda: 0,
    ) -> None:
        super().__init__(asking)
        self._sockets = sockets
        self._libvirt_version = libvirt_version

    def source(self, machine_id: str, volume: pb.Volume) -> DiskSource:
        tls = connection.switch(volume, "tls")
        export = connection.optional(volume, "export")
        if len(export.encode()) > EXPORT_BYTES:
            raise InvalidSpec(connection.attribute_path("export"), f"has more than {EXPORT_BYTES} bytes")
        return replace(
            self._blank(machine_id, volume),
            kind="network",
            protocol="nbd",
            name=export,
            hosts=(_host(volume, tls=tls),),
            tls=tls,
            reconnect=RECONNECT_SECONDS if self._libvirt_version() >= RECONNECT_SINCE else 0,
        )

    def _settle(self, source: DiskSource) -> DiskSource:
        (where,) = source.hosts
        if not where.socket:
            return source
        return replace(source, hosts=(DiskHost(socket=str(self._sockets.find(where.socket, _check_socket))),))


def _host(volume: pb.Volume, *, tls: bool) -> DiskHost:
    given = [key for key in ("address", "socket") if connection.optional(volume, key)]
    if len(given) != 1:
        both = "address and socket exclude each other"
        raise InvalidSpec(connection.attribute_path("address"), both if given else "must be set, or else socket")
    if given == ["address"]:
        return connection.host(volume, "address")
    if tls:
        raise InvalidSpec(connection.attribute_path("tls"), "goes with address, not with socket")
    return DiskHost(socket=connection.absolute_path(volume, "socket", SOCKET_BYTES))


def _check_socket(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISSOCK(status.st_mode):
        raise NotReady(f"{path} is no socket")
