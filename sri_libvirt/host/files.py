"""How the kernel writes facts into the files of sysfs and procfs, and how to read them from a tree that may be broken.

Readers of files and links answer None, and of directories (), for all that cannot be read: a file that is missing,
unreadable, empty, not a number. Parsers raise ValueError. Numbers are bounded, so that no file makes a host of four
billion CPUs. What the facts mean does not belong here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

MOST_IDS = 1 << 16
"""More CPUs, nodes and devices of one kind than any kernel numbers."""

PAGE = 1 << 16
"""Bytes of a file that are read: an attribute of sysfs is one page, and no page is longer."""

_NUMBER = re.compile(r"[-+]?[0-9]{1,18}", re.ASCII)
_HEX = re.compile(r"0[xX]([0-9a-fA-F]{1,16})", re.ASCII)
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", re.ASCII)
_WORD = re.compile(r"[0-9a-fA-F]{1,16}", re.ASCII)


def text(path: Path | str, limit: int = PAGE) -> str | None:
    """What a file holds, without space around it; up to the first NUL, which some firmware appends."""
    found = content(path, limit)
    return None if found is None else found.partition(b"\0")[0].decode("utf-8", "replace").strip() or None


def content(path: Path | str, limit: int = PAGE) -> bytes | None:
    """The bytes of a file, at most so many."""
    try:
        # a saved tree may hold a FIFO, and opening one for reading would wait for its writer
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError):
        return None
    try:
        parts = bytearray()
        while len(parts) < limit and (part := os.read(fd, limit - len(parts))):
            parts += part
    except OSError:
        return None
    finally:
        os.close(fd)
    return bytes(parts)


def number(path: Path | str) -> int | None:
    """A whole number, decimal or hexadecimal with 0x."""
    found = text(path)
    return None if found is None else parse_number(found)


def count(path: Path | str) -> int | None:
    """A number that is not negative: the kernel writes -1 for "unknown"."""
    found = number(path)
    return None if found is None or found < 0 else found


def flag(path: Path | str) -> bool | None:
    """A truth value: 0, 1, N, Y."""
    return {"0": False, "1": True, "N": False, "Y": True}.get(text(path) or "")


def ids(path: Path | str) -> frozenset[int] | None:
    """Numbers in the list format (`0-3,8`). A list that holds nothing is None here: the kernel leaves it empty."""
    found = text(path)
    try:
        return None if found is None else parse_list(found)
    except ValueError:
        return None


def mask(path: Path | str) -> frozenset[int] | None:
    """Numbers in the mask format (`00000000,0000000f`)."""
    found = text(path)
    try:
        return None if found is None else parse_mask(found)
    except ValueError:
        return None


def numbers(mask_path: Path | str, list_path: Path | str) -> frozenset[int] | None:
    """What the kernel says in both formats, of whichever a tree has kept; a list that is there and empty holds none."""
    found = mask(mask_path)
    if found is not None:
        return found
    found = ids(list_path)
    return frozenset() if found is None and content(list_path) in (b"", b"\n") else found


def names(path: Path | str) -> tuple[str, ...]:
    """What a directory holds, sorted; names that no kernel gives are left out."""
    try:
        with os.scandir(path) as entries:
            return tuple(sorted(entry.name for entry in entries if entry.name.isprintable()))
    except (OSError, ValueError):
        return ()


def numbered(path: Path | str, prefix: str) -> tuple[int, ...]:
    """The numbers N of a directory's entries `<prefix>N`, ascending."""
    found = (name[len(prefix) :] for name in names(path) if name.startswith(prefix))
    return tuple(sorted(int(rest) for rest in found if _NUMBER.fullmatch(rest) and 0 <= int(rest) < MOST_IDS))


def link(path: Path | str) -> str | None:
    """The last part of what a symbolic link points at: the kernel's way to name a driver, a group, a master."""
    try:
        found = Path(path).readlink().name
    except (OSError, ValueError):
        return None
    return found if found and found.isprintable() else None


def target(path: Path | str) -> str | None:
    """What a symbolic link points at."""
    try:
        return str(Path(path).readlink())
    except (OSError, ValueError):
        return None


def uevent(directory: Path | str) -> Mapping[str, str]:
    """What the kernel tells udev about a device: it is there also where a saved tree lost links and attributes."""
    lines = (line.partition("=") for line in (text(f"{directory}/uevent") or "").splitlines())
    return {key: value for key, equals, value in lines if equals and value}


def is_directory(path: Path | str) -> bool:
    """Whether there is a directory."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def parse_number(text: str) -> int | None:
    """See `number`."""
    if _NUMBER.fullmatch(text):
        return int(text)
    found = _HEX.fullmatch(text)
    return int(found[1], 16) if found else None


def parse_list(text: str) -> frozenset[int]:
    """Numbers of the kernel's list format, as in `0-3,8` (cpuset(7)). Raises ValueError."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        found = _RANGE.fullmatch(part.strip())
        if not found:
            raise ValueError(f"not a list of numbers: {text[:80]!r}")
        first, last = int(found[1]), int(found[2] or found[1])
        if last >= MOST_IDS:
            raise ValueError(f"{last} is no number of a CPU or node")
        numbers.update(range(first, last + 1))
    return frozenset(numbers)


def parse_mask(text: str) -> frozenset[int]:
    """Numbers of the kernel's mask format: words of 32 bits in hex, highest first (cpuset(7)). Raises ValueError."""
    words = text.strip().split(",")
    if len(words) > MOST_IDS // 32 or not all(_WORD.fullmatch(word) for word in words):
        raise ValueError(f"not a mask: {text[:80]!r}")
    bits = 0
    for word in words:
        bits = bits << 32 | int(word, 16)
    return bit_numbers(bits)


def bit_numbers(bits: int) -> frozenset[int]:
    """The numbers of the bits that are set."""
    numbers = set()
    while bits:
        lowest = bits & -bits
        numbers.add(lowest.bit_length() - 1)
        bits ^= lowest
    return frozenset(numbers)


def ascending(numbers: Iterable[int]) -> tuple[int, ...]:
    """Numbers as the inventory holds them."""
    return tuple(sorted(numbers))
