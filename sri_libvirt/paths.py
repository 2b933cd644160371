"""Every path under the state directory, with its mode and the reason for it.

QEMU runs as a user of its own and must traverse down to its disks: directories above a disk are 0711, so that names
cannot be listed. Secrets and the store are 0700. A file that only one guest may read is 0600: libvirt hands it to
QEMU's user at start and takes it back. Disks end in `.qcow2` or `.raw`, which Debian's AppArmor helper knows.
"""

from __future__ import annotations

import os
import re
import stat
import uuid
from dataclasses import dataclass
from pathlib import Path

from sri_libvirt import names

TRAVERSABLE = 0o711
PRIVATE = 0o700


NOT_BY_FW_CFG = "\"&',<>"
"""libvirt 9 hands QEMU a fw_cfg file's path with XML's escapes, and with commas that end it."""

_NOT_BY_XML = re.compile("[^ -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""An attribute of an XML document makes spaces of line breaks and tabs; the others it cannot hold."""


def unspeakable(path: Path | str, more: str = "") -> str:
    """A character of a path or word that libvirt cannot be told, or one of `more`, named; "" when all can be."""
    found = _NOT_BY_XML.search(str(path))
    character = found.group() if found else next((each for each in str(path) if each in more), "")
    if not character:
        return ""
    if 0xDC80 <= ord(character) <= 0xDCFF:  # what Python makes of it
        return f"the byte 0x{ord(character) - 0xDC00:02X}, which is no UTF-8"
    return character if character in more else f"the character U+{ord(character):04X}"


def make_directory(path: Path, mode: int) -> Path:
    """Make one directory with exactly this mode, or set the mode of one that exists. Idempotent."""
    path.mkdir(mode=mode, exist_ok=True)
    path.chmod(mode)
    return path


def barred(path: Path, user: int | None) -> Path | None:
    """The first directory above a path that the user of that number (None: unknown) cannot pass, by owner and mode.

    None where there is none, and where an access list or a group may let it in. Raises OSError.
    """
    if not user:
        return None
    for each in reversed(path.parents):
        status = each.stat()
        passes = stat.S_IXUSR if status.st_uid == user else stat.S_IXOTH | (stat.S_IXGRP if status.st_gid else 0)
        if not status.st_mode & passes and not has_access_list(each):
            return each
    return None


def has_access_list(path: Path | int) -> bool:
    """Whether a file, or an open one, has one that may let in whom its mode keeps out."""
    try:
        return "system.posix_acl_access" in os.listxattr(path)
    except OSError:
        return False


def sync_directory(path: Path) -> None:
    """Make renames and unlinks in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def unfinished(path: Path) -> Path:
    """Where a file is made that `install` gives the name `path`: beside it, and no `*.qcow2` or `*.raw` names it."""
    return path.with_name(f"{path.name}.part")


def install(made: Path, path: Path, mode: int = 0o600) -> None:
    """Give a finished file its name and mode; it is durable when this returns. Replaces what is there."""
    fd = os.open(made, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fchmod(fd, mode)
        os.fsync(fd)
    finally:
        os.close(fd)
    made.rename(path)
    sync_directory(path.parent)


@dataclass(frozen=True, slots=True)
class MachinePaths:
    """The files of one machine, all below `machines/<id>/` (0711)."""

    root: Path

    @property
    def mark(self) -> Path:
        """Whose directory this is: a symbolic link whose target is the store's instance, so made all at once."""
        return self.root / ".instance"

    @property
    def image_disk(self) -> Path:
        return self.root / "image.qcow2"

    def empty_disk(self, volume: str, size: int) -> Path:
        return self.root / names.empty_disk_file(volume, size)

    @property
    def ignition(self) -> Path:
        """fw_cfg payload, 0600."""
        return self.root / "ignition"

    @property
    def seed(self) -> Path:
        """NoCloud seed disk, 0600."""
        return self.root / "seed.raw"

    @property
    def nvram(self) -> Path:
        """UEFI variables; made by libvirt at the first start, removed by undefine."""
        return self.root / "nvram.fd"

    @property
    def kernel(self) -> Path:
        """The machine's own copy of its image's kernel: libvirt gives it to QEMU's user while a guest runs."""
        return self.root / "kernel"

    @property
    def initramfs(self) -> Path:
        return self.root / "initramfs"

    @property
    def console_log(self) -> Path:
        """What the guest wrote to its serial console; root 0600, made and rotated by virtlogd."""
        return self.root / "console.log"


@dataclass(frozen=True, slots=True)
class StatePaths:
    """The state directory (0711)."""

    root: Path

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def database(self) -> Path:
        return self.store / "state.sqlite"

    @property
    def reserve(self) -> Path:
        """Room that is given up for what makes room."""
        return self.store / "reserve"

    @property
    def backups(self) -> Path:
        """Copies of the database, 0700 like it."""
        return self.store / "backups"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def machines(self) -> Path:
        return self.root / "machines"

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def image_cache(self) -> Path:
        """Images that were fetched, 0444 and called by their digest, and parts of such that are not whole yet."""
        return self.images / "sha256"

    @property
    def lock(self) -> Path:
        """flock'ed by the one provider that owns this directory."""
        return self.root / "lock"

    @property
    def settings(self) -> Path:
        """What the provider that has the lock runs with, 0600."""
        return self.root / "settings.json"

    @property
    def admin_socket(self) -> Path:
        return self.root / "admin.sock"

    @property
    def reading_socket(self) -> Path:
        """For the group of the SRI's socket, which may pass the directory and read nothing in it."""
        return self.root / "read.sock"

    def machine(self, machine_id: str) -> MachinePaths:
        """Paths of one machine. The id must be a UUID: it becomes a directory that deletion removes whole."""
        if str(uuid.UUID(machine_id)) != machine_id:
            raise ValueError(f"not a machine id: {machine_id!r}")
        return MachinePaths(self.machines / machine_id)

    def prepare(self) -> None:
        """Make the directories with their modes. Idempotent; OSError when the root cannot be written."""
        self.root.mkdir(parents=True, exist_ok=True)
        make_directory(self.root, TRAVERSABLE)
        make_directory(self.machines, TRAVERSABLE)
        make_directory(self.images, TRAVERSABLE)
        make_directory(self.image_cache, TRAVERSABLE)
        make_directory(self.store, PRIVATE)
        make_directory(self.backups, PRIVATE)
        make_directory(self.secrets, PRIVATE)
