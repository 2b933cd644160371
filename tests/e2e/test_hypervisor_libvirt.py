"""libvirt keeps the hypervisor's contract, on real QEMU: every way in which a domain ends, and a libvirtd that dies."""

from __future__ import annotations

import itertools
import os
import re
import signal
import uuid
from collections.abc import Callable, Iterator
from ipaddress import IPv4Interface
from pathlib import Path

import libvirt
import pytest

from sri_libvirt.errors import Unreachable
from sri_libvirt.hypervisor.base import Secret, SecretUsage
from sri_libvirt.hypervisor.libvirt import LibvirtHypervisor
from tests import luks
from tests.contract.hypervisor.suite import INSTANCE, PASSPHRASE, HypervisorContract, Recorder, World, passphrase
from tests.e2e.guests import Guest
from tests.e2e.libvirtd import PrivateLibvirt, wait_until

pytestmark = pytest.mark.e2e

_subnets = itertools.count(100)


class LibvirtWorld:
    def __init__(self, private: PrivateLibvirt) -> None:
        self.private = private
        self.hypervisor = LibvirtHypervisor(private.uri, qemu_log_dir=private.log_dir)
        self._directory = private.directory("guests")
        self._networks: set[str] = set()

    def guest(self, machine_id: str) -> Guest:
        return Guest(machine_id, self._directory)

    def domain(
        self, machine_id: str, *, deaf: bool = False, marked: str = "", device: str = "", cramped: bool = False
    ) -> str:
        name = f"<name>{machine_id}</name>"
        xml = self.guest(machine_id).xml(deaf=deaf).replace("</devices>", f"{device}</devices>")
        if cramped:
            xml = self._on_a_file_system_of_its_own(machine_id, xml)
        return xml.replace(name, f"{name}<title>{marked}</title>") if marked else xml

    def with_console(self, machine_id: str) -> str:
        return re.sub("<serial .*</serial>", "<serial type='pty'/>", self.guest(machine_id).xml())

    def heed(self, machine_id: str, typed: bytes) -> None:
        pass

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

    def device(self, alias: str, secret: str = "") -> str:
        disk = self._directory / f"{alias}.raw"
        locked = ""
        if secret:
            luks.make(disk, PASSPHRASE)
            locked = f"<encryption format='luks'><secret type='passphrase' uuid='{secret}'/></encryption>"
        else:
            disk.write_bytes(bytes(1 << 16))
        return f"""<disk type='file' device='disk'><driver name='qemu' type='raw'/>
            <source file='{disk}'>{locked}</source><target dev='vdb' bus='virtio'/><alias name='{alias}'/>
            <address type='pci' domain='0' bus='1' slot='0' function='0'/></disk>"""

    def reset(self, machine_id: str) -> None:
        self._as_an_operator(lambda connection: connection.lookupByUUIDString(machine_id).reset(0))

    def write(self, machine_id: str) -> None:
        self.guest(machine_id).write()

    def make_room(self, machine_id: str) -> None:
        self.private.run(["mount", "-o", "remount,size=4m", self._small(machine_id)])

    def grow_backend(self, alias: str, size: int) -> None:
        os.truncate(self._directory / f"{alias}.raw", size)

    def disk_bytes(self, machine_id: str, target: str) -> int:
        connection = libvirt.open(self.private.uri)
        domain = connection.lookupByUUIDString(machine_id)
        capacity, (disk,) = domain.blockInfo(target)[0], self._directory.glob("ua-vol-*.raw")
        connection.close()
        assert capacity <= disk.stat().st_size, "QEMU sees what is not there, or it was cut"
        return int(capacity)

    def _small(self, machine_id: str) -> Path:
        return self._directory / f"{machine_id[:8]}-small"

    def _on_a_file_system_of_its_own(self, machine_id: str, xml: str) -> str:
        """The domain with its disk where there is room for its boot sector alone."""
        small, disk = self._small(machine_id), self.guest(machine_id).disk
        small.mkdir(mode=0o711)
        self.private.run(["mount", "-t", "tmpfs", "-o", "size=8k,mode=711", "none", small])
        self.private.run(["cp", "--sparse=always", disk, small / disk.name])
        return xml.replace(str(disk), str(small / disk.name))

    def make_network(self, name: str, *, kept: bool = False) -> IPv4Interface:
        subnet = next(_subnets)
        self.private.network(name, subnet=subnet, kept=kept)
        self._networks.add(name)
        return IPv4Interface(f"10.99.{subnet}.1/24")

    def stop_network(self, name: str) -> None:
        self.private.stop_network(name)

    def remove_networks(self) -> None:
        for name in self._networks:
            self.private.remove_network(name)

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
    def world(self, private_libvirt: PrivateLibvirt) -> Iterator[World]:
        world = LibvirtWorld(private_libvirt)
        yield world
        world.remove_networks()

    def test_a_hung_libvirtd_is_noticed_by_every_connection(self, private_libvirt: PrivateLibvirt) -> None:
        hypervisor = LibvirtHypervisor(private_libvirt.uri, keepalive=(1, 1))
        connection, recorder = hypervisor.connect(), Recorder()
        stop = hypervisor.watch(recorder)
        recorder.wait(lambda: recorder.connected, "connection")
        private_libvirt.freeze()
        try:
            with pytest.raises(Unreachable):
                connection.domain_ids()
            recorder.wait(lambda: recorder.disconnected, "loss")
        finally:
            private_libvirt.thaw()
        recorder.wait(lambda: recorder.connected == 2, "reconnect")
        stop()

    @pytest.mark.parametrize("usage", SecretUsage)
    def test_a_secrets_value_is_nowhere_to_be_read(self, private_libvirt: PrivateLibvirt, usage: SecretUsage) -> None:
        world, planted = LibvirtWorld(private_libvirt), b"planted-" + uuid.uuid4().hex.encode()
        secret, ours = Secret(str(uuid.uuid4()), usage, INSTANCE), world.hypervisor.connect()
        ours.set_secret(secret, planted)
        operator = libvirt.open(private_libvirt.uri)
        try:
            found = operator.secretLookupByUUIDString(secret.uuid)
            with pytest.raises(libvirt.libvirtError, match="private"):
                found.value()
            assert planted.decode() not in found.XMLDesc(0)
            # An operator's own secret carries no mark: it is none of ours.
            theirs = operator.secretDefineXML("<secret ephemeral='yes' private='no'/>", 0)
            assert theirs.UUIDString() not in ours.secret_ids()
            theirs.undefine()
        finally:
            operator.close()
        files = [path for path in private_libvirt.base.rglob("*") if path.is_file()]
        assert files
        assert [path for path in files if planted in path.read_bytes()] == []
        ours.drop_secret(secret.uuid, INSTANCE)

    def test_a_passphrase_is_in_no_log_and_no_argument_of_qemu(self, private_libvirt: PrivateLibvirt) -> None:
        world, secret, machine_id = LibvirtWorld(private_libvirt), passphrase(), str(uuid.uuid4())
        connection = world.hypervisor.connect()
        connection.define(world.domain(machine_id, device=world.device("ua-vol-a-1", secret.uuid)))
        connection.set_secret(secret, PASSPHRASE)
        connection.start(machine_id)
        connection.drop_secret(secret.uuid, INSTANCE)
        snapshot = connection.snapshot(machine_id)
        assert snapshot is not None
        pid = int((private_libvirt.base / "run" / "qemu" / f"{machine_id}.pid").read_text())
        log = (private_libvirt.log_dir / f"{machine_id}.log").read_text()
        assert "secret" in log  # it tells that there is one
        told = [log, Path(f"/proc/{pid}/cmdline").read_text(), snapshot.live_xml, snapshot.persistent_xml]
        assert [text for text in told if PASSPHRASE.decode() in text] == []
