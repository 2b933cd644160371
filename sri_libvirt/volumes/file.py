"""Files of this host as volumes: raw or qcow2, below a directory that the operator lists. NFS is one that he mounts.

The format is the message's, and pinned: a guest that writes a qcow2 header into its raw disk gets a raw disk back. A
qcow2 file that names another file is refused as an image is, before anything opens it. What is the provider's own (the
state directory, images, the disk of any machine) is no volume, by whatever path it is named.
Its size and LUKS header are found as those of all volumes are (`probing.py`). The file is never made, grown or removed
here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from sri_libvirt import qcow2
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DiskFormat, DiskSource
from sri_libvirt.errors import InvalidSpec, NotReady
from sri_libvirt.volumes import connection
from sri_libvirt.volumes.allowed import AllowedDirectories
from sri_libvirt.volumes.base import Asking
from sri_libvirt.volumes.connected import ConnectedVolumes


class FileVolumes(ConnectedVolumes):
    """The volume driver for `file`. `machines` is the directory of the machines' own disks."""

    name = "file"

    def __init__(self, files: AllowedDirectories, machines: Path | None = None, asking: Asking | None = None) -> None:
        super().__init__(asking)
        self._files = files
        self._machines = machines

    def source(self, machine_id: str, volume: pb.Volume) -> DiskSource:
        form: DiskFormat = "qcow2" if connection.choice(volume, "format", "raw", "qcow2") == "qcow2" else "raw"
        if form == "qcow2" and volume.connection.encryption_data:
            raise InvalidSpec("connection.encryption_data", "goes with format raw, not with qcow2")
        path = connection.absolute_path(volume, "path")
        return replace(self._blank(machine_id, volume), path=path, format=form)

    def _settle(self, source: DiskSource) -> DiskSource:
        check = partial(self._check, source.format)
        return replace(source, path=str(self._files.find(source.path, check, aspect=source.format)))

    def _check(self, form: DiskFormat, path: Path, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise NotReady(f"{path} is not a regular file")
        if self._machines is not None and _is_inside(self._machines, status):
            raise NotReady(f"{path} is the disk of a machine of this host, by another name")
        head = _head(path)  # of a raw one, too: the kernel knows its attributes by heart while its server is dead
        if form == "qcow2":
            _check_qcow2(path, head)


def _head(path: Path) -> bytes:
    """A file's first bytes. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return os.pread(fd, qcow2.HEADER_BYTES, 0)
    finally:
        os.close(fd)


def _check_qcow2(path: Path, head: bytes) -> None:
    """Its header, read before any program opens the file. Raises NotReady."""
    if not head.startswith(qcow2.MAGIC):
        raise NotReady(f"the file {path} is not qcow2, which its volume says it is", qcow2.CHECK)
    qcow2.check_alone(head, f"the file {path}")


def _is_inside(machines: Path, status: os.stat_result) -> bool:
    """Whether a file lies in a machine's directory, too: by a hard link, or a mount of that directory elsewhere."""
    try:
        if machines.stat().st_dev != status.st_dev:
            return False
        directories: Sequence[os.DirEntry[str]] = list(os.scandir(machines))
    except FileNotFoundError:
        return False
    return any(status.st_ino in _inodes(each.path) for each in directories if each.is_dir(follow_symlinks=False))


def _inodes(directory: str) -> set[int]:
    try:
        return {each.inode() for each in os.scandir(directory)}
    except FileNotFoundError:  # its machine was deleted meanwhile
        return set()
