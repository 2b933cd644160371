"""A provider fails, or is killed, at every point at which it does something; all the same the work is finished.

A flow records the points that it passes, then runs once for each of them. A new action, call, work of the store or
program has its points by construction (`failpoints.py`), so what is missing here is a flow at most.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DiskSource
from sri_libvirt.domain import observed
from sri_libvirt.failpoints import Once
from sri_libvirt.reconcile.actions import Action
from sri_libvirt.records import SECOND
from sri_libvirt.store import Store
from tests.backends import artifacts
from tests.backends.registry import Registry
from tests.contract.crashing import FLOWS, ID, Flow, World, collect, finish, finish_elsewhere, prepare, restore, save
from tests.contract.loop import MIB
from tests.points import distinct


def recorded(root: Path, flow: Flow, now: int) -> list[tuple[int, str]]:
    """All points that a flow passes in a prepared world, each with the number of its pass."""
    listing = root.parent / f"{flow.name}.points"
    finish(root, flow, now, f"record {listing}")
    check(root, flow, now, 0, "nothing went wrong")
    seen: Counter[str] = Counter()
    points = []
    for point in listing.read_text().splitlines():
        seen[point] += 1
        points.append((seen[point], point))
    assert ("before secrets.drop" in seen) == (flow.name == "locked-left"), "a secret is left though nothing went wrong"
    return points


def check(root: Path, flow: Flow, now: int, before: int, told: str) -> None:
    """What must be true when all has come to rest, whatever happened to the first provider."""
    world = World(root, flow.grace, now, flow.found)
    hypervisor = world.hypervisor()
    domains = hypervisor.connect().domain_ids()
    assert hypervisor.connect().secret_ids() == {}, told
    held = [address for network in hypervisor.networks.values() for _, address in network.reserved]
    assert held == list(flow.held), told
    directories = [path.name for path in world.paths.machines.iterdir()]
    with world.provider() as (store, _):
        machine = store.machine(ID)
        if flow.state == "GONE":
            assert (machine, domains, directories, store.machine_ids()) == (None, [], [], []), told
            assert cached(world) == known(store), (told, "what is left of a pull")
            assert flow.wish is not collect or cached(world) == set(), (told, "it was to go")
            return
        assert machine is not None, told
        assert pb.MachineState.Name(machine.status.state) == f"MACHINE_{flow.state}", told
        assert machine.status.observed_generation == machine.generation, told
        assert "".join(reason.code for reason in machine.reasons) == flow.reason, told
        assert (domains, directories) == ([ID], [ID]), told
        assert [volume.state for volume in machine.status.volumes] == [pb.VOLUME_ATTACHED] * flow.disks, told
        files = [path.name for path in world.paths.machine(ID).root.glob("[!.]*")]
        assert len(files) == flow.files, (told, files)  # the disks, and nothing half-made
        snapshot = hypervisor.connect().snapshot(ID)
        assert snapshot is not None, told
        aliases = {row.alias for row in machine.attachments}
        assert set(observed.read(snapshot.persistent_xml).devices) == aliases, told
        if flow.happens is save:
            clocks = [event.reason for event in store.events(ID) if event.kind == "clock"]
            assert clocks == ["clock-behind"], (told, "the guest's clock is behind, and nobody says so")
        if flow.state == "RUNNING":
            live = observed.read(snapshot.live_xml)
            assert (live.run, set(live.devices)) == (machine.run.uuid, aliases), told
            assert machine.run.started_at, told
            volumes = [row for row in machine.attachments if row.kind == "volume"]
            sizes = {row.target: row.backing.size for row in volumes if isinstance(row.backing, DiskSource)}
            assert set(sizes.values()) == {flow.found or MIB}, told
            assert hypervisor.disk_sizes(ID) == (sizes if flow.found else {}), told
        else:
            assert not snapshot.active, told
        assert cached(world) == known(store), (told, "what is left of a pull")
        needed = {name for row in machine.attachments if row.image for name in row.image.parts}
        assert {image.name for image, _ in store.images()} == needed, (told, "each part of an image is there")
    if before:
        assert world.starts.count() - before + 1 == flow.starts, told


def cached(world: World) -> set[str]:
    """The files of the image cache, without what their names end in."""
    return {path.stem for path in world.paths.image_cache.iterdir()}


def known(store: Store) -> set[str]:
    """Those that the store has as whole."""
    return {image.digest.rpartition(":")[2] for image, _ in store.images()}


@pytest.fixture(autouse=True)
def image(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    """Images in a registry, where a flow needs one; its name is where flows look for it."""
    flow = request.node.callspec.params["flow"] if hasattr(request.node, "callspec") else None
    if flow is not None and not flow.name.startswith("fetched"):
        yield
        return
    (tmp_path / "registry").mkdir()
    with Registry(tmp_path / "registry") as registry:
        root = b"\xeb\x3c\x90" + bytes(MIB)
        artifacts.container_disk(registry, "org/image", "layers", layers=[artifacts.disk(root)], packing="zstd")
        files = {"rootfs": root, "kernel": b"a kernel", "initramfs": b"its initramfs"}
        artifacts.ironcore(registry, "org/image", "kernel", generation="legacy", parts=files, command_line="quiet")
        (tmp_path / "image").write_text(f"{registry.host}/org/image")
        yield


@pytest.mark.parametrize("kind", ["kill", "fail"])
@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS.keys())
def test_a_provider_that_is_hit_anywhere_finishes(tmp_path: Path, flow: Flow, kind: str) -> None:
    root, snapshot = tmp_path / "world", tmp_path / "snapshot"
    now = prepare(root, flow)
    restore(root, snapshot)
    starts = World(root, flow.grace, now).starts.count()
    points = recorded(root, flow, now)
    assert len(points) >= 8
    for nth, point in distinct(points, kind):
        restore(snapshot, root)
        armed, later = f"{kind} {nth} {point}", now + 3600 * SECOND
        if kind == "fail":
            trap = finish(root, flow, now, armed)
            assert isinstance(trap, Once)
            assert trap.passed.count(point) >= nth, f"{armed}: nothing failed"
        else:
            code = finish_elsewhere(root, flow, now, armed)
            assert code == -signal.SIGKILL, f"{armed}: {root.with_suffix('.log').read_text()[-3000:]}"
            finish(root, flow, later)
        check(root, flow, later, starts + 1, armed)


def test_every_action_has_its_points_in_some_flow(tmp_path: Path) -> None:
    passed = set()
    for flow in FLOWS.values():
        root = tmp_path / flow.name
        passed |= {point for _, point in recorded(root, flow, prepare(root, flow))}
    actions = {f"{when} perform.{action.__name__}" for action in get_args(Action) for when in ("before", "after")}
    assert actions - passed == set()
