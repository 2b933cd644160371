"""The provider dies at every point at which it changes something, one after the other; the next one finishes the work.

A machine's life is driven by one lane in this thread, with a clock of its own. Before and after each change (a commit
of the store, a call that changes a domain, a disk that is made, files that are removed) is a point to die at. What
outlives the provider is what is on disk: the store, the files, and the fake hypervisor's state.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from sri_libvirt import app, qcow2
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.domain import observed
from sri_libvirt.hypervisor.fake import FakeConnection, FakeHypervisor
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import GIB, SECOND, MachineClass
from sri_libvirt.server import intents
from sri_libvirt.store import Store
from tests.contract.loop import FakeHost, Witness, settings, spec_of

ID = "6b3ffb4e-8d3c-4f52-9d0a-0d2f3c1f0a01"
CHANGES: tuple[tuple[Any, str], ...] = (
    (Store, "write"),
    *((FakeConnection, name) for name in ("define", "start", "press_power_button", "destroy", "undefine")),
    (qcow2, "make"),
    (shutil, "rmtree"),
)


class Died(BaseException):
    """The end of the process. Not an Exception, so that nothing goes on after it."""


@dataclass
class Points:
    """Counts the points that a provider passes, and dies at one of them; 0 is none."""

    die_at: int = 0
    passed: list[str] = field(default_factory=list)

    def reach(self, what: str) -> None:
        self.passed.append(what)
        if len(self.passed) == self.die_at:
            raise Died(what)


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Points:
    points = Points()

    def around(name: str, change: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(change)
        def changing(*args: Any, **kwargs: Any) -> Any:
            points.reach(f"before {name}")
            result = change(*args, **kwargs)
            points.reach(f"after {name}")
            return result

        return changing

    for owner, name in CHANGES:
        monkeypatch.setattr(owner, name, around(name, getattr(owner, name)))
    return points


class World:
    """What outlives a provider, and the time."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.root = root
        self.now = 1_700_000_000 * SECOND
        self.paths = StatePaths(root / "state")
        self.witness = Witness()

    def hypervisor(self) -> FakeHypervisor:
        return FakeHypervisor(self.root / "fake.json")

    @contextmanager
    def provider(self) -> Iterator[tuple[Store, Callable[[], None]]]:
        """A provider of this world: its store, and a step that lets the machine come to rest."""
        store = Store.open(self.paths, lambda: self.now)
        hypervisor = self.hypervisor()
        made = app.Provider(
            settings(self.root, shutdown_grace=30 * SECOND), store, hypervisor=hypervisor, host=FakeHost(),
            clock=lambda: self.now,
        )  # fmt: skip
        ends = [hypervisor.watch(made.events), hypervisor.watch(self.witness)]

        def rest() -> None:
            end = self.now + 3600 * SECOND
            while (wake_at := made.lanes[0].reconcile(ID)) is not None:
                self.now = max(self.now, wake_at)
                assert self.now < end, "it never comes to rest"

        try:
            yield store, rest
        finally:
            for end in ends:
                end()
            store.close()


def create(store: Store, now: int, **wishes: Any) -> None:
    draft = intents.Draft(ID, {}, {}, spec_of(disks=("data",), nics=("isolated",), **wishes), now)
    store.submit(lambda tx: intents.create(tx, draft, lambda: MachineClass("c1-m1", 1000, GIB))).result()


def power(store: Store, now: int, value: pb.Power) -> None:
    store.submit(lambda tx: intents.set_power(tx, ID, value, now)).result()


def delete(store: Store, now: int) -> None:
    store.submit(lambda tx: intents.delete(tx, ID, now)).result()


@dataclass(frozen=True)
class Flow:
    """What is asked in the end, what was asked before, and what must be true then."""

    name: str
    before: tuple[Callable[[Store, int], None], ...]
    wish: Callable[[Store, int], None]
    state: str
    starts: int = 0
    """How often the guest is started on behalf of the wish."""


def off(store: Store, now: int) -> None:
    power(store, now, pb.POWER_OFF)


def on(store: Store, now: int) -> None:
    power(store, now, pb.POWER_ON)


FLOWS = [
    Flow("create", (), create, "RUNNING", starts=1),
    Flow("create off", (), lambda store, now: create(store, now, power=pb.POWER_OFF), "SUSPENDED"),
    Flow("power off", (create,), off, "SUSPENDED"),
    Flow("power on", (create, off), on, "RUNNING", starts=1),
    Flow("delete", (create,), delete, "GONE"),
    Flow("delete off", (create, off), delete, "GONE"),
]


def check(world: World, flow: Flow, starts: int, told: str) -> None:
    """What must be true when all has come to rest, wherever the first provider died."""
    hypervisor = world.hypervisor()
    domains = hypervisor.connect().domain_ids()
    directories = [path.name for path in world.paths.machines.iterdir()]
    with world.provider() as (store, _):
        machine = store.machine(ID)
        if flow.state == "GONE":
            assert (machine, domains, directories, store.machine_ids()) == (None, [], [], []), told
            return
        assert machine is not None, told
        assert pb.MachineState.Name(machine.status.state) == f"MACHINE_{flow.state}", told
        assert machine.status.observed_generation == machine.generation, told
        assert machine.reasons == (), told
        assert (domains, directories) == ([ID], [ID]), told
        assert {volume.state for volume in machine.status.volumes} == {pb.VOLUME_ATTACHED}, told
        files = [path.name for path in world.paths.machine(ID).root.glob("[!.]*")]
        assert len(files) == 1, (told, files)  # the disk, and nothing half-made
        assert starts == flow.starts, told
        if flow.state == "RUNNING":
            snapshot = hypervisor.connect().snapshot(ID)
            assert snapshot is not None
            assert observed.read(snapshot.live_xml).run == machine.run.uuid, told
            assert machine.run.started_at, told


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_a_provider_that_dies_anywhere_is_finished_by_the_next(tmp_path: Path, points: Points, flow: Flow) -> None:
    whole = World(tmp_path / "whole")
    check(whole, flow, perform(whole, points, flow), "did not die")
    number = len(points.passed)
    assert number >= 6
    for die_at in range(1, number + 1):
        world = World(tmp_path / str(die_at))
        starts = perform(world, points, flow, die_at)
        check(world, flow, starts, f"died {points.passed[-1]}, point {die_at} of {flow.name}")


def perform(world: World, points: Points, flow: Flow, die_at: int = 0) -> int:
    """Ask for it, die if told so, and let another provider finish; how often the guest was started for it."""
    with world.provider() as (store, rest):
        for wish in flow.before:
            wish(store, world.now)
            rest()
            world.now += 100 * SECOND
        flow.wish(store, world.now)
        before = world.witness.starts(ID)
        points.passed, points.die_at = [], die_at
        if not die_at:
            rest()
            return world.witness.starts(ID) - before
        with pytest.raises(Died):
            rest()
    points.die_at, passed = 0, points.passed
    with world.provider() as (_, rest):
        points.passed = []
        rest()
    points.passed = passed
    return world.witness.starts(ID) - before
