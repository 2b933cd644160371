"""A poollet on a whole provider on the fake hypervisor, for minutes of compressed time, with drivers of a third party.

What the poollet's model holds against a provider in every reply is in `tests/poollet/watch.py`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.domain.observed import read
from sri_libvirt.hypervisor.fake_networks import FakeNetwork
from sri_libvirt.records import GIB, Attachment
from tests import third_party
from tests.contract.compressed import CompressedProvider
from tests.contract.loop import VAST
from tests.poollet import pool
from tests.poollet.api import ApiMachine, ApiNic, ApiVolume
from tests.poollet.controller import Poollet
from tests.poollet.scenario import Scenario, all_attached

MIB = 1 << 20


@pytest.fixture
def backend(tmp_path: Path) -> Path:
    """Where the third party's volumes are."""
    directory = tmp_path / "backend"
    directory.mkdir()
    return directory


@pytest.fixture
def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CompressedProvider]:
    monkeypatch.syspath_prepend(third_party.install(tmp_path / "site"))
    made = CompressedProvider(tmp_path, shutdown_grace=30_000_000_000)
    made.start()
    yield made
    made.close()


@pytest.fixture
def poollet(provider: CompressedProvider) -> Poollet:
    return Poollet(provider.stub)


@pytest.fixture
def scenario(provider: CompressedProvider, poollet: Poollet) -> Scenario:
    return Scenario(poollet, provider.second)


def connection(backend: Path, handle: str, key: bytes = b"key") -> pb.VolumeConnection:
    return pb.VolumeConnection(
        driver="example-file",
        handle=handle,
        attributes={"directory": str(backend), "size": str(MIB), "empty": ""},
        secret_data={"key": key, "none": b""},
        encryption_data={"passphrase": b"\x00\xff"},
    )


def machine(backend: Path, name: str = "m", ignition: bytes = b"") -> ApiMachine:
    """As users have them: a root volume elsewhere, an empty disk, two networks."""
    return ApiMachine(
        name,
        ignition=ignition,
        volumes=[ApiVolume("scratch", "odb"), ApiVolume("root", "oda", connection=connection(backend, f"{name}root"))],
        nics=[
            ApiNic("lan", "isolated", ("10.0.0.1", "fd00::1"), {"k": ""}),
            ApiNic("wan", "example://wan"),
        ],
    )


def running(scenario: Scenario, wanted: ApiMachine) -> ApiMachine:
    """A machine that its user sees running with everything."""
    scenario.poollet.add(wanted)
    scenario.state(wanted, "Running")
    scenario.attached(wanted)
    return wanted


def machine_id(wanted: ApiMachine) -> str:
    return wanted.status.machine_id.removeprefix("sri-libvirt://")


def rows(provider: CompressedProvider, wanted: ApiMachine) -> dict[str, Attachment]:
    return {row.alias: row for row in provider.loop.stored(machine_id(wanted)).attachments}


def live(provider: CompressedProvider, wanted: ApiMachine) -> set[str]:
    """Aliases in the live XML."""
    snapshot = provider.hypervisor.connect().snapshot(machine_id(wanted))
    assert snapshot is not None
    return set(read(snapshot.live_xml).devices)


def mutations(poollet: Poollet) -> list[str]:
    return [call for call in poollet.calls if call != "ListMachines"]


@pytest.mark.rule("R-A12-1", "R-A3-8", "R-A1-8", "R-A2-1", "R-A4-1", "R-A7-3")
@pytest.mark.parametrize("ignition", [b"", b"#cloud-config\n", b"x" * 5000], ids=["none", "seed", "large"])
def test_at_rest_a_poollet_only_relists(scenario: Scenario, backend: Path, ignition: bytes) -> None:
    wanted = running(scenario, machine(backend, ignition=ignition))
    scenario.rest()
    assert mutations(scenario.poollet) == ["CreateMachine"]
    assert scenario.poollet.errors == []
    assert wanted.status.volumes["root"] == ("VOLUME_ATTACHED", "example-file/mroot")
    assert wanted.nics[1].provider_id == f"example://wan/{machine_id(wanted)}/wan"
    assert wanted.nics[0].provider_id


@pytest.mark.rule("R-A5-7", "R-A7-1")
def test_a_machine_that_should_be_off_is_made_on_and_then_switched_off(scenario: Scenario, backend: Path) -> None:
    wanted = machine(backend)
    wanted.power = pb.POWER_OFF
    scenario.poollet.add(wanted)
    scenario.state(wanted, "Shutdown")
    scenario.rest()
    assert mutations(scenario.poollet)[:2] == ["CreateMachine", "UpdateMachinePower"]
    wanted.power = pb.POWER_ON
    wanted.changed()
    scenario.state(wanted, "Running")
    scenario.attached(wanted)
    scenario.rest()


@pytest.mark.rule("R-A10-2", "R-G4-3", "R-A5-2")
def test_a_secret_that_is_missing_for_a_moment_unplugs_nothing(
    provider: CompressedProvider, scenario: Scenario, backend: Path
) -> None:
    wanted = running(scenario, machine(backend))
    before = rows(provider, wanted)
    wanted.volume("root").ready = False
    scenario.step()
    assert mutations(scenario.poollet).count("DetachVolume") == 2
    wanted.volume("root").ready = True
    scenario.rest()
    assert all_attached(wanted)
    after = rows(provider, wanted)
    assert after.keys() == before.keys() == live(provider, wanted)
    assert [(row.port, row.mac, row.serial, row.unplug_at) for row in after.values()] == [
        (row.port, row.mac, row.serial, 0) for row in before.values()
    ]


@pytest.mark.rule("R-G4-5", "R-G4-6", "R-A10-2")
def test_a_secret_that_is_missing_for_minutes_takes_the_connections_only(
    provider: CompressedProvider, scenario: Scenario, backend: Path
) -> None:
    wanted = running(scenario, machine(backend))
    before = rows(provider, wanted)
    root, scratch = (next(row.alias for row in before.values() if row.name == name) for name in ("root", "scratch"))
    wanted.volume("root").ready = False
    scenario.until("unplugged connection", lambda: root not in live(provider, wanted), 20)
    scenario.rest()
    assert scratch in live(provider, wanted)
    assert ("held", "detach-held") in provider.loop.told(machine_id(wanted))
    wanted.volume("root").ready = True
    scenario.until("devices", lambda: len(live(provider, wanted)) == 4, 60)
    scenario.attached(wanted)
    scenario.rest()
    assert rows(provider, wanted)[scratch].unplug_at == 0


@pytest.mark.rule("R-G4-8")
def test_a_restart_of_the_provider_changes_nothing(
    provider: CompressedProvider, scenario: Scenario, backend: Path
) -> None:
    wanted = running(scenario, machine(backend))
    scenario.rest(5)
    provider.restart()
    scenario.rest()
    assert mutations(scenario.poollet) == ["CreateMachine"]
    before = rows(provider, wanted)
    wanted.volume("root").ready = False
    scenario.step()  # everything is detached; its settle time runs on through the restart
    provider.restart()
    wanted.volume("root").ready = True
    scenario.rest()
    assert all_attached(wanted)
    assert all(row.unplug_at == 0 for row in rows(provider, wanted).values())
    assert rows(provider, wanted).keys() == before.keys()


@pytest.mark.rule("R-A4-8", "R-A10-4")
def test_a_network_that_comes_later(scenario: Scenario, backend: Path) -> None:
    wanted = machine(backend)
    wanted.nics[1].network_id = ""
    scenario.poollet.add(wanted)
    scenario.state(wanted, "Running")
    scenario.rest()
    assert wanted.status.nics == {"lan": "NETWORK_INTERFACE_ATTACHED", "wan": "NETWORK_INTERFACE_PENDING"}
    wanted.nics[1].network_id = "example://wan"
    scenario.attached(wanted)
    scenario.rest()
    assert mutations(scenario.poollet).count("DetachNetworkInterface") == 1


@pytest.mark.rule("R-A5-3", "R-G8-1", "R-A12-2")
def test_what_cannot_be_attached_yet_is_seen_pending_and_comes(
    provider: CompressedProvider, scenario: Scenario, backend: Path
) -> None:
    wanted = running(scenario, machine(backend))
    missing = backend.with_name("later")
    wanted.volumes.append(ApiVolume("late", "odc", connection=connection(missing, "late")))
    wanted.nics.append(ApiNic("dmz", "network://dmz"))
    wanted.changed()
    scenario.state(wanted, "Running")
    scenario.rest()
    assert wanted.status.volumes["late"] == ("VOLUME_PENDING", "example-file/late")
    assert wanted.status.nics["dmz"] == "NETWORK_INTERFACE_PENDING"
    assert scenario.poollet.errors == []
    assert set(provider.loop.codes(machine_id(wanted))) == {"device-not-ready"}
    missing.mkdir()
    provider.hypervisor.networks["dmz"] = FakeNetwork()
    scenario.attached(wanted)
    scenario.rest()


@pytest.mark.rule("R-A10-5", "R-A5-3")
def test_another_volume_of_the_same_name_waits_for_a_deaf_guest(
    provider: CompressedProvider, scenario: Scenario, backend: Path
) -> None:
    wanted = running(scenario, machine(backend))
    old = next(alias for alias, row in rows(provider, wanted).items() if row.name == "root")
    provider.hypervisor.set_deaf_to_unplug(machine_id(wanted))
    wanted.volume("root").connection = connection(backend, "another")
    wanted.changed()
    scenario.state(wanted, "Running")
    scenario.rest()
    assert wanted.status.volumes["root"] == ("VOLUME_PENDING", "example-file/another")
    assert old in live(provider, wanted)
    provider.hypervisor.set_deaf_to_unplug(machine_id(wanted), False)
    provider.hypervisor.reset(machine_id(wanted))
    scenario.attached(wanted)
    scenario.rest()
    assert old not in live(provider, wanted)
    assert old not in rows(provider, wanted)


@pytest.mark.rule("R-G4-4")
def test_renewed_credentials_unplug_nothing(provider: CompressedProvider, scenario: Scenario, backend: Path) -> None:
    wanted = running(scenario, machine(backend))
    before = rows(provider, wanted).keys()
    wanted.volume("root").connection = connection(backend, "mroot", b"renewed")
    wanted.changed()
    scenario.state(wanted, "Running")
    scenario.rest()
    assert all_attached(wanted)
    assert rows(provider, wanted).keys() == before
    assert all(row.unplug_at == 0 for row in rows(provider, wanted).values())


@pytest.mark.rule("R-A10-3")
def test_numbers_of_volumes_and_network_interfaces_may_differ(scenario: Scenario, backend: Path) -> None:
    uneven = machine(backend, "uneven")
    uneven.nics.pop()
    scenario.poollet.add(uneven)
    scenario.rest(3)
    assert mutations(scenario.poollet) == []  # the poollet's own defect
    wanted = running(scenario, machine(backend))
    wanted.nics.clear()
    wanted.volumes.append(ApiVolume("more", "odc", size=MIB))
    wanted.changed()
    scenario.attached(wanted)
    scenario.rest()


@pytest.mark.rule("R-A5-4", "R-A5-5", "R-A11-2", "R-G11-3")
def test_delete_of_a_deaf_guest_asks_again_and_again_until_nothing_is_left(
    provider: CompressedProvider, scenario: Scenario, backend: Path
) -> None:
    wanted = running(scenario, machine(backend))
    kept = running(scenario, machine(backend, "kept"))
    provider.hypervisor.set_deaf(machine_id(wanted))
    wanted.deleted = True
    for _ in range(10):
        scenario.step()
        listed = provider.stub.ListMachines(pb.ListMachinesRequest(filter=pb.MachineFilter(id=machine_id(wanted))))
        assert listed.machines[0].status.state == pb.MACHINE_RUNNING
    scenario.gone(wanted)
    assert mutations(scenario.poollet).count("DeleteMachine") >= 10
    scenario.rest(5)
    assert provider.loop.left_over() == ([machine_id(kept)], [machine_id(kept)])
    assert (backend / "mroot.qcow2").exists()


@pytest.mark.rule("R-G6-2", "R-G11-4", "R-A12-2")
def test_libvirt_away_is_no_difference(provider: CompressedProvider, scenario: Scenario, backend: Path) -> None:
    wanted = running(scenario, machine(backend))
    scenario.rest(3)
    provider.hypervisor.set_reachable(False)
    scenario.rest()
    assert wanted.status.state == "Running"
    late = scenario.poollet.add(machine(backend, "late"))
    scenario.rest(3)
    assert mutations(scenario.poollet) == ["CreateMachine"] * 2
    provider.hypervisor.set_reachable(True)
    scenario.state(late, "Running")
    scenario.attached(late)
    scenario.rest()


@pytest.mark.rule("R-A8-1", "R-A8-2", "R-A8-3", "R-G7-1")
def test_quantities_are_totals_whatever_exists(provider: CompressedProvider, scenario: Scenario) -> None:
    wanted = {"c1-m1": (1000, GIB), "c2-m4": (2000, 4 * GIB)}
    before = pool.capacity(scenario.poollet.stub, wanted)
    assert pool.capacity(scenario.poollet.stub, {"c1-m1": (1000, GIB + 1), "no": (1, 1)}) == {}
    assert before == {"c1-m1": VAST.total.cpus, "c2-m4": VAST.total.cpus // 2}
    made = [scenario.poollet.add(ApiMachine(f"one-{number}")) for number in range(3)]
    for each in made:
        scenario.state(each, "Running")
    after = pool.capacity(scenario.poollet.stub, wanted)
    assert after == {"c1-m1": before["c1-m1"], "c2-m4": before["c2-m4"] - 2}, "what others have is lacking"
    left = pool.allocatable(after, [each.machine_class for each in scenario.poollet.machines.values()])
    assert left["c1-m1"] == before["c1-m1"] - 1
    provider.restart()
    assert pool.capacity(scenario.poollet.stub, wanted) == after
    for each in made:
        each.deleted = True
    for each in made:
        scenario.gone(each)
    assert pool.capacity(scenario.poollet.stub, wanted) == before


@pytest.mark.rule("R-A6-5", "R-G2-1", "R-G2-2")
def test_exec_panics_nowhere(scenario: Scenario, backend: Path) -> None:
    wanted = running(scenario, machine(backend))
    assert scenario.poollet.exec(wanted) == 302
    assert scenario.poollet.exec(ApiMachine("unknown")) == 404
    wanted.power = pb.POWER_OFF
    wanted.changed()
    scenario.state(wanted, "Shutdown")
    assert scenario.poollet.exec(wanted) == 500


@pytest.mark.rule("R-A1-6")
def test_times_are_unix_nanoseconds(provider: CompressedProvider, scenario: Scenario, backend: Path) -> None:
    wanted = scenario.poollet.add(machine(backend))
    before = provider.now
    scenario.step()
    made = provider.stub.ListMachines(pb.ListMachinesRequest()).machines[0].metadata
    assert before < made.created_at <= provider.now
    assert made.deleted_at == 0
    scenario.state(wanted, "Running")
    provider.hypervisor.set_deaf(machine_id(wanted))
    wanted.deleted = True
    before = provider.now
    scenario.step()
    assert before < provider.stub.ListMachines(pb.ListMachinesRequest()).machines[0].metadata.deleted_at <= provider.now
    scenario.gone(wanted)


@pytest.mark.rule("R-A1-2", "R-A1-4", "R-A3-8", "R-A4-1", "R-A10-1", "R-A10-2", "R-A10-5")
@pytest.mark.parametrize("seed", range(5))
def test_whatever_its_users_do_a_pool_comes_to_rest(
    provider: CompressedProvider, scenario: Scenario, backend: Path, seed: int
) -> None:
    """Users, guests and restarts at random; then quiet, and everything is as it was asked for."""
    choose = random.Random(seed)
    users = [running(scenario, machine(backend, f"m{number}")) for number in range(3)]
    for number in range(50):
        user = choose.choice(users)
        if choose.random() < 0.7:
            wish(choose, user, backend, number)
        else:
            happen(choose, provider, scenario, machine_id(user))
        for _ in range(choose.choice([0, 1, 1, 3])):
            scenario.step()
    for user in users:
        provider.hypervisor.set_deaf_to_unplug(machine_id(user), False)
        for volume in user.volumes:
            volume.ready = True
        user.nics[1].network_id = user.nics[1].network_id or "isolated"
        user.power = pb.POWER_OFF  # a guest that powered itself off stays off until power goes off and on
        user.changed()
    for user in users:
        scenario.state(user, "Shutdown", 400)
        user.power = pb.POWER_ON
        user.changed()
    for user in users:
        scenario.state(user, "Running", 400)
        scenario.attached(user, 400)
    scenario.rest(seconds=400)
    for user in users:
        wanted = {row.alias for row in rows(provider, user).values()}
        assert wanted == live(provider, user)
        assert len(wanted) == len(user.volumes) + len(user.nics)
    assert mutations(scenario.poollet).count("CreateMachine") == 3


def wish(choose: random.Random, user: ApiMachine, backend: Path, number: int) -> None:
    """One thing that a user, or a controller of volumes or networks, does."""
    match choose.randrange(7):
        case 0:
            user.power = pb.POWER_OFF if user.power == pb.POWER_ON else pb.POWER_ON
        case 1 if len(user.volumes) < 5:
            device = next(each for each in ("odc", "odd", "ode") if each not in {v.device for v in user.volumes})
            user.volumes.append(ApiVolume(f"v{number}", device, choose.choice([0, MIB])))
        case 2 if len(user.volumes) > 2:
            user.volumes.pop()
        case 3:
            root = user.volume("root")
            root.ready = not root.ready
        case 4:
            user.volume("root").connection = connection(backend, f"{user.name}n{choose.randrange(3)}")
        case 5:
            user.nics[1].network_id = choose.choice(["", "isolated", "example://wan", "example://other"])
        case 6:
            user.volume("scratch").size = choose.choice([0, GIB, 2 * GIB])
    user.changed()


def happen(choose: random.Random, provider: CompressedProvider, scenario: Scenario, machine_id: str) -> None:
    """One thing that a guest, an operator or the host does."""
    hypervisor = provider.hypervisor
    snapshot = hypervisor.connect().snapshot(machine_id)
    active = snapshot is not None and snapshot.active
    match choose.randrange(7):
        case 0:
            hypervisor.set_deaf_to_unplug(machine_id, choose.random() < 0.5)
        case 1:
            provider.restart()
        case 2:
            hypervisor.set_reachable(False)
            for _ in range(3):
                scenario.step()
            hypervisor.set_reachable(True)
        case 3 if active:
            hypervisor.kill_qemu(machine_id)
        case 4 if active:
            hypervisor.reset(machine_id)
        case 5 if active:
            hypervisor.guest_powers_off(machine_id)
        case 6 if active:
            hypervisor.destroy_from_outside(machine_id)
