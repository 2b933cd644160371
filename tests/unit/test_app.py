"""The composition root: one provider per state directory, and the order in which it starts and stops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sri_libvirt import app, config, statedir
from sri_libvirt.capacity.budget import Hardware, Resources
from sri_libvirt.config import Settings
from sri_libvirt.errors import ConfigError
from sri_libvirt.hypervisor.base import Listener as HypervisorListener
from sri_libvirt.hypervisor.fake import FakeConnection, FakeHypervisor
from sri_libvirt.notify import ServiceManager
from sri_libvirt.paths import StatePaths
from sri_libvirt.reconcile.beginning import META_BESIDE
from sri_libvirt.records import GIB
from sri_libvirt.store import Store
from tests.unit.host import trees
from tests.unit.reconcile.parts import HostStub

HOST = Hardware(Resources(cpus=4, memory_bytes=8 * GIB), disk_bytes=1000 * GIB)


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    paths = StatePaths(tmp_path / "state")
    statedir.prepare(paths)
    return paths


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    flags = {
        "address": f"unix://{tmp_path}/sri.sock",
        "state_dir": tmp_path / "state",
        "domain_type": "qemu",
        "template_dir": None,
        "lanes": 2,
    }
    return config.load(flags, environ={}, default_file=tmp_path / "none.toml")


# --- serve ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_state_directory_that_cannot_be_is_a_config_error(tmp_path: Path, settings: Settings, below: str) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(ConfigError, match=f"--state-dir {file}"):
        app.serve(replace(settings, state_dir=file / below))
    assert file.read_text() == "precious"


def test_serve_is_refused_before_it_touches_the_store_of_another(paths: StatePaths, settings: Settings) -> None:
    with statedir.lock(paths), pytest.raises(ConfigError, match="another provider"):
        app.serve(settings)
    assert not paths.database.exists()


# --- start and stop ------------------------------------------------------------------------------


class Order:
    """What happened, in order."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.refused = False


class FakeListener:
    """A socket that notes when it is opened and closed; see `server.listener.Listener`."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self.reachable: list[bool] = []

    async def start(self) -> None:
        if self._order.refused:
            raise ConfigError("cannot listen")
        self._order.seen.append("serves")

    async def stop(self, grace: float) -> None:
        self._order.seen.append("serves no more")

    def set_hypervisor_reachable(self, reachable: bool) -> None:
        self.reachable.append(reachable)

    def set_serves(self, serves: bool) -> None:
        assert serves, "a store that has begun is not doubted"


class FakeSocket:
    """The operator's socket, or that of the group; see `server.admin.CommandSocket`."""

    def __init__(self, order: Order, path: Path) -> None:
        self._order = order
        self._does = "obeys" if path.stem == "admin" else "tells"
        self._started = False

    async def start(self) -> None:
        self._started = True
        self._order.seen.append(self._does)

    async def stop(self, grace: float) -> None:
        if self._started:
            self._order.seen.append(f"{self._does} no more")


class FakeLibvirt(FakeHypervisor):
    """Notes when it is watched and asked."""

    def __init__(self, order: Order) -> None:
        super().__init__()
        self._order = order

    def watch(self, listener: HypervisorListener) -> Callable[[], None]:
        self._order.seen.append("watches")
        stop = super().watch(listener)

        def ended() -> None:
            self._order.seen.append("watches no more")
            stop()

        return ended

    def connect(self) -> FakeConnection:
        self._order.seen.append("connects")
        return super().connect()


@pytest.fixture
def order() -> Order:
    return Order()


@pytest.fixture
def provider(
    settings: Settings, paths: StatePaths, order: Order, monkeypatch: pytest.MonkeyPatch
) -> Iterator[app.Provider]:
    monkeypatch.setattr(app, "Listener", lambda *_, **__: FakeListener(order))
    monkeypatch.setattr(app, "CommandSocket", lambda path, *_, **__: FakeSocket(order, path))
    store = Store.open(paths, lambda: 1)
    store.write(lambda tx: tx.set_meta(META_BESIDE, "1"))  # so that libvirt is not asked whether it may begin
    yield app.Provider(settings, store, hypervisor=FakeLibvirt(order), host=HostStub(), hardware=lambda _: HOST)
    store.close()


_others: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def _only_this_test() -> None:
    """Threads of tests before this one may end late."""
    _others.clear()
    _others.update(threading.enumerate())


def lanes() -> list[str]:
    """This test's own."""
    ours = set(threading.enumerate()) - _others
    return sorted(thread.name for thread in ours if thread.name.startswith(("lane-", "resync")))


@pytest.mark.rule("R-G6-2")
async def test_it_serves_before_libvirt_is_asked_and_stops_serving_first(provider: app.Provider, order: Order) -> None:
    await provider.start()
    assert lanes() == ["lane-0", "lane-1", "lane-2", "resync"], "as many as are set, and one for stops"
    await provider.stop()
    assert order.seen == [
        *("serves", "obeys", "tells", "watches"),
        *("serves no more", "obeys no more", "tells no more", "watches no more"),
    ]
    assert lanes() == []


class Told(ServiceManager):
    """Notes what systemd is told among what else happens."""

    def __init__(self, order: Order) -> None:
        super().__init__(watchdog=60.0)
        object.__setattr__(self, "order", order)

    def tell(self, **state: str) -> None:
        seen: list[str] = self.order.seen  # type: ignore[attr-defined]
        seen += [key for key in state if key != "STATUS"]


async def test_systemd_is_told_that_it_is_ready_once_it_serves(
    settings: Settings, provider: app.Provider, order: Order
) -> None:
    hypervisor = FakeLibvirt(order)
    told = app.Provider(
        settings, provider.store, hypervisor=hypervisor, host=HostStub(), hardware=lambda _: HOST, manager=Told(order)
    )
    await told.start()
    async with asyncio.timeout(30):
        while "WATCHDOG" not in order.seen:
            await asyncio.sleep(0.01)
    await told.stop()
    order.seen.remove("WATCHDOG")
    assert order.seen[:4] == ["serves", "obeys", "tells", "READY"]
    assert order.seen[order.seen.index("STOPPING") + 1] == "serves no more"


@pytest.mark.parametrize("part", ["rpcs", "store", "lanes"])
async def test_signs_of_life_are_of_parts_that_work(provider: app.Provider, part: str) -> None:
    await provider.start()
    check = provider._signs_of_life()[part]
    assert await asyncio.to_thread(check) == ""
    await provider.stop()


async def test_lanes_that_end_by_themselves_are_no_life(provider: app.Provider) -> None:
    await provider.start()
    provider.queue.close()
    for lane in provider.lanes:
        await asyncio.to_thread(lane.join, 30)
    assert "lane-0" in await asyncio.to_thread(provider._signs_of_life()["lanes"])
    await provider.stop()


async def test_whether_libvirt_is_reached_is_told(provider: app.Provider) -> None:
    await provider.start()
    await provider.stop()
    assert isinstance(provider.listener, FakeListener)
    assert provider.listener.reachable == [True]
    assert provider.metrics.registry.get_sample_value("sri_libvirt_hypervisor_reachable") == 1


async def test_a_provider_that_cannot_listen_starts_nothing_and_can_be_stopped(
    provider: app.Provider, order: Order
) -> None:
    order.refused = True
    with pytest.raises(ConfigError):
        await provider.start()
    await provider.stop()
    assert order.seen == ["serves no more"]
    assert lanes() == []


async def test_a_lane_that_is_stuck_is_left_behind(
    provider: app.Provider, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "STOP_SECONDS", 0.05)
    stuck, go = threading.Event(), threading.Event()

    def reconcile(machine_id: str) -> None:
        stuck.set()
        go.wait()

    for lane in provider.lanes:
        monkeypatch.setattr(lane, "reconcile", reconcile)
    await provider.start()
    provider.queue.wake("any")
    assert await asyncio.to_thread(stuck.wait, 10)
    await provider.stop()
    assert len(lanes()) == 1
    assert order.seen[-1] == "watches no more"
    go.set()
    for lane in provider.lanes:
        await asyncio.to_thread(lane.join, 10)
    assert lanes() == []


async def test_serve_cleans_up_after_a_start_that_failed(
    settings: Settings, provider: app.Provider, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "Provider", lambda *_, **__: provider)
    order.refused = True
    with pytest.raises(ConfigError):
        await app._serve(settings, provider.store)
    assert order.seen == ["serves no more"]


@pytest.mark.rule("R-A8-3", "R-G7-1")
def test_quantities_are_of_the_whole_host(provider: app.Provider) -> None:
    quantities = {offer.machine_class.name: offer.quantity for offer in provider.pool.offers(provider.store.usage())}
    assert quantities == {"c1-m1": 4, "c1-m2": 3, "c1-m4": 1, "c1-m8": 0, "c2-m4": 1, "c2-m8": 0, "c4-m8": 0}


def test_the_ladder_of_the_first_run_is_kept(settings: Settings, provider: app.Provider) -> None:
    larger = Hardware(Resources(cpus=64, memory_bytes=512 * GIB), disk_bytes=1 << 50)
    later = app.Provider(settings, provider.store, hypervisor=FakeHypervisor(), hardware=lambda _: larger)
    assert list(later.pool.classes) == list(provider.pool.classes)
    usage = provider.store.usage()
    assert [offer.free for offer in later.pool.offers(usage)] == [64, 64, 64, 61, 32, 32, 16]


def test_this_host_is_read_through_the_roots_of_the_settings(paths: StatePaths, tmp_path: Path) -> None:
    tree = trees.build("x86_smt", tmp_path / "host")
    found = app.read_hardware(paths, sysfs=tree.sysfs, procfs=tree.procfs)
    assert (found.total.cpus, found.total.memory_bytes, sorted(found.nodes)) == (16, 3 * GIB, [0, 1])
    assert 0 <= found.disk_others_bytes < found.disk_bytes


def test_roots_that_show_no_host_are_a_mistake(paths: StatePaths, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--sysfs"):
        app.read_hardware(paths, sysfs=tmp_path, procfs=tmp_path)


def test_only_x86_64_is_served_yet_and_others_are_refused_by_name() -> None:
    app.check_architecture("x86_64")
    with pytest.raises(ConfigError, match="this host is aarch64; only x86_64"):
        app.check_architecture("aarch64")
