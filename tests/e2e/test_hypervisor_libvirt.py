"""libvirt keeps the hypervisor's contract, on real QEMU: every way in which a domain ends, and a libvirtd that dies."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path

import libvirt
import pytest

from sri_libvirt.errors import Unreachable
from sri_libvirt.hypervisor.libvirt import LibvirtHypervisor
from tests.contract.hypervisor.suite import HypervisorContract, Recorder, World
from tests.e2e.guests import Guest
from tests.e2e.libvirtd import PrivateLibvirt, wait_until

pytestmark = pytest.mark.e2e

_subnets = itertools.count(100)


class LibvirtWorld:
    def __init__(self, private: PrivateLibvirt) -> None:
        self.private = private
        self.hypervisor = LibvirtHypervisor(private.uri, qemu_log_dir=private.log_dir)
        self._directory = private.directory("guests")

    def guest(self, machine_id: str) -> Guest:
        return Guest(machine_id, self._directory)

    def domain(self, machine_id: str, *, deaf: bool = False, marked: str = "") -> str:
        name = f"<name>{machine_id}</name>"
        xml = self.guest(machine_id).xml(deaf=deaf)
        return xml.replace(name, f"{name}<title>{marked}</title>") if marked else xml

    def wait_until_up(self, machine_id: str) -> None:
        self.guest(machine_id).wait_until_up()

    def guest_powers_off(self, machine_id: str) -> None:
        self.guest(machine_id).power_off()

    def kill_qemu(self, machine_id: str) -> None:
        self._signal_qemu(machine_id, signal.SIGKILL)

    def panic(self, machine_id: str) -> None:
        self.guest(machine_id).panic()

    def sleep(self, machine_id: str) -> None:
        self.guest(machine_id).sleep()

    def terminate_qemu(self, machine_id: str) -> None:
        self._signal_qemu(machine_id, signal.SIGTERM)

    def pause(self, machine_id: str) -> None:
        self._as_an_operator(lambda connection: connection.lookupByUUIDString(machine_id).suspend())

    def save(self, machine_id: str) -> None:
        self._as_an_operator(lambda connection: connection.lookupByUUIDString(machine_id).managedSave(0))

    def stop_libvirt(self) -> None:
        self.private.kill()

    def start_libvirt(self) -> None:
        self.private.start()

    def device(self, alias: str) -> str:
        disk = self._directory / f"{alias}.raw"
        disk.write_bytes(bytes(1 << 16))
        return f"""<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{disk}'/>
            <target dev='vdb' bus='virtio'/><alias name='{alias}'/>
            <address type='pci' domain='0' bus='1' slot='0' function='0'/></disk>"""

    def reset(self, machine_id: str) -> None:
        self._as_an_operator(lambda connection: connection.lookupByUUIDString(machine_id).reset(0))

    def make_network(self, name: str) -> None:
        self.private.network(name, subnet=next(_subnets))

    def _as_an_operator(self, action: Callable[[libvirt.virConnect], object]) -> None:
        connection = libvirt.open(self.private.uri)
        action(connection)
        connection.close()

    def _signal_qemu(self, machine_id: str, number: int) -> None:
        pid = int((self.private.base / "run" / "qemu" / f"{machine_id}.pid").read_text())
        os.kill(pid, number)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), "QEMU ended")


class TestLibvirt(HypervisorContract):
    @pytest.fixture
    def world(self, private_libvirt: PrivateLibvirt) -> World:
        return LibvirtWorld(private_libvirt)

    def test_a_hung_libvirtd_is_noticed_by_every_connection(self, private_libvirt: PrivateLibvirt) -> None:
        hypervisor = LibvirtHypervisor(private_libvirt.uri, keepalive=(1, 1))
        connection, recorder = hypervisor.connect(), Recorder()
        stop = hypervisor.watch(recorder)
        recorder.wait(lambda: recorder.connected, "connection")
        private_libvirt.signal("libvirtd", signal.SIGSTOP)
        try:
            with pytest.raises(Unreachable):
                connection.domain_ids()
            recorder.wait(lambda: recorder.disconnected, "loss")
        finally:
            private_libvirt.signal("libvirtd", signal.SIGCONT)
        recorder.wait(lambda: recorder.connected == 2, "reconnect")
        stop()
