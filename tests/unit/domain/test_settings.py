"""How a disk is read and written: the best that can be had of what its class asks for, no more asked than that."""

from __future__ import annotations

from itertools import product

import pytest

from sri_libvirt.devices import DiskKind, DiskSettings
from sri_libvirt.domain.settings import Everything, choose
from sri_libvirt.records import ClassPolicy

AUTO = ClassPolicy()


class Can:
    """What can be had, and what was asked for."""

    def __init__(self, words: str = "") -> None:
        self.words = words.split()
        self.asked: list[str] = []

    def _ask(self, word: str) -> bool:
        self.asked.append(word)
        return word in self.words

    def direct(self) -> bool:
        return self._ask("direct")

    def io_uring(self) -> bool:
        return self._ask("io_uring")

    def native(self) -> bool:
        return self._ask("native")


@pytest.mark.parametrize("kind", ["file", "block"])
@pytest.mark.parametrize(
    ("policy", "can", "cache", "io", "asked"),
    [
        (AUTO, "direct io_uring native", "none", "io_uring", "direct io_uring"),
        (AUTO, "direct native", "none", "native", "direct io_uring native"),
        (AUTO, "direct", "none", "threads", "direct io_uring native"),
        (AUTO, "io_uring native", "writeback", "io_uring", "direct io_uring"),
        (AUTO, "native", "writeback", "threads", "direct io_uring"),
        (AUTO, "", "writeback", "threads", "direct io_uring"),
        (ClassPolicy(disk_cache="none"), "io_uring", "writeback", "io_uring", "direct io_uring"),
        (ClassPolicy(disk_cache="writeback"), "direct io_uring native", "writeback", "io_uring", "io_uring"),
        (ClassPolicy(disk_cache="writeback"), "direct native", "writeback", "threads", "io_uring"),
        (ClassPolicy(disk_io="native"), "direct io_uring native", "none", "native", "direct native"),
        (ClassPolicy(disk_io="native"), "io_uring native", "writeback", "threads", "direct"),
        (ClassPolicy(disk_io="native"), "direct io_uring", "none", "threads", "direct native"),
        (ClassPolicy(disk_io="io_uring"), "direct native", "none", "native", "direct io_uring native"),
        (ClassPolicy(disk_io="threads"), "direct io_uring native", "none", "threads", "direct"),
    ],
)
def test_local_disks(kind: DiskKind, policy: ClassPolicy, can: str, cache: str, io: str, asked: str) -> None:
    possible = Can(can)
    found = choose(kind, policy, possible)
    assert (found.cache, found.io) == (cache, io)
    assert possible.asked == asked.split()


@pytest.mark.parametrize(("policy", "cache"), [(AUTO, "none"), (ClassPolicy(disk_cache="writeback"), "writeback")])
def test_of_a_network_disk_nothing_is_asked(policy: ClassPolicy, cache: str) -> None:
    possible = Can()
    found = choose("network", policy, possible)
    assert (found.cache, found.io) == (cache, "")
    assert possible.asked == []


def test_what_a_guest_discards_is_given_back_and_its_zeroes_are_written_unless_a_class_says_otherwise() -> None:
    assert choose("file", AUTO, Everything()) == DiskSettings("none", "io_uring", "unmap", "off")
    policy = ClassPolicy(disk_discard="ignore", disk_detect_zeroes="on")
    for kind in ("file", "block", "network"):
        found = choose(kind, policy, Everything())
        assert (found.discard, found.detect_zeroes) == ("ignore", "on")


def test_linux_aio_goes_past_the_page_cache_whatever_is_asked_and_can_be_had() -> None:
    """libvirt refuses to start it otherwise."""
    caches, ios = ("auto", "none", "writeback"), ("auto", "io_uring", "native", "threads")
    for cache, io, *can in product(caches, ios, *[(False, True)] * 3):
        policy = ClassPolicy(disk_cache=cache, disk_io=io)  # type: ignore[arg-type]
        words = [word for word, there in zip(("direct", "io_uring", "native"), can, strict=True) if there]
        found = choose("file", policy, Can(" ".join(words)))
        assert found.io != "native" or found.cache == "none"
        assert found.io in ("threads", *words)
        assert found.cache == "writeback" or "direct" in words
