"""Empty disks: a sparse qcow2 file per volume, kept until its machine is deleted (contract G.4).

The file is named by volume and size, so that attaching the same volume again finds its data. Size 0 in the spec means
1 GiB; the spec itself is never changed. Whether there is room for it does not belong here.
"""

from __future__ import annotations

import re

from sri_libvirt import names, printable, qcow2
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DiskSource
from sri_libvirt.errors import InvalidSpec, NotReady
from sri_libvirt.paths import MachinePaths
from sri_libvirt.process import ProcessError
from sri_libvirt.records import GIB
from sri_libvirt.resources import DISK, Claim

DEFAULT_BYTES = GIB
LARGEST_BYTES = 1 << 56
"""More than any file system holds in one file, less than where qemu-img gives up."""

_SECTOR = 512
_FILE = re.compile(r"empty-[0-9a-f]+-([0-9]{1,19})\.qcow2")
"""See `names.empty_disk_file`."""


class EmptyDisks:
    """The volume driver for `empty_disk`."""

    name = "empty_disk"

    def supports(self, volume: pb.Volume) -> bool:
        return volume.HasField("empty_disk")

    def validate(self, volume: pb.Volume) -> None:
        size = volume.empty_disk.size_bytes
        if size < 0:
            raise InvalidSpec("empty_disk.size_bytes", "must not be negative")
        if size > LARGEST_BYTES:
            raise InvalidSpec("empty_disk.size_bytes", f"{size} is too large; at most {LARGEST_BYTES}")

    def handle(self, machine_id: str, volume: pb.Volume) -> str:
        return f"empty-disk/{names.digest(machine_id, volume.name, length=16)}"

    def claims(self, volume: pb.Volume) -> tuple[Claim, ...]:
        """The whole of its size, though the file is sparse; held by the file, so kept as long as that."""
        size = effective_bytes(volume)
        return (Claim(DISK, size, holder=names.empty_disk_file(volume.name, size)),)

    def kept(self, volume: pb.Volume, paths: MachinePaths) -> bool:
        """Whether its file was ever made: a disk that was detached before that leaves nothing."""
        return paths.empty_disk(volume.name, effective_bytes(volume)).exists()

    def prepare(self, machine_id: str, volume: pb.Volume, paths: MachinePaths) -> DiskSource:
        """The disk, made if it is not there. One that is damaged is told of and never overwritten."""
        size = effective_bytes(volume)
        path = paths.empty_disk(volume.name, size)
        try:
            if path.exists():
                found = qcow2.inspect(path)
                if found.size != size or found.backing or found.corrupt:
                    raise NotReady(f"{path} is not the disk of {size} bytes that was made", _ADVICE)
            else:
                qcow2.make(path, size)
        except ProcessError as error:
            raise NotReady(
                f"the empty disk of volume {printable.quote(volume.name)} cannot be used: {error}", _ADVICE
            ) from error
        except OSError as error:
            raise NotReady(f"{path} cannot be made or read: {error.strerror}") from error
        return DiskSource(handle=self.handle(machine_id, volume), path=str(path), format="qcow2", size=size)

    def release(
        self,
        machine_id: str,  # noqa: ARG002 of the contract
        volume: pb.Volume,
        paths: MachinePaths,
        *,
        final: bool,
    ) -> None:
        """Remove the disk when the machine is being deleted; a detach keeps its data."""
        if final:
            paths.empty_disk(volume.name, effective_bytes(volume)).unlink(missing_ok=True)


def claims_of_files(paths: MachinePaths) -> tuple[Claim, ...]:
    """What the empty disks that lie in a machine's directory claim, attached or kept after a detach."""
    found = {path.name: _FILE.fullmatch(path.name) for path in paths.root.glob("empty-*.qcow2")}
    return tuple(Claim(DISK, int(match[1]), holder=name) for name, match in sorted(found.items()) if match)


def effective_bytes(volume: pb.Volume) -> int:
    """What the guest sees: the size asked for, in whole sectors, or the default."""
    return -(-(volume.empty_disk.size_bytes or DEFAULT_BYTES) // _SECTOR) * _SECTOR


_ADVICE = "See `qemu-img check` of the file; repair or restore it, or move it away to let the volume start empty."
