"""Images that are files of this host: the boot disk is an overlay on one, never a copy.

The reference is a tenant's string and names a file of the host. So: only regular files below the operator's image
directories, after resolving links; nothing that would make QEMU open another file (backing or external data file); the
format is read from the first bytes by us and pinned, so that QEMU never probes. Which file it was is kept with the
overlay, which is useless on any other. Fetching images from elsewhere does not belong here.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sri_libvirt import qcow2
from sri_libvirt.devices import BackingFile, DiskFormat, DiskSource, FileIdentity
from sri_libvirt.errors import NotReady
from sri_libvirt.paths import MachinePaths
from sri_libvirt.process import ProcessError

HANDLE = "image"

_SECTOR = 512
_FOREIGN = {
    b"KDMV": "VMDK",
    b"# Disk DescriptorFile": "VMDK",
    b"vhdxfile": "VHDX",
    b"conectix": "VHD",
    b"QED\0": "QED",
    b"LUKS\xba\xbe": "LUKS",
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
}
"""What would boot to nothing if it were taken for a raw disk."""


class LocalImages:
    """The image driver for absolute paths and `file://` URLs below `image_dirs`."""

    name = "local"

    def __init__(self, image_dirs: Sequence[Path]) -> None:
        self._image_dirs = tuple(image_dirs)

    def supports(self, image: str) -> bool:
        return path_of(image) is not None

    def prepare(self, image: str, paths: MachinePaths, disk_bytes: int, made: DiskSource | None) -> DiskSource:
        """The overlay at `paths.image_disk`, made on the image unless it is there. Raises NotReady."""
        base = self._base(image, disk_bytes)
        disk_bytes = -(-disk_bytes // _SECTOR) * _SECTOR
        overlay = paths.image_disk
        try:
            if made is not None:
                _check_made(image, made, base, overlay)
                return made
            if overlay.exists():
                _check_left_behind(overlay, base, disk_bytes)
            else:
                if base.format == "qcow2":
                    qcow2.check(Path(base.path))  # safe now: its header names no other file
                qcow2.make(overlay, disk_bytes, base)
                # qemu-img opened the base by its name: it must still be the file that was looked at.
                if _identity(Path(base.path).stat()) != base.identity:
                    overlay.unlink()
                    raise NotReady(f"the image {image} changed while a disk was made of it", "It is tried again.")
        except ProcessError as error:
            raise NotReady(f"no disk can be made of the image {image}: {error}", _CHECK_ADVICE) from error
        except OSError as error:
            raise NotReady(f"{overlay} cannot be made or read: {error.strerror}") from error
        return DiskSource(handle=HANDLE, path=str(overlay), format="qcow2", size=disk_bytes, backing=base)

    def release(self, paths: MachinePaths) -> None:
        paths.image_disk.unlink(missing_ok=True)

    def _base(self, image: str, disk_bytes: int) -> BackingFile:
        """The image as a base, checked through one descriptor."""
        path = self._resolve(image)
        try:
            # Not blocking: a pipe must not stop the lane. No link: the path is resolved already.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                status = os.fstat(fd)
                shared = _readable_by_others(fd, status)
                head = os.pread(fd, qcow2.HEADER_BYTES, 0) if stat.S_ISREG(status.st_mode) else b""
            finally:
                os.close(fd)
        except OSError as error:
            raise NotReady(f"the image {image} cannot be read: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode):
            raise NotReady(f"the image {image} is not a regular file")
        if not shared:
            raise NotReady(f"QEMU's user cannot read the image {image}", f"chmod 0444 {shlex.quote(str(path))}")
        kind, size = look_at(head, status.st_size, image)
        if size > disk_bytes:
            raise NotReady(
                f"the image {image} has {size} bytes, more than the class's root disk of {disk_bytes}",
                "Use a class with a larger root disk, or a smaller image.",
            )
        return BackingFile(path=str(path), format=kind, identity=_identity(status))

    def _resolve(self, image: str) -> Path:
        path = path_of(image)
        if path is None:
            raise NotReady(f"{image} is not a path")
        # What lies elsewhere is not told apart from what does not exist: tenants do not explore the host.
        resolved = Path(os.path.realpath(path))
        if not any(resolved.is_relative_to(os.path.realpath(directory)) for directory in self._image_dirs):
            allowed = ", ".join(map(str, self._image_dirs)) or "none"
            raise NotReady(
                f"the image {image} is not below an image directory (--image-dir: {allowed})",
                "Put the image there, or add its directory with --image-dir.",
            )
        if not resolved.exists():
            raise NotReady(f"the image {image} is not there (yet)", f"Put it at {path}; the machine starts then.")
        return resolved


def path_of(image: str) -> Path | None:
    """The absolute path that a reference means; None for any other form. Pure."""
    text = image
    if image.lower().startswith("file:"):
        try:
            parts = urlsplit(image)
        except ValueError:
            return None
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            return None
        text = unquote(parts.path)
    return Path(text) if text.startswith("/") and "\0" not in text else None


def look_at(head: bytes, file_bytes: int, image: str) -> tuple[DiskFormat, int]:
    """Format and guest-visible size of an image, from its first bytes; NotReady for one that cannot be a base."""
    if not head.startswith(qcow2.MAGIC):
        if foreign := next((name for magic, name in _FOREIGN.items() if head.startswith(magic)), None):
            raise NotReady(f"the image {image} is {foreign}, not raw or qcow2", _CONVERT_ADVICE)
        if not file_bytes:
            raise NotReady(f"the image {image} is empty")
        return "raw", -(-file_bytes // _SECTOR) * _SECTOR
    try:
        header = qcow2.parse_header(head)
    except ValueError as error:
        raise NotReady(f"the image {image} is damaged: {error}") from error
    if header.has_backing or header.has_external_data:
        problem = "a backing file" if header.has_backing else "an external data file"
        raise NotReady(f"the image {image} has {problem}, which is not followed", _CONVERT_ADVICE)
    if header.encrypted or header.corrupt:
        raise NotReady(
            f"the image {image} is {'encrypted' if header.encrypted else 'marked as corrupt'}", _CHECK_ADVICE
        )
    return "qcow2", header.size


def _readable_by_others(fd: int, status: os.stat_result) -> bool:
    if status.st_mode & stat.S_IROTH:
        return True
    try:
        return "system.posix_acl_access" in os.listxattr(fd)  # which may let QEMU's user in
    except OSError:
        return False


def _identity(status: os.stat_result) -> FileIdentity:
    return FileIdentity(inode=status.st_ino, mtime_ns=status.st_mtime_ns, size=status.st_size)


def _check_made(image: str, made: DiskSource, base: BackingFile, overlay: Path) -> None:
    """What an earlier prepare returned must still be true: a changed base makes garbage of an overlay."""
    if made.backing != base:
        raise NotReady(
            f"the image {image} is not the file any more that the machine's disk was made of",
            "Put that file back in its place (moved, not copied), or delete the machine and create it anew. "
            "Publish new versions of an image under new names.",
        )
    if not overlay.exists():
        raise NotReady(f"the machine's disk {overlay} is gone", "Restore it, or delete the machine and create it anew.")
    if (size := qcow2.inspect(overlay).size) != made.size:
        raise NotReady(f"the machine's disk {overlay} has {size} bytes, not {made.size}", _CHECK_ADVICE)


def _check_left_behind(overlay: Path, base: BackingFile, disk_bytes: int) -> None:
    """A disk that was made and not recorded is adopted: it may hold data of a run that the store does not remember."""
    found = qcow2.inspect(overlay)
    same = (found.backing, found.backing_format, found.size) == (base.path, base.format, disk_bytes)
    if not same or found.corrupt or base.identity.mtime_ns > overlay.stat().st_mtime_ns:
        raise NotReady(
            f"{overlay} is there and is not a disk of this image as it is now", "Move it away if nobody needs it."
        )


_CONVERT_ADVICE = "Make a plain one of it: qemu-img convert -O qcow2 IMAGE PLAIN.qcow2"
_CHECK_ADVICE = "See `qemu-img info` and `qemu-img check` of the file."
