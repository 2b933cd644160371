"""Volumes as a whole host has them: LVM's under the unit's sandbox, a file on NFS, a socket of NBD, all past AppArmor.

What drivers do with volumes otherwise does not belong here (tests/e2e).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests.vm.machine import VM
from tests.vm.service import Service, spec, wait_for

GROUP = "sritest"
BY_ID = f"/dev/disk/by-id/dm-name-{GROUP}-"
NFS = "/srv/sri-nfs"
SOCKETS = "/run/sri-nbd"
SIZE = 32 << 20

CONFIG = f"""\
block_device = ["/dev/{GROUP}/*", "{BY_ID}*"]
file_dir = ["{NFS}"]
nbd_socket_dir = ["{SOCKETS}"]
"""

SANDBOX = """\
[Service]
DeviceAllow=block-device-mapper r
"""

PROFILE = "/etc/apparmor.d/local/abstractions/libvirt-qemu"
RULE = f"{SOCKETS}/* rw,"

PREPARE = f"""
set -e
truncate -s 256M /var/tmp/sri-lvm
loop=$(losetup --find --show /var/tmp/sri-lvm)
pvcreate -q $loop && vgcreate -q {GROUP} $loop
lvcreate -q -y -L {SIZE}b -n data {GROUP}
mkdir -p {NFS} /srv/sri-export {SOCKETS} /etc/exports.d
truncate -s {SIZE} /srv/sri-export/data.raw /var/tmp/sri-nbd.raw
echo '/srv/sri-export 127.0.0.1(rw,no_root_squash,no_subtree_check,fsid=7)' >/etc/exports.d/sri.exports
systemctl start nfs-server && exportfs -ra
mount -t nfs4 -o soft,timeo=100 127.0.0.1:/srv/sri-export {NFS}
systemd-run --quiet --unit=sri-nbd qemu-nbd --socket={SOCKETS}/data --export-name=e --format=raw --persistent \
    --shared=0 /var/tmp/sri-nbd.raw
for _ in $(seq 60); do [ ! -S {SOCKETS}/data ] || break; sleep 1; done
chmod 666 {SOCKETS}/data
mkdir -p {PROFILE.rpartition("/")[0]} && echo '{RULE}' >>{PROFILE}
"""

FORGET = f"""
sed -i '\\#{SOCKETS}#d' {PROFILE}
systemctl stop sri-nbd
umount -f {NFS}; rm -f /etc/exports.d/sri.exports; exportfs -ra; systemctl stop nfs-server
vgremove -q -f {GROUP}; losetup --detach $(losetup --noheadings --output NAME --associated /var/tmp/sri-lvm)
rm -rf /var/tmp/sri-lvm /var/tmp/sri-nbd.raw /srv/sri-export {NFS} {SOCKETS}
"""


@dataclass(frozen=True)
class Stored:
    """A volume, and where the host sees its bytes."""

    device: str
    driver: str
    attributes: dict[str, str]
    bytes_at: str

    def volume(self) -> pb.Volume:
        connection = pb.VolumeConnection(driver=self.driver, handle=self.device, attributes=self.attributes)
        return pb.Volume(name=self.device, device=self.device, connection=connection)


VOLUMES = {
    "lvm": Stored("odl", "block", {"path": f"/dev/{GROUP}/data"}, f"/dev/{GROUP}/data"),
    "nfs": Stored("odf", "file", {"path": f"{NFS}/data.raw", "format": "raw"}, "/srv/sri-export/data.raw"),
    "nbd": Stored("ods", "nbd", {"socket": f"{SOCKETS}/data", "export": "e"}, "/var/tmp/sri-nbd.raw"),
}


@pytest.fixture(scope="module")
def storage(service: Service) -> Iterator[VM]:
    """The storage is there, and the provider may use it but for what its sandbox forbids."""
    vm = service.vm
    vm.ask(FORGET)  # what an earlier run left
    vm.run(PREPARE, deadline=600)
    service.configure(CONFIG)
    service.systemctl("restart", "sri-libvirt")
    service.wait_serving()
    yield vm
    service.configure("")
    service.systemctl("restart", "sri-libvirt")
    service.wait_serving()
    vm.ask(FORGET)


@pytest.fixture(scope="module")
def machine(storage: VM, service: Service) -> Iterator[str]:
    """A guest that was started with AppArmor's new rule, and that nobody else uses."""
    machine = service.create("volumes", spec("tiny"))
    service.wait_line(machine, "up")
    yield machine
    service.delete(machine)
    assert storage.run(f"dmsetup info -c --noheadings -o open {GROUP}-data").strip() == "0"
    assert json.loads(service.vm.run("sri-libvirt sweep -o json")) == []


@pytest.fixture(scope="module")
def allowed(storage: VM, service: Service) -> Iterator[None]:
    """The unit's drop-in that the README tells of."""
    with service.drop_in(SANDBOX):
        service.systemctl("restart", "sri-libvirt")
        service.wait_serving()
        yield
    service.systemctl("restart", "sri-libvirt")
    service.wait_serving()


def states(service: Service, machine: str) -> dict[str, str]:
    found = service.get(machine).status.volumes
    return {each.name: pb.VolumeState.Name(each.state).removeprefix("VOLUME_") for each in found}


def wait(service: Service, machine: str, what: str, condition: Callable[[], object]) -> None:
    try:
        wait_for(what, condition, 120)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{service.why(machine)}") from None


def write(service: Service, machine: str, disk: str, word: str) -> None:
    """Have the guest write a word at the beginning of a disk."""
    line = f"echo {word} | dd of=/dev/{disk} conv=fsync 2>/dev/null && echo tiny: wrote-{word}"
    service.type(machine, line, lambda: f"tiny: wrote-{word}" in service.lines(machine))


def first_word(service: Service, stored: Stored) -> str:
    return service.vm.run(f"head -c 64 {stored.bytes_at} | tr -d '\\0'").split("\n")[0]


def test_a_device_waits_until_the_units_sandbox_lets_the_provider_open_it(service: Service, machine: str) -> None:
    stored = VOLUMES["lvm"]
    service.attach(machine, stored.volume())
    wait(service, machine, "advice", lambda: "DeviceAllow=block-device-mapper r" in service.why(machine))
    assert states(service, machine) == {stored.device: "PENDING"}
    service.detach(machine, stored.volume())
    wait(service, machine, "no volume", lambda: states(service, machine) == {})


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("kind", VOLUMES)
def test_a_running_guest_writes_what_the_storage_has(service: Service, machine: str, kind: str) -> None:
    stored = VOLUMES[kind]
    before = len(service.denials())
    service.attach(machine, stored.volume())
    wait(service, machine, "attached", lambda: states(service, machine) == {stored.device: "ATTACHED"})
    disk = service.wait_disk(machine, stored.device)
    write(service, machine, disk, f"hot-{kind}")
    assert first_word(service, stored) == f"hot-{kind}"
    service.detach(machine, stored.volume())
    service.wait_line(machine, f"disk {disk} gone", count=list(VOLUMES).index(kind) + 1)
    wait(service, machine, "no volume", lambda: states(service, machine) == {})
    assert service.denials()[before:] == []


@pytest.mark.usefixtures("allowed")
def test_an_lvm_volume_that_grows_is_seen_by_its_guest(service: Service, machine: str) -> None:
    stored = VOLUMES["lvm"]
    service.attach(machine, stored.volume())
    disk = service.wait_disk(machine, stored.device)
    wait(service, machine, "attached", lambda: states(service, machine) == {stored.device: "ATTACHED"})
    service.vm.run(f"lvextend -q -L {2 * SIZE}b {GROUP}/data")
    (told,) = json.loads(service.vm.run(f"sri-libvirt volume rescan {machine} {stored.device} -o json"))
    assert (told["outcome"], told["bytes"]) == ("grown", 2 * SIZE)
    sizes = re.compile(rf"^tiny: disk {disk} serial={stored.device}-\w+ size={2 * SIZE}$")
    wait(service, machine, "size", lambda: any(sizes.match(line) for line in service.lines(machine)))
    service.detach(machine, stored.volume())
    wait(service, machine, "no volume", lambda: states(service, machine) == {})


@pytest.mark.usefixtures("allowed")
def test_a_device_is_not_given_to_a_second_machine_by_its_other_name(service: Service, machine: str) -> None:
    stored, by_id = VOLUMES["lvm"], Stored("odi", "block", {"path": f"{BY_ID}data"}, f"{BY_ID}data")
    service.attach(machine, stored.volume())
    wait(service, machine, "attached", lambda: states(service, machine) == {stored.device: "ATTACHED"})
    wanted = spec("tiny", image=False)
    wanted.volumes.append(by_id.volume())
    second = service.create("by-id", wanted)
    wait(service, second, "reason", lambda: f"machine {machine} has the volume still" in service.why(second))
    assert states(service, second) == {by_id.device: "PENDING"}
    service.detach(machine, stored.volume())
    wait(service, machine, "no volume", lambda: states(service, machine) == {})
    wait(service, second, "attached", lambda: states(service, second) == {by_id.device: "ATTACHED"})
    service.delete(second)


@pytest.mark.usefixtures("allowed")
def test_all_of_them_come_with_a_cold_start(service: Service, machine: str) -> None:
    before, boots = len(service.denials()), service.boots(machine)
    service.power(machine, pb.POWER_OFF)
    service.wait_state(machine, "MACHINE_SUSPENDED")
    service.attach(machine, *(stored.volume() for stored in VOLUMES.values()))
    service.power(machine, pb.POWER_ON)
    service.wait_line(machine, "up", count=boots + 1)
    everything = {stored.device: "ATTACHED" for stored in VOLUMES.values()}
    wait(service, machine, "attached", lambda: states(service, machine) == everything)
    for kind, stored in VOLUMES.items():
        write(service, machine, service.wait_disk(machine, stored.device), f"cold-{kind}")
        assert first_word(service, stored) == f"cold-{kind}"
    profile = service.vm.run(f"cat /proc/{service.guests()[machine].pid}/attr/current").strip("\n\0")
    assert profile == f"libvirt-{machine} (enforce)"
    assert service.denials()[before:] == []


@pytest.mark.usefixtures("allowed")
def test_a_volume_is_probed_without_the_daemon(service: Service) -> None:
    """As an operator does: by root's shell, outside of the sandbox, with the host's settings."""
    stored = VOLUMES["nfs"]
    text = json.dumps({"name": "a", "connection": {"driver": "file", "handle": "h", "attributes": stored.attributes}})
    service.vm.write("/root/volume.yaml", text)
    told = json.loads(service.vm.run("sri-libvirt volume probe -f /root/volume.yaml -o json"))
    assert (told["ready"], told["bytes"]) == (True, SIZE)
