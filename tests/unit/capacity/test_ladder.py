"""The ladder: its names say what it is, it ends where the host does, and it is kept as it was."""

from __future__ import annotations

from sri_libvirt.capacity import deliverable, ladder
from sri_libvirt.records import GIB, MachineClass


class Meta:
    """A store's meta table."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def meta(self, key: str) -> str | None:
        return self.values.get(key)

    def set_meta(self, key: str, value: str) -> None:
        self.values[key] = value


def test_names_are_capabilities() -> None:
    steps = ladder.steps()
    assert list(steps)[:4] == ["c1-m1", "c1-m2", "c1-m4", "c1-m8"]
    assert steps["c4-m16"] == MachineClass("c4-m16", 4000, 16 * GIB)
    assert list(steps)[-1] == "c128-m1024"
    for name, each in steps.items():
        assert name == each.name == f"c{each.cpu_millis // 1000}-m{each.memory_bytes // GIB}"
        assert each.memory_bytes // GIB * 1000 // each.cpu_millis in (1, 2, 4, 8)


def test_it_ends_where_the_host_does() -> None:
    assert list(ladder.steps(2, 9 * GIB)) == ["c1-m1", "c1-m2", "c1-m4", "c1-m8", "c2-m4", "c2-m8"]
    assert len(ladder.steps(32, 256 * GIB)) == 19
    assert list(ladder.steps(1, GIB // 2)) == ["c1-m1"], "a pool has a class, though no machine of it may fit"


def test_no_step_is_one_that_no_machine_can_be() -> None:
    assert not [step.name for step in ladder.steps().values() if deliverable.lack(step)]


def test_the_first_run_is_kept() -> None:
    store = Meta()
    assert ladder.frozen(store.meta(ladder.META_KEY)) is None
    first = ladder.freeze(store, ladder.steps(2, 8 * GIB))
    assert ladder.freeze(store, ladder.steps(64, 512 * GIB)) == first == ladder.steps(2, 8 * GIB)
    assert ladder.frozen(store.meta(ladder.META_KEY)) == first
