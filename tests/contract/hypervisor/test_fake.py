"""The fake keeps the hypervisor's contract; what only it can do is tested in tests/unit/hypervisor."""

from __future__ import annotations

import pytest

from sri_libvirt.hypervisor.fake import FakeHypervisor
from tests.contract.hypervisor.suite import HypervisorContract, World


class FakeWorld:
    def __init__(self) -> None:
        self.hypervisor = FakeHypervisor()
        self._deaf: dict[str, bool] = {}

    def domain(self, machine_id: str, *, deaf: bool = False, marked: str = "", device: str = "") -> str:
        self._deaf[machine_id] = deaf
        devices = f"<devices>{device}</devices>"
        return f"<domain><uuid>{machine_id}</uuid><title>{marked}</title>{devices}</domain>"

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
        return f'<disk><source>{locked}</source><alias name="{alias}"/></disk>'

    def reset(self, machine_id: str) -> None:
        self.hypervisor.reset(machine_id)

    def make_network(self, name: str) -> None:
        self.hypervisor.networks[name] = True


class TestFake(HypervisorContract):
    @pytest.fixture
    def world(self) -> World:
        return FakeWorld()
