"""What a class says beyond its capabilities: each key of a class file, the values that it takes, how it is written.

An annotation of a manifest is the same word with hyphens, behind a prefix. Files and their lines do not belong here
(`classes.py`), nor what a policy does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sri_libvirt import quantity
from sri_libvirt.capacity import deliverable
from sri_libvirt.records import ClassPolicy

NOT_YET: Mapping[str, str] = {
    "dedicated_cpus": "guests cannot have CPUs of their own yet",
    "hugepages": "guests cannot have huge pages yet",
    "numa": "guests are not placed on NUMA nodes yet",
    "pci_devices": "devices are not passed through yet",
    "secure_boot": "Secure Boot is not offered yet",
    "vfs": "virtual functions are not handed out yet",
    "vtpm": "virtual TPMs are not offered yet",
}
"""Policy that is known and refused: a class that asks for it must not be sold as if it had it."""

_UNITS = ((1 << 40, "Ti"), (1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki"))


@dataclass(frozen=True, slots=True)
class Word:
    """One key: the field of `ClassPolicy` that it sets, how to read it (ValueError says what is wrong) and write it."""

    field: str
    read: Callable[[str], Any]
    write: Callable[[Any], str] = str


def positive_bytes(text: str) -> int:
    value = quantity.whole(text)
    if value <= 0:
        raise ValueError(f"{text} must be more than 0")
    return value


def byte_text(amount: int) -> str:
    """Bytes as Kubernetes writes them, exactly: `8Gi`, `1536Mi`, `1000`."""
    unit = next(((size, name) for size, name in _UNITS if amount and amount % size == 0), None)
    return str(amount) if unit is None else f"{amount // unit[0]}{unit[1]}"


def deliverable_or_wrong(value: int, problem: str) -> int:
    """The value, unless there is a problem with it."""
    if problem:
        raise ValueError(problem)
    return value


def contradictions(policy: ClassPolicy) -> Mapping[str, str]:
    """What of a policy cannot be together, by the key that is to change."""
    found = {}
    if policy.disk_io == "native" and policy.disk_cache == "writeback":
        found["disk_io"] = "native goes with disk_cache none alone: QEMU refuses Linux AIO through the page cache"
    if policy.disk_detect_zeroes == "unmap" and policy.disk_discard == "ignore":
        found["disk_detect_zeroes"] = "unmap discards zeroes, which disk_discard ignore forbids"
    return found


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is not one of {', '.join(words)}")
        return text

    return read


def _root_disk(text: str) -> int:
    value = positive_bytes(text)
    return deliverable_or_wrong(value, deliverable.wrong_root_disk(value))


def _not_negative(text: str) -> int:
    value = quantity.whole(text)
    if value < 0:
        raise ValueError(f"{text} must not be negative")
    return value


def _directory(text: str) -> str:
    if not text.startswith("/") or len(text) > 4096 or not text.isprintable():
        raise ValueError(f"{text[:64]!r} is not an absolute path of a directory")
    return text


WORDS: Mapping[str, Word] = {
    "root_disk": Word("root_disk_bytes", _root_disk, byte_text),
    "firmware": Word("firmware", _one_of("default", "bios", "uefi")),
    "memory_overhead": Word("memory_overhead_bytes", _not_negative, byte_text),
    "template": Word("template_dir", _directory),
    "disk_cache": Word("disk_cache", _one_of("auto", "none", "writeback")),
    "disk_io": Word("disk_io", _one_of("auto", "io_uring", "native", "threads")),
    "disk_discard": Word("disk_discard", _one_of("unmap", "ignore")),
    "disk_detect_zeroes": Word("disk_detect_zeroes", _one_of("off", "on", "unmap")),
}
