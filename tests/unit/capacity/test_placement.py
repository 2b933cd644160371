"""Budget, claims and what fits: sums by hand, and the promises for any host and any sequence of creates and deletes."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sri_libvirt.capacity import claims
from sri_libvirt.capacity.budget import UNLIMITED, Hardware, Reserves, Resources, budget, reserved_memory
from sri_libvirt.capacity.deliverable import Lack
from sri_libvirt.capacity.placement import admit, explain, offer, shortage
from sri_libvirt.capacity.pool import Pool
from sri_libvirt.errors import Exhausted
from sri_libvirt.records import GIB, ClassPolicy, MachineClass
from sri_libvirt.resources import (
    ANYWHERE,
    CPU,
    DISK,
    MACHINES,
    MEMORY,
    Claim,
    Usage,
    hugepages,
    pci_device,
    virtual_functions,
    words,
)

MIB = 1 << 20
C2M4 = MachineClass("c2-m4", 2000, 4 * GIB)
HOST = Hardware(Resources(cpus=8, memory_bytes=64 * GIB), disk_bytes=100 * GIB, disk_others_bytes=20 * GIB)


def test_the_overhead_of_a_machine() -> None:
    assert claims.overhead(2000, 4 * GIB) == 8 * MIB + 128 * MIB + 16 * MIB
    assert claims.overhead(500, 513) == 2 + 128 * MIB + 8 * MIB
    assert claims.of_class(C2M4) == (
        Claim(CPU, 2000),
        Claim(MEMORY, 4 * GIB + 152 * MIB),
        Claim(DISK, 10 * GIB),
        Claim(MACHINES, 1),
    )
    own = MachineClass("own", 2000, 4 * GIB, ClassPolicy(memory_overhead_bytes=0))
    assert claims.memory_of(own) == 4 * GIB


@pytest.mark.parametrize(
    ("total", "told", "kept"),
    [(2 * GIB, None, GIB), (50 * GIB, None, GIB), (100 * GIB, None, 2 * GIB), (100 * GIB, 0, 0), (GIB, 5, 5)],
)
def test_the_reserve_of_the_host(total: int, told: int | None, kept: int) -> None:
    assert reserved_memory(total, Reserves(memory_bytes=told)) == kept


def test_the_budget_of_a_host() -> None:
    reserves = Reserves(GIB, 1500, cpu_overcommit=Fraction("1.5"), disk_overcommit=Fraction(2), machines=7)
    found = budget(HOST, reserves)
    assert found.of(CPU) == 9750
    assert found.of(MEMORY) == 63 * GIB
    assert found.of(DISK) == 160 * GIB
    assert found.of(MACHINES) == 7
    assert budget(HOST, Reserves()).of(MACHINES) == UNLIMITED
    assert found.of("vf/eth0") == 0
    nothing = budget(HOST, Reserves(memory_bytes=65 * GIB, cpu_millis=9000))
    assert (nothing.of(CPU), nothing.of(MEMORY)) == (0, 0)


def test_huge_pages_virtual_functions_and_devices_are_budgets_of_their_own() -> None:
    total = Resources(cpus=4, memory_bytes=16 * GIB, hugepages={2048: 4 * GIB}, vfs={"eth0": 8}, pci=("0000:3b:00.0",))
    nodes = {
        0: Resources(cpus=2, memory_bytes=8 * GIB, hugepages={2048: 3 * GIB}, vfs={"eth0": 8}),
        8: Resources(cpus=2, memory_bytes=8 * GIB, hugepages={2048: GIB}),
    }
    found = budget(Hardware(total, nodes, disk_bytes=GIB), Reserves())
    assert found.of(MEMORY) == 11 * GIB, "what is set aside for huge pages no ordinary guest can have"
    assert (found.of(MEMORY, 0), found.of(MEMORY, 8)) == (5 * GIB, 7 * GIB)
    assert [found.of(hugepages(2048), node) for node in (ANYWHERE, 0, 8)] == [4 * GIB, 3 * GIB, GIB]
    assert [found.of(virtual_functions("eth0"), node) for node in (ANYWHERE, 0, 8)] == [8, 8, 0]
    assert found.of(pci_device("0000:3b:00.0")) == 1


def test_a_claim_on_a_node_counts_there_and_in_all() -> None:
    nodes = {0: Resources(cpus=2, memory_bytes=8 * GIB), 1: Resources(cpus=2, memory_bytes=8 * GIB)}
    found = budget(Hardware(Resources(cpus=4, memory_bytes=16 * GIB), nodes, disk_bytes=GIB), Reserves(cpu_millis=1000))
    usage = Usage().plus([Claim(CPU, 2000, node=0)])
    assert shortage(found, usage, [Claim(CPU, 1000, node=1)]) == ""
    assert shortage(found, usage, [Claim(CPU, 1000)]) == ""
    assert shortage(found, usage, [Claim(CPU, 500, node=0)]) == (
        "cpu of NUMA node 0: 0.5 CPUs asked, 0 CPUs free (of 2 CPUs, 2 CPUs claimed)"
    )
    assert shortage(found, usage, [Claim(CPU, 500, node=1), Claim(CPU, 600)]).startswith("cpu: 1.1 CPUs asked, 1 CPU f")
    assert shortage(found, usage, [Claim("vf/eth0", 1)]) == "vf/eth0: 1 asked, 0 free (of 0, 0 claimed)"


def test_what_is_lacking_is_named_all_at_once() -> None:
    small = Hardware(Resources(cpus=1, memory_bytes=3 * GIB), disk_bytes=15 * GIB)
    with pytest.raises(Exhausted) as caught:
        admit(budget(small, Reserves()), Usage(), C2M4)
    assert str(caught.value) == (
        "the host has no room for a machine of class c2-m4: "
        "cpu: 2 CPUs asked, 1 CPU free (of 1 CPU, 0 CPUs claimed); "
        "memory: 4.14 GiB asked, 2 GiB free (of 2 GiB, 0 B claimed)"
    )


@pytest.mark.rule("R-A8-3", "R-G7-1")
@pytest.mark.parametrize(
    ("cpus", "memory", "count", "limited_by"),
    [
        (8, 64 * GIB, 4, "cpu"),
        (8, 10 * GIB, 2, "memory"),
        (1, 64 * GIB, 0, "cpu"),
        (0, 0, 0, "cpu"),
        (64, 640 * GIB, 10, "disk"),
    ],
)
def test_on_an_empty_host_quantity_is_the_total(cpus: int, memory: int, count: int, limited_by: str) -> None:
    hardware = Hardware(Resources(cpus=cpus, memory_bytes=memory), disk_bytes=100 * GIB)
    found = offer(budget(hardware, Reserves()), Usage(), C2M4)
    assert (found.quantity, found.used, found.free, found.limited_by) == (count, 0, count, limited_by)


def test_a_number_of_machines_limits_too() -> None:
    found = offer(budget(HOST, Reserves(machines=1)), Usage(), C2M4)
    assert (found.quantity, found.limited_by) == (1, "machines")


def test_the_arithmetic_can_be_read() -> None:
    usage = Usage().with_machine("c2-m4").plus(claims.of_class(C2M4))
    reserves = Reserves(cpu_millis=1000, cpu_overcommit=Fraction(2))
    assert explain(budget(HOST, reserves), usage, C2M4) == [
        "cpu: (8 CPUs - 1 CPU reserved (--reserved-cpus)) x 2 - 2 CPUs claimed = 12 CPUs free",
        "memory: 64 GiB - 1.27 GiB reserved (the host's own, max(1 GiB, 2 %)) - 4.14 GiB claimed = 58.57 GiB free",
        "disk: 100 GiB - 20 GiB reserved (what others hold of the file system) - 10 GiB claimed = 70 GiB free",
        "cpu: 12 CPUs free / 2 CPUs a machine = 6",
        "memory: 58.57 GiB free / 4.14 GiB a machine (4 GiB + 152 MiB overhead) = 14",
        "disk: 70 GiB free / 10 GiB a machine = 7",
        "c2-m4: 1 exist + 6 more = 7, limited by cpu",
    ]
    assert explain(budget(HOST, reserves), usage, C2M4, closed=True)[-2:] == [
        "the host takes no new machines: free = 0",
        "c2-m4: 1 exist + 0 more = 1, limited by cordon",
    ]


@pytest.mark.parametrize(
    ("resource", "amount", "said"),
    [
        (CPU, 1000, "1 CPU"),
        (CPU, 500, "0.5 CPUs"),
        (MEMORY, 0, "0 B"),
        (MEMORY, 1536 * MIB, "1.5 GiB"),
        (DISK, 3 << 40, "3 TiB"),
        (MEMORY, GIB - 1, "1023.99 MiB"),
        (MEMORY, -2048, "-2 KiB"),
        ("vf/eth0", 3, "3"),
        (hugepages(2048), GIB, "1 GiB"),
    ],
)
def test_amounts_in_words(resource: str, amount: int, said: str) -> None:
    assert words(resource, amount) == said


# Promises


def hosts() -> st.SearchStrategy[Hardware]:
    return st.builds(
        lambda cpus, memory, disk, others: Hardware(
            Resources(cpus=cpus, memory_bytes=memory), disk_bytes=disk, disk_others_bytes=others
        ),
        st.integers(0, 64),
        st.integers(0, 256 * GIB),
        st.integers(0, 500 * GIB),
        st.integers(0, 500 * GIB),
    )


RESERVES = st.builds(
    Reserves,
    memory_bytes=st.none() | st.integers(0, 8 * GIB),
    cpu_millis=st.integers(0, 4000),
    cpu_overcommit=st.sampled_from([Fraction(1), Fraction("0.5"), Fraction("1.5"), Fraction(4)]),
    disk_overcommit=st.sampled_from([Fraction(1), Fraction(3)]),
    machines=st.sampled_from([0, 1, 5, 1000]),
)
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is not a slow program."""

CLASSES = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.tuples(st.integers(10, 9000), st.integers(1, 16 * GIB), st.integers(1, 40 * GIB)),
    min_size=1,
)


@pytest.mark.rule("R-G7-1", "R-G7-2")
@UNHURRIED
@given(hosts(), RESERVES, CLASSES, st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60), st.data())
def test_nothing_is_ever_oversold_and_free_is_exact(
    hardware: Hardware,
    reserves: Reserves,
    shapes: Mapping[str, tuple[int, int, int]],
    steps: list[tuple[str, bool]],
    data: st.DataObject,
) -> None:
    classes = {name: MachineClass(name, cpu, memory, ClassPolicy(disk)) for name, (cpu, memory, disk) in shapes.items()}
    given = budget(hardware, reserves)
    pool = Pool(classes, given)
    usage = start = Usage()
    there: list[str] = []
    for name, create in steps:
        if name not in classes:
            continue
        offers = {each.machine_class.name: each for each in pool.offers(usage)}
        assert offers[name].quantity - there.count(name) == offers[name].free >= 0
        if create:
            try:
                usage = usage.plus(pool.admit(classes[name], usage)).with_machine(name)
            except Exhausted:
                assert offers[name].free == 0
            else:
                assert offers[name].free > 0
                there.append(name)
        elif name in there:
            usage = usage.plus(claims.of_class(classes[name]), -1).with_machine(name, -1)
            there.remove(name)
        assert all(usage.of(*place) <= given.of(*place) for place in usage.claimed)
    name = data.draw(st.sampled_from(sorted(classes)))
    free = {each.machine_class.name: each.free for each in pool.offers(usage)}[name]
    further = 0
    full = usage
    while further <= min(free, 50):
        try:
            full = full.plus(pool.admit(classes[name], full)).with_machine(name)
        except Exhausted:
            break
        further += 1
    assert further == free or further > 50
    for each in there:
        usage = usage.plus(claims.of_class(classes[each]), -1).with_machine(each, -1)
    assert usage == start


@UNHURRIED
@given(hosts(), st.integers(0, 20), st.integers(0, 1 << 40))
def test_neighbours_only_ever_take(hardware: Hardware, vcpus: int, memory: int) -> None:
    pool = Pool({"c2-m4": C2M4}, budget(hardware, Reserves()))
    (before,) = pool.offers(Usage())
    pool.set_neighbours(claims.of_neighbour(vcpus, memory))
    (after,) = pool.offers(Usage())
    assert 0 <= after.free <= before.free
    pool.set_neighbours(())
    assert pool.offers(Usage())[0].free == before.free


def test_an_oversold_host_has_nothing_free_and_goes_on() -> None:
    usage = Usage().with_machine("c2-m4").plus(claims.of_class(C2M4))
    pool = Pool({"c2-m4": C2M4}, budget(Hardware(Resources(1, GIB)), Reserves()))
    (found,) = pool.offers(usage)
    assert (found.used, found.free, found.quantity) == (1, 0, 1)


def test_an_answer_is_kept_until_something_changes() -> None:
    state = {"closed": ""}
    pool = Pool({"c2-m4": C2M4}, budget(HOST, Reserves()), lambda: state["closed"])
    usage = Usage()
    first = pool.offers(usage)
    assert pool.offers(usage) is first
    state["closed"] = "cordoned"
    assert pool.offers(usage)[0].limited_by == "cordon"
    state["closed"] = ""
    pool.set_budget(budget(HOST, Reserves(machines=1)))
    assert pool.offers(usage)[0].quantity == 1


VAST = budget(Hardware(Resources(cpus=1000, memory_bytes=10_000 * GIB), disk_bytes=10_000 * GIB), Reserves())


@pytest.mark.parametrize(
    ("wrong", "name", "told"),
    [
        (MachineClass("c", 256_000, GIB), "cpu", "a machine can have 255 vCPUs, not 256"),
        (MachineClass("c", 255_001, GIB), "cpu", "a machine can have 255 vCPUs, not 256"),
        (MachineClass("c", 1000, 4), "memory", "a machine needs 32 MiB of memory, not 4 B"),
        (MachineClass("c", 1000, GIB, ClassPolicy(0)), "disk", "a root disk needs 1 MiB"),
    ],
)
def test_what_no_machine_can_be_is_not_sold(wrong: MachineClass, name: str, told: str) -> None:
    """A store may have kept such a class from before it was refused."""
    found = offer(VAST, Usage(), wrong)
    assert (found.quantity, found.limited_by) == (0, name)
    with pytest.raises(Exhausted, match=told):
        admit(VAST, Usage(), wrong)
    assert told in explain(VAST, Usage(), wrong)[-2]


def test_the_most_that_a_machine_can_be_is_sold() -> None:
    most = MachineClass("c", 255_000, GIB)
    assert offer(VAST, Usage(), most).quantity == 3
    assert admit(VAST, Usage(), most)


def test_what_this_host_lacks_for_a_class_is_not_sold_while_it_lacks() -> None:
    pool = Pool({"c2-m4": C2M4, "c1": MachineClass("c1", 1000, GIB)}, VAST)
    usage = Usage()
    free = [each.quantity for each in pool.offers(usage)]
    pool.set_lacks({"c2-m4": Lack("firmware", "there is no UEFI. Install it.")})
    assert [each.quantity for each in pool.offers(usage)] == [0, free[1]]
    assert pool.offers(usage)[0].limited_by == "firmware"
    with pytest.raises(Exhausted, match=r"no machine of class c2-m4: there is no UEFI\. Install it\."):
        pool.admit(C2M4, usage)
    pool.set_lacks({})
    assert [each.quantity for each in pool.offers(usage)] == free
