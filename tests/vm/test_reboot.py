"""The host goes down and comes back: in order, with libvirt-guests, and by a pulled plug.

One of the machines has an encrypted volume, so that it comes back by a secret that is in no file of libvirt's, and an
isolated NIC, whose tap is ours to make anew.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.nics.isolated import tap_name
from tests.vm.pool import ADDRESS, IGNITION, Pool
from tests.vm.service import BOOT, NETWORK, VIRSH, Service, hardware, spec, wait_for

LANES = 2
"""As many machines are started at a time; fewer than there are."""


ISOLATED = pb.NetworkInterface(name="alone", network_id="isolated")
LUKS = "/var/tmp/sri-luks.raw"
PASSPHRASE = "open-sesame-again"
SERVER = f"""\
[Unit]
# What guests have open is there before they start, and until they have ended.
Before=libvirt-guests.service sri-libvirt.service
[Service]
ExecStart=qemu-nbd --bind=127.0.0.1 --port=10809 --export-name=e --format=raw --persistent --shared=0 {LUKS}
[Install]
WantedBy=multi-user.target
"""


@pytest.fixture(scope="module", autouse=True)
def few_lanes(service: Service) -> Iterator[None]:
    service.configure(f"lanes = {LANES}\n")
    yield
    service.configure("")


@pytest.fixture(scope="module")
def resting(service: Service) -> tuple[str, str]:
    """Two machines that shall not run: one was powered off through the SRI, one powered itself off."""
    off = service.create("off", spec("tiny", image=False))
    service.wait_state(off, "MACHINE_RUNNING")
    service.power(off, pb.POWER_OFF)
    stopped = service.create("stopped-itself", spec("tiny", ignition=IGNITION))
    service.wait_line(stopped, "up")
    service.type(stopped, "poweroff -f", lambda: service.state(stopped) == "MACHINE_SUSPENDED")
    service.wait_state(off, "MACHINE_SUSPENDED")
    return off, stopped


@pytest.fixture(scope="module")
def locked(service: Service) -> Iterator[str]:
    """A machine with an isolated NIC, whose volume is encrypted, on a server that comes back with the host."""
    vm = service.vm
    secret = f"--object secret,id=k,data={PASSPHRASE} -o key-secret=k,iter-time=10"
    vm.run(f"qemu-img create -q -f luks {secret} {LUKS} 4M")
    vm.write("/etc/systemd/system/sri-nbd-luks.service", SERVER)
    vm.run("systemctl daemon-reload && systemctl enable --now sri-nbd-luks")
    made = spec("tiny")
    connection = pb.VolumeConnection(
        driver="nbd",
        handle="locked",
        attributes={"address": "127.0.0.1:10809", "export": "e"},
        encryption_data={"encryptionKey": PASSPHRASE.encode()},
    )
    made.volumes.add(name="locked", device="odk", connection=connection)
    made.network_interfaces.append(ISOLATED)
    machine = service.create("locked", made)
    service.wait_line(machine, "up")
    expect_unlocked(service, machine)
    expect_isolated(service, machine)
    yield machine
    service.delete(machine)
    vm.run(f"systemctl disable --now sri-nbd-luks && rm /etc/systemd/system/sri-nbd-luks.service {LUKS}")


def expect_unlocked(service: Service, machine: str) -> None:
    """It runs with its volume, and libvirt has no secret any more."""
    service.wait_state(machine, "MACHINE_RUNNING")
    wait_for("volume", lambda: [each.state for each in service.get(machine).status.volumes] == [pb.VOLUME_ATTACHED])
    assert "sri-libvirt" not in service.vm.run(f"{VIRSH} secret-list")


def expect_isolated(service: Service, machine: str) -> None:
    """It has its isolated NIC, and the host has no address there."""
    attached = [pb.NETWORK_INTERFACE_ATTACHED]
    wait_for("NIC", lambda: [each.state for each in service.get(machine).status.network_interfaces] == attached)
    (tap,) = json.loads(service.vm.run(f"ip -j addr show dev {tap_name(machine, ISOLATED)}"))
    assert tap["addr_info"] == []


def expect_address(service: Service, machine: str, boots: int) -> None:
    """It has got the address of its spec at each boot, which its network keeps for it alone; and it is filtered."""
    service.wait_line(machine, f"nic eth0 ip={ADDRESS}", boots)
    assert f"ip='{ADDRESS}'" in service.vm.run(f"{VIRSH} net-dumpxml {NETWORK}")
    assert "sri-libvirt-1-ipv4" in service.vm.run(f"{VIRSH} -q nwfilter-binding-list")


def libvirt_guests(service: Service, on_shutdown: str) -> None:
    service.vm.write(
        "/etc/default/libvirt-guests",
        # a client's default may be libvirtd where virtqemud runs
        f"URIS=qemu:///system\nON_BOOT=ignore\nON_SHUTDOWN={on_shutdown}\nSHUTDOWN_TIMEOUT=120\nPARALLEL_SHUTDOWN=4\n",
    )
    service.systemctl("enable", "--now", "libvirt-guests.service")


def write_down(service: Service, machine: str, word: str) -> None:
    """Put a word on the guest's empty disk."""
    line = f"echo {word} | dd of=/dev/vdb bs=512 conv=sync,fsync 2>/dev/null && echo tiny: wrote {word}"
    service.type(machine, line, lambda: f"tiny: wrote {word}" in service.lines(machine))


def assert_written(service: Service, machine: str, word: str) -> None:
    """The guest's empty disk still has that word."""
    line = "echo tiny: reads $(head -n 1 /dev/vdb)"
    service.type(machine, line, _said(service, machine, f"tiny: reads {word}"))


def _said(service: Service, machine: str, line: str) -> Callable[[], bool]:
    return lambda: line in service.lines(machine)


def facts(service: Service, machine: str) -> list[str]:
    """Disks, NICs, MACs and PCI addresses, as the guest has them now."""
    mark = f"tiny: facts of {time.monotonic_ns()}"
    service.type(machine, f"facts; echo {mark}", _said(service, machine, mark))
    lines = service.lines(machine)
    told = lines[: lines.index(mark)]
    first = max(number for number, line in enumerate(told) if line.startswith("tiny: disk vda "))
    return sorted(hardware(told[first:]))


def test_machines_come_back_after_a_reboot_with_the_same_hardware(
    service: Service, pool: Pool, resting: tuple[str, str], locked: str
) -> None:
    machine, others = pool.tiny(), [pool.half(), locked, *pool.uefi()]
    libvirt_guests(service, "shutdown")
    write_down(service, machine, "before-the-reboot")
    hardware_before, boots = facts(service, machine), {each: service.boots(each) for each in (machine, *others)}
    assert hardware_before
    service.vm.reboot()
    service.connect()
    for each in (machine, *others):
        service.wait_line(each, "up", boots[each] + 1)
        service.wait_state(each, "MACHINE_RUNNING")
    assert facts(service, machine) == hardware_before
    expect_address(service, machine, boots[machine] + 1)
    assert_written(service, machine, "before-the-reboot")
    expect_unlocked(service, locked)
    expect_isolated(service, locked)
    for each in resting:
        assert service.state(each) == "MACHINE_SUSPENDED"
    assert set(service.guests()) == {machine, *others}
    assert 0 < most_at_once(service) <= LANES


def most_at_once(service: Service) -> int:
    """How many guests were being started at a time since this boot, as the log has it."""
    edges: list[tuple[float, int]] = []
    for line in service.log():
        if line.get("action") == "Start":
            end = datetime.fromisoformat(line["timestamp"]).timestamp()
            edges += [(end - line["seconds"], 1), (end, -1)]
    running = most = 0
    for _, step in sorted(edges):
        running += step
        most = max(most, running)
    return most


def test_machines_that_were_suspended_go_on_where_they_were(
    service: Service, pool: Pool, resting: tuple[str, str], locked: str
) -> None:
    machine = pool.tiny()
    libvirt_guests(service, "suspend")
    boots, boots_locked = service.boots(machine), service.boots(locked)
    service.type(machine, "touch /run/still-here; echo tiny: touched", _said(service, machine, "tiny: touched"))
    service.vm.reboot()
    service.connect()
    service.wait_state(machine, "MACHINE_RUNNING")
    line = "ls /run/still-here && echo tiny: goes on"
    service.type(machine, line, _said(service, machine, "tiny: goes on"))
    expect_unlocked(service, locked)
    expect_isolated(service, locked)
    assert (service.boots(machine), service.boots(locked)) == (boots, boots_locked)
    for each in resting:
        assert service.state(each) == "MACHINE_SUSPENDED"


def test_a_pulled_plug_loses_nothing_that_was_acknowledged(
    service: Service, pool: Pool, resting: tuple[str, str], locked: str
) -> None:
    machine = pool.tiny()
    write_down(service, machine, "before-the-plug")
    before, boots = facts(service, machine), service.boots(machine)
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda number: service.create(f"last-{number}", spec("tiny", image=False)), range(4)))
    service.annotate(made[0], last="words")
    service.power(made[1], pb.POWER_OFF)
    acknowledged = {each.metadata.id: each for each in service.machines()}
    service.vm.reset()
    service.connect()
    listed = {each.metadata.id: each for each in service.machines()}
    assert listed.keys() == acknowledged.keys()
    for each in acknowledged:
        assert listed[each].spec == acknowledged[each].spec
        assert listed[each].metadata == acknowledged[each].metadata
    assert listed[made[0]].metadata.annotations == {"last": "words"}
    service.wait_line(machine, "up", boots + 1, 2 * BOOT)  # all start at once, each with a firmware, disks and a filter
    assert facts(service, machine) == before
    expect_address(service, machine, boots + 1)
    assert_written(service, machine, "before-the-plug")
    service.wait_state(made[0], "MACHINE_RUNNING")
    expect_unlocked(service, locked)
    expect_isolated(service, locked)
    for each in (made[1], *resting):
        service.wait_state(each, "MACHINE_SUSPENDED")
    for each in made:
        service.delete(each)
