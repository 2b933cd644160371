"""The fake keeps the hypervisor's contract; what only it can do is tested in tests/unit/hypervisor."""

from __future__ import annotations

from ipaddress import IPv4Interface

import pytest

from sri_libvirt.hypervisor.base import DiskError
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.hypervisor.fake_networks import FakeNetwork
from tests.contract.hypervisor.suite import HypervisorContract, World


class FakeWorld:
    def __init__(self) -> None:
        self.hypervisor = FakeHypervisor()
        self._deaf: dict[str, bool] = {}
        self._cramped: dict[str, bool] = {}

    def domain(
        self, machine_id: str, *, deaf: bool = False, marked: str = "", device: str = "", cramped: bool = False
    ) -> str:
        self._deaf[machine_id], self._cramped[machine_id] = deaf, cramped
        devices = f"<devices><disk><target dev='sda'/><alias name='ua-boot'/></disk>{device}</devices>"
        return f"<domain><uuid>{machine_id}</uuid><title>{marked}</title>{devices}</domain>"

    def with_console(self, machine_id: str) -> str:
        return self.domain(machine_id)

    def heed(self, machine_id: str, typed: bytes) -> None:
        if b"q" in typed:
            self.hypervisor.guest_powers_off(machine_id)
        else:
            self.hypervisor.consoles[machine_id].prints(b"u")

    def wait_until_up(self, machine_id: str) -> None:
        self.hypervisor.set_deaf(machine_id, self._deaf[machine_id])
        self.hypervisor.set_deaf_to_unplug(machine_id)  # a boot sector has no driver for it

    def guest_powers_off(self, machine_id: str) -> None:
        self.hypervisor.guest_powers_off(machine_id)

    def kill_qemu(self, machine_id: str) -> None:
        self.hypervisor.kill_qemu(machine_id)

    def panic(self, machine_id: str) -> None:
        self.hypervisor.panic(machine_id)

    def sleep(self, machine_id: str) -> None:
        self.hypervisor.sleep(machine_id)

    def terminate_qemu(self, machine_id: str) -> None:
        self.hypervisor.terminate_qemu(machine_id)

    def pause(self, machine_id: str) -> None:
        self.hypervisor.pause(machine_id)

    def save(self, machine_id: str) -> None:
        self.hypervisor.save(machine_id)

    def stop_libvirt(self) -> None:
        self.hypervisor.set_reachable(False)

    def start_libvirt(self) -> None:
        self.hypervisor.set_reachable(True)

    def device(self, alias: str, secret: str = "") -> str:
        locked = f'<encryption format="luks"><secret type="passphrase" uuid="{secret}"/></encryption>' if secret else ""
        return f'<disk><source>{locked}</source><target dev="vdb"/><alias name="{alias}"/></disk>'

    def reset(self, machine_id: str) -> None:
        self.hypervisor.reset(machine_id)

    def write(self, machine_id: str) -> None:
        if self._cramped[machine_id]:
            self.hypervisor.fail_disk(machine_id, "sda", DiskError.NO_SPACE)

    def make_room(self, machine_id: str) -> None:
        self.hypervisor.mend_disks(machine_id)

    def grow_backend(self, alias: str, size: int) -> None:
        pass

    def disk_bytes(self, machine_id: str, target: str) -> int:
        return self.hypervisor.disk_sizes(machine_id)[target]

    def make_network(self, name: str, *, kept: bool = False) -> IPv4Interface:
        self.hypervisor.networks[name] = FakeNetwork(own=["10.0.7.1/24"], kept=kept)
        return IPv4Interface("10.0.7.1/24")

    def stop_network(self, name: str) -> None:
        self.hypervisor.networks[name].active = False


class TestFake(HypervisorContract):
    @pytest.fixture
    def world(self) -> World:
        return FakeWorld()
