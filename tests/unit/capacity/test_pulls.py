"""What pulls of images take of a host's disk: beside machines, never twice, and given up to what is measured."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from sri_libvirt.capacity.budget import Hardware, Reserves, Resources, budget
from sri_libvirt.capacity.pool import Pool
from sri_libvirt.capacity.pulls import PullRoom
from sri_libvirt.errors import Exhausted
from sri_libvirt.records import GIB, ClassPolicy, MachineClass
from sri_libvirt.resources import DISK, Claim, Usage

CLASS = MachineClass("c1", 1000, GIB, ClassPolicy(root_disk_bytes=4 * GIB))


@dataclass
class Host:
    """A host with 10 GiB of disk, of which `cached` are images' and `others` somebody else's."""

    cached: int = 0
    others: int = 0
    usage: Usage = field(default_factory=Usage)
    evicted: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pool = Pool({"c1": CLASS}, budget(self.hardware(), Reserves()))
        self.room = PullRoom(
            self.pool, lambda: self.usage, self.measure, self.available, self.evict, lambda: self.cached
        )

    def hardware(self) -> Hardware:
        return Hardware(Resources(8, 32 * GIB), disk_bytes=10 * GIB, disk_others_bytes=self.others + self.cached)

    def measure(self) -> None:
        self.pool.set_budget(budget(self.hardware(), Reserves()))

    def available(self) -> int:
        return 10 * GIB - self.others - self.cached

    def evict(self, lacking: int) -> int:
        self.evicted.append(lacking)
        freed, self.cached = min(self.cached, lacking), self.cached - min(self.cached, lacking)
        return freed


def test_a_pull_has_its_room_beside_machines_and_others() -> None:
    host = Host()
    host.usage = Usage().plus([Claim(DISK, 4 * GIB)])
    assert host.room.take("a", 5 * GIB) == ""
    assert host.room.free() == GIB
    assert "disk: 2 GiB asked, 1 GiB free" in host.room.take("b", 2 * GIB)
    with pytest.raises(Exhausted, match="4 GiB asked, 1 GiB free"):
        host.pool.admit(CLASS, host.usage)
    assert [offer.free for offer in host.pool.offers(host.usage)] == [0], "what is being fetched is not for sale"


def test_its_end_gives_up_to_what_is_measured() -> None:
    host = Host()
    host.room.take("a", 5 * GIB)
    host.cached = 5 * GIB
    host.room.give_back("a")
    assert host.room.free() == 5 * GIB, "counted once: as the cache's"
    host.room.give_back("a")
    assert host.room.free() == 5 * GIB


def test_what_nobody_needs_makes_way_and_no_more_than_that() -> None:
    host = Host(cached=8 * GIB)
    assert host.room.take("a", 5 * GIB) == ""
    assert host.evicted == [3 * GIB]
    assert host.cached == 5 * GIB


def test_what_turns_out_to_be_more_takes_the_place_of_what_it_had() -> None:
    host = Host(cached=6 * GIB)
    assert host.room.take("a", 3 * GIB) == ""
    assert host.room.take("a", 4 * GIB) == ""
    assert (host.evicted, host.room.free()) == ([], 0)
    assert host.room.take("a", 6 * GIB) == ""
    assert (host.evicted, host.cached, host.room.free()) == ([2 * GIB], 4 * GIB, 0)
    assert "disk: 11 GiB asked, 6 GiB free" in host.room.take("a", 11 * GIB)
    assert host.room.free() == 0, "it keeps what it had"


def test_nothing_makes_way_for_what_would_not_fit_all_the_same() -> None:
    host = Host(cached=8 * GIB)
    assert "disk: 11 GiB asked, 2 GiB free" in host.room.take("a", 11 * GIB)
    assert (host.evicted, host.cached) == ([], 8 * GIB)


def test_where_nothing_can_make_way_it_is_told_with_the_arithmetic() -> None:
    host = Host(others=8 * GIB)
    assert "disk: 5 GiB asked, 2 GiB free (of 2 GiB, 0 B claimed)" in host.room.take("a", 5 * GIB)
    assert host.room.free() == 2 * GIB


def test_what_is_promised_twice_is_not_there_twice() -> None:
    """With an overcommit the file system itself is the end."""
    host = Host(others=8 * GIB)
    host.pool.set_budget(budget(host.hardware(), Reserves(disk_overcommit=10)))  # type: ignore[arg-type]
    assert host.room.free() == 2 * GIB
