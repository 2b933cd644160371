"""A poollet on a provider on real libvirt and QEMU, with drivers of a third party: what its user and the guest see."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests import third_party
from tests.e2e.provider import Provider
from tests.poollet.api import ApiMachine, ApiNic, ApiVolume
from tests.poollet.controller import Poollet
from tests.poollet.scenario import Scenario, all_attached

pytestmark = pytest.mark.e2e

MIB = 1 << 20


@pytest.fixture
def backend(provider: Provider) -> Path:
    directory = provider.root / "backend"
    directory.mkdir(mode=0o711)
    return directory


@pytest.fixture
def poollet(provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Poollet]:
    """A poollet on a provider that has the third party's drivers, and the tap that its NIC driver gives out."""
    monkeypatch.setenv("PYTHONPATH", str(third_party.install(tmp_path / "site")))
    provider.libvirt.run(["ip", "tuntap", "add", "dev", "exwan", "mode", "tap"])
    provider.start("--firmware", "bios", "--detach-settle", "15s")  # longer than a restart on a busy machine
    yield Poollet(provider.stub)
    provider.libvirt.run(["ip", "link", "delete", "exwan"])


@pytest.fixture
def scenario(poollet: Poollet) -> Scenario:
    return Scenario(poollet, lambda: time.sleep(1))  # the poollet's own beat


def machine(image: Path, backend: Path) -> ApiMachine:
    connection = pb.VolumeConnection(
        driver="example-file",
        handle="4711",
        attributes={"directory": str(backend), "size": str(32 * MIB)},
        secret_data={"key": b"key", "none": b""},
    )
    return ApiMachine(
        "m",
        image=f"file://{image}",
        volumes=[ApiVolume("scratch", "odb", 64 * MIB), ApiVolume("data", "oda", connection=connection)],
        nics=[ApiNic("lan", "isolated", ("10.0.0.1",)), ApiNic("wan", "example://wan")],
    )


def running(scenario: Scenario, provider: Provider, wanted: ApiMachine) -> str:
    """The id of a machine that its user sees running with everything, and whose guest is up."""
    scenario.poollet.add(wanted)
    scenario.state(wanted, "Running")
    scenario.attached(wanted)
    machine_id = wanted.status.machine_id.removeprefix("sri-libvirt://")
    provider.wait_console(machine_id, "tiny: up")
    return machine_id


@pytest.mark.rule("R-A12-1", "R-A10-2", "R-G4-3", "R-G4-8", "R-A5-5", "R-G12-6")
def test_a_machine_of_a_pool_from_its_create_to_its_end(
    provider: Provider, scenario: Scenario, tiny_image: Path, backend: Path
) -> None:
    poollet = scenario.poollet
    wanted = machine(tiny_image, backend)
    machine_id = running(scenario, provider, wanted)
    assert "serial=oda-" in provider.console(machine_id)
    assert f"size={32 * MIB}" in provider.console(machine_id)
    scenario.rest(5)
    assert [call for call in poollet.calls if call != "ListMachines"] == ["CreateMachine"]

    # A secret is missing for a moment, and the provider dies in that moment.
    wanted.volume("data").ready = False
    poollet.tick()
    assert poollet.calls.count("DetachVolume") == 2
    provider.kill()
    provider.start_again()
    poollet.stub = provider.stub
    wanted.volume("data").ready = True
    poollet.tick()
    scenario.rest(5)
    assert all_attached(wanted)
    assert " gone" not in provider.console(machine_id)

    wanted.volumes.append(ApiVolume("late", "odc", 64 * MIB))
    wanted.changed()
    scenario.attached(wanted)
    provider.wait_console(machine_id, "serial=odc-")
    wanted.volumes.pop()
    wanted.changed()
    scenario.until("the guest's word that the disk is gone", lambda: " gone" in provider.console(machine_id), 60)
    scenario.rest(5)

    wanted.deleted = True
    scenario.gone(wanted)
    assert provider.machines() == []
    assert list((provider.state / "machines").iterdir()) == []
    assert [path.name for path in backend.iterdir()] == ["4711.qcow2"]


@pytest.mark.rule("R-A5-7", "R-A10-4", "R-A3-8")
def test_power_and_a_network_that_comes_later(
    provider: Provider, scenario: Scenario, tiny_image: Path, backend: Path
) -> None:
    wanted = machine(tiny_image, backend)
    wanted.power = pb.POWER_OFF
    wanted.nics[1].network_id = ""
    scenario.poollet.add(wanted)
    scenario.state(wanted, "Shutdown")
    wanted.power = pb.POWER_ON
    wanted.changed()
    scenario.state(wanted, "Running")
    machine_id = wanted.status.machine_id.removeprefix("sri-libvirt://")
    provider.wait_console(machine_id, "tiny: up")
    assert wanted.status.nics == {"lan": "NETWORK_INTERFACE_ATTACHED", "wan": "NETWORK_INTERFACE_PENDING"}
    wanted.nics[1].network_id = "example://wan"
    scenario.attached(wanted)
    provider.wait_console(machine_id, "tiny: nic eth1")
    scenario.rest(5)
    assert wanted.nics[1].provider_id == f"example://wan/{machine_id}/wan"
