"""What a file is, told by its first bytes: a literal table of what is no disk, and of what a raw one begins with. Pure.

Whatever is not qcow2 is given to a guest as a raw disk, byte for byte; so what is known to be something else is refused
by its name, with what makes a disk of it. A raw disk may hold anything, so one in which nothing is known is told of and
no more. What a qcow2 header says does not belong here (`qcow2.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from sri_libvirt import printable, qcow2
from sri_libvirt.devices import DiskFormat
from sri_libvirt.errors import NotReady
from sri_libvirt.qcow2 import CONVERT

_SECTOR = 512
HEAD_BYTES = 0x10200
"""As much of a file as is looked at."""

UNPACK = "Unpack it, and name the disk in it."
FETCH = "Fetch the file itself: this is what a server or a checkout has put in its place."


@dataclass(frozen=True, slots=True)
class Magic:
    """A format by the bytes at an offset. `advice` is what makes a disk of one."""

    name: str
    offset: int
    bytes: bytes
    advice: str = ""


FOREIGN = (
    Magic("qcow of version 1", 0, b"QFI\xfb\0\0\0\1", CONVERT),
    Magic("VMDK", 0, b"KDMV", CONVERT),
    Magic("VMDK", 0, b"COWD", CONVERT),
    Magic("VMDK", 0, b"# Disk DescriptorFile", CONVERT),
    Magic("VHDX", 0, b"vhdxfile", CONVERT),
    Magic("VHD", 0, b"conectix", CONVERT),
    Magic("VDI", 0x40, b"\x7f\x10\xda\xbe", CONVERT),
    Magic("Parallels", 0, b"WithoutFreeSpace", CONVERT),
    Magic("Parallels", 0, b"WithouFreSpacExt", CONVERT),
    Magic("QED", 0, b"QED\0", CONVERT),
    Magic("Bochs", 0, b"Bochs Virtual HD Image", CONVERT),
    Magic("cloop", 0, b"#!/bin/sh\n#V2.0 Format\n", CONVERT),
    Magic("LUKS", 0, b"LUKS\xba\xbe", "Decrypt it: qemu-img convert with its secret."),
    Magic("an Android sparse image", 0, b"\x3a\xff\x26\xed", "Make a plain one of it: simg2img IMAGE PLAIN.raw"),
    Magic("gzip", 0, b"\x1f\x8b", UNPACK),
    Magic("xz", 0, b"\xfd7zXZ\0", UNPACK),
    Magic("lzma", 0, b"]\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff", UNPACK),
    Magic("lzip", 0, b"LZIP", UNPACK),
    Magic("lz4", 0, b"\x04\x22\x4d\x18", UNPACK),
    Magic("zstd", 0, b"\x28\xb5\x2f\xfd", UNPACK),
    Magic("bzip2", 0, b"BZh", UNPACK),
    Magic("zip", 0, b"PK\3\4", UNPACK),
    Magic("zip", 0, b"PK\5\6", UNPACK),
    Magic("7z", 0, b"7z\xbc\xaf\x27\x1c", UNPACK),
    Magic("rar", 0, b"Rar!\x1a\7", UNPACK),
    Magic("tar (an OVA is one)", 0x101, b"ustar", UNPACK),
    Magic("a pointer of git-lfs", 0, b"version https://git-lfs.github.com/spec/", FETCH),
    Magic("a pointer of git-annex", 0, b"/annex/objects/", FETCH),
    Magic("a Linux kernel", 0x202, b"HdrS", "Name a disk that holds it."),
    Magic("a program", 0, b"\x7fELF", "Name a disk that holds it."),
)
"""What would boot to nothing, or to less, if it were taken for a raw disk."""

PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml")
"""How text of a web server begins, but for white space and capitals."""

RAW = (
    Magic("a boot sector or partition table", 0x1FE, b"\x55\xaa"),
    Magic("a GPT", 0x200, b"EFI PART"),
    Magic("a GPT of 4 KiB sectors", 0x1000, b"EFI PART"),
    Magic("ext2, ext3 or ext4", 0x438, b"\x53\xef"),
    Magic("XFS", 0, b"XFSB"),
    Magic("btrfs", 0x10040, b"_BHRfS_M"),
    Magic("F2FS", 0x400, b"\x10\x20\xf5\xf2"),
    Magic("EROFS", 0x400, b"\xe2\xe1\xf5\xe0"),
    Magic("squashfs", 0, b"hsqs"),
    Magic("LVM", 0x218, b"LVM2 001"),
)
"""What a disk that somebody made for a machine begins with."""

_ISO = Magic("ISO 9660", 0x8001, b"CD001")


def foreign(head: bytes) -> Magic | None:
    """What a file is that is neither raw nor qcow2 of today, by its first HEAD_BYTES; None for what may be a disk."""
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:16].lower().startswith(PAGES):
        return Magic("a web page or XML", 0, b"", FETCH)
    return next((each for each in FOREIGN if _has(head, each)), None)


def look_at(head: bytes, file_bytes: int, what: str, name: str = "") -> tuple[DiskFormat, int]:
    """Format and guest-visible size of an image, from its first HEAD_BYTES and its size; `what` names it in words.

    Raises NotReady for one that cannot be a base: also one that is no qcow2 though its file's `name` says so, and no
    raw disk that is known either.
    """
    if found := foreign(head):
        raise NotReady(f"{what} is {found.name}, not raw or qcow2", found.advice)
    if not head.startswith(qcow2.MAGIC):
        if not file_bytes:
            raise NotReady(f"{what} is empty")
        if name.lower().endswith((".qcow2", ".qcow")) and note(head):
            raise NotReady(f"{what} is called {printable.quote(name)} and is no qcow2", FETCH)
        return "raw", -(-file_bytes // _SECTOR) * _SECTOR
    return "qcow2", qcow2.check_alone(head, what).size


def note(head: bytes) -> str:
    """What an operator should know of a raw disk that begins so; "" of one that looks like a disk."""
    if any(_has(head, each) for each in RAW):
        return ""
    if _has(head, _ISO):
        return (
            "it is an ISO 9660 image that is not hybrid (isohybrid makes it so): UEFI may boot it from a disk, BIOS not"
        )
    return "nothing that boots is known in it, neither boot sector nor partition table nor file system: it may not boot"


def _has(head: bytes, each: Magic) -> bool:
    return head.startswith(each.bytes, each.offset)
