"""A backup that is put back under a working poollet: its wishes are of the past until somebody has compared them.

The provider runs on the fake hypervisor, which watches that no volume is ever open in two guests.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from lxml import etree

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.domain.observed import read
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.store import backup
from tests import third_party
from tests.contract.compressed import CompressedProvider
from tests.poollet.api import ApiMachine, ApiNic, ApiVolume
from tests.poollet.controller import Poollet
from tests.poollet.scenario import Scenario

MIB = 1 << 20


class OneWriter(FakeHypervisor):
    """Notes each volume of the backend that two guests have open."""

    def __init__(self, state: Path, backend: Path) -> None:
        super().__init__(state)
        self.shared: list[str] = []
        self._backend = backend

    def _save(self) -> None:
        sources = (
            node.get("file", "")
            for domain in self._domains.values()
            if domain.live
            for node in etree.fromstring(domain.live).iterfind("devices/disk/source")
        )
        opened = Counter(each for each in sources if each.startswith(str(self._backend)))
        self.shared += [each for each, count in opened.items() if count > 1]
        super()._save()


class Host:
    """A provider, its poollet, and its users' machines; what is asserted at every end."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.backend = root / "backend"
        self.backend.mkdir()
        self.hypervisor = OneWriter(root / "fake.json", self.backend)
        self.provider = CompressedProvider(root, shutdown_grace=30_000_000_000)
        self.provider.hypervisor = self.hypervisor
        self.provider.start()
        self.poollet = Poollet(self.provider.stub)
        self.scenario = Scenario(self.poollet, self.provider.second)

    def volume(self, name: str, device: str, handle: str) -> ApiVolume:
        attributes = {"directory": str(self.backend), "size": str(MIB)}
        connection = pb.VolumeConnection(
            driver="example-file", handle=handle, attributes=attributes, secret_data={"key": b"key"}
        )
        return ApiVolume(name, device, connection=connection)

    def running(self, name: str, *volumes: ApiVolume) -> ApiMachine:
        nics = [ApiNic(f"nic{number}", "isolated") for number in range(len(volumes) + 1)]
        machine = ApiMachine(name, volumes=[ApiVolume("scratch", "oda"), *volumes], nics=nics)
        self.poollet.add(machine)
        self.scenario.state(machine, "Running")
        self.scenario.attached(machine)
        return machine

    def back_up(self) -> Path:
        copy = self.root / "copy.sqlite"
        backup.backup(self.provider.loop.paths.database, copy, self.provider.now)
        return copy

    def put_back(self, copy: Path) -> None:
        self.provider.stop()
        backup.restore(self.provider.loop.paths, copy, self.provider.now)
        self.provider.start()
        self.poollet.forget()

    def alone(self, seconds: int) -> None:
        for _ in range(seconds):
            self.provider.second()

    def live(self, machine: ApiMachine) -> set[str]:
        snapshot = self.hypervisor.connect().snapshot(machine_id(machine))
        return set(read(snapshot.live_xml).devices) if snapshot and snapshot.live_xml else set()

    def codes(self, machine: ApiMachine) -> list[str]:
        return self.provider.loop.codes(machine_id(machine))

    def cli(self, *argv: str) -> str:
        (self.root / "none.toml").touch()
        command = [sys.executable, "-m", "sri_libvirt", *argv]
        flags = ["--state-dir", str(self.root / "state"), "--config", str(self.root / "none.toml")]
        done = subprocess.run([*command, *flags], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


def machine_id(machine: ApiMachine) -> str:
    return machine.status.machine_id.removeprefix("sri-libvirt://")


def refused(call: object, request: object) -> str:
    with pytest.raises(grpc.RpcError) as error:
        call(request, timeout=10)  # type: ignore[operator]
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    return str(error.value.details())


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.syspath_prepend(third_party.install(tmp_path / "site"))
    made = Host(tmp_path)
    yield made
    made.provider.close()
    assert made.hypervisor.shared == []


def move_a_volume(host: Host) -> tuple[ApiMachine, ApiMachine, Path]:
    """A backup, and after it the volume of one machine, which is off by now, goes to another that runs."""
    giver = host.running("giver", host.volume("shared", "odb", "shared"))
    taker = host.running("taker")
    copy = host.back_up()
    giver.power = pb.POWER_OFF
    giver.changed()
    host.scenario.state(giver, "Shutdown")
    taker.volumes.append(giver.volumes.pop())
    taker.changed()
    giver.changed()
    host.scenario.attached(taker)
    host.scenario.state(giver, "Shutdown")
    return giver, taker, copy


def test_a_volume_that_has_moved_since_is_in_one_guest_and_all_is_as_the_api_says(host: Host) -> None:
    giver, taker, copy = move_a_volume(host)
    before = host.live(taker)
    host.put_back(copy)
    host.alone(60)
    assert (host.live(giver), host.codes(giver)) == (set(), ["restored"])
    assert (host.live(taker), host.codes(taker)) == (before, ["restored"])
    words = refused(host.provider.stub.DetachVolume,
                    pb.DetachVolumeRequest(machine_id=machine_id(taker), name="shared"))  # fmt: skip
    assert "its guest has it" in words
    host.scenario.rest()
    assert (host.codes(giver), host.codes(taker)) == ([], [])
    assert host.live(taker) == before, "a guest that runs was touched"
    rows = host.provider.loop.stored(machine_id(taker)).attachments
    assert {row.alias for row in rows} == before
    assert all(row.unplug_at == 0 for row in rows)
    giver.power = pb.POWER_ON
    giver.changed()
    host.scenario.state(giver, "Running")
    assert len(host.live(giver)) == 3


def test_a_device_that_nobody_wants_any_more_is_unplugged_once_the_machine_is_confirmed(host: Host) -> None:
    giver, taker, copy = move_a_volume(host)
    host.put_back(copy)
    taker.volumes.pop()  # the user takes it away while the provider is down
    taker.changed()
    host.scenario.rest()
    assert (host.codes(giver), host.codes(taker)) == ([], [])
    assert len(host.live(taker)) == 2
    told = host.provider.loop.told(machine_id(taker))
    assert [each for each in told if each in (("device", "unknown-device"), ("device", "detached"))] == [
        ("device", "unknown-device"),
        ("device", "detached"),
    ]
    request = pb.DetachVolumeRequest(machine_id=machine_id(taker), name="shared")
    with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
        host.provider.stub.DetachVolume(request, timeout=10)


def test_a_machine_that_was_deleted_since_is_not_made_anew_and_goes_again(host: Host) -> None:
    gone = host.running("gone", host.volume("shared", "odb", "shared"))
    other = host.running("other")
    copy = host.back_up()
    gone_id = machine_id(gone)
    gone.deleted = True
    host.scenario.gone(gone)
    host.put_back(copy)
    host.alone(60)
    assert host.hypervisor.connect().domain_ids() == [machine_id(other)]
    host.scenario.until("its end", lambda: host.provider.loop.store.machine(gone_id) is None)
    host.scenario.rest()
    assert host.hypervisor.connect().domain_ids() == [machine_id(other)]


def test_a_machine_made_since_is_made_anew_and_waits_for_its_older_guest(host: Host) -> None:
    host.running("kept")
    copy = host.back_up()
    since = host.running("since", host.volume("shared", "odb", "shared"))
    older = machine_id(since)
    host.put_back(copy)
    host.poollet.sent.clear()
    host.scenario.until("a new machine", lambda: machine_id(since) != older)
    host.alone(60)
    assert host.codes(since) == ["open-elsewhere"]
    assert older in host.provider.loop.stored(machine_id(since)).reasons[0].advice
    assert host.live(since) == set()
    host.hypervisor.connect().destroy(older)  # as `sweep --yes --running` does
    host.scenario.state(since, "Running")
    host.scenario.attached(since)


def test_relists_alone_and_restarts_confirm_nothing(host: Host) -> None:
    giver, _taker, copy = move_a_volume(host)
    host.put_back(copy)
    for number in range(120):
        host.poollet.relist()  # the API is away: it lists, and cannot compare
        host.provider.second()
        if number % 40 == 0:
            host.provider.restart()
    assert (host.live(giver), host.codes(giver)) == (set(), ["restored"])


def test_a_machine_that_a_poollet_finds_as_it_was_is_confirmed_by_its_first_reconcile(host: Host) -> None:
    same = host.running("same", host.volume("own", "odb", "own"))
    copy = host.back_up()
    host.hypervisor.destroy_from_outside(machine_id(same))
    host.put_back(copy)
    host.alone(10)
    assert host.codes(same) == ["restored"]
    host.scenario.state(same, "Running")
    host.scenario.rest()
    told = [each for each in host.provider.loop.told(machine_id(same)) if each[0] == "restored"]
    assert told == [("restored", "waits"), ("restored", "confirmed")]


@pytest.mark.parametrize("daemon", [True, False], ids=["through the daemon", "without it"])
def test_an_operator_confirms_one_or_all(host: Host, daemon: bool) -> None:
    one, two = host.running("one"), host.running("two")
    copy = host.back_up()
    for each in (one, two):
        host.hypervisor.destroy_from_outside(machine_id(each))
    host.put_back(copy)
    host.alone(5)
    assert (host.codes(one), host.codes(two)) == (["restored"], ["restored"])
    for argument, count in ([machine_id(one)], 1), ([], 1), ([], 0):
        if not daemon:
            host.provider.stop()
        assert host.cli("store", "confirm", *argument) == f"{count} machines are confirmed\n"
        if not daemon:
            host.provider.start()
        host.alone(5)
        assert host.live(one)
        assert bool(host.live(two)) is (not argument)


def test_nobody_says_what_a_guest_has_before_it_was_looked_at(host: Host) -> None:
    _giver, taker, copy = move_a_volume(host)
    host.provider.stop()
    backup.restore(host.provider.loop.paths, copy, host.provider.now)
    host.hypervisor.set_reachable(False)
    host.provider.start()
    volume = taker.volumes[-1].desired()
    stub = host.provider.stub
    detach = pb.DetachVolumeRequest(machine_id=machine_id(taker), name="shared")
    attach = pb.AttachVolumeRequest(machine_id=machine_id(taker), volume=volume)
    for call, request in (stub.DetachVolume, detach), (stub.AttachVolume, attach):
        assert "is not known yet" in refused(call, request)
    host.hypervisor.set_reachable(True)
    host.alone(10)
    stub.AttachVolume(attach, timeout=10)
