"""Who may do what on a real host: AppArmor confines guests, the socket's group may call, nobody else reads."""

from __future__ import annotations

import json

import pytest

from tests.vm.machine import PYTHON
from tests.vm.pool import IGNITION, Pool
from tests.vm.service import SOCKET, STATE, Service, disk

CONNECT = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect('{SOCKET}'); print('in')"


def test_apparmor_confines_every_guest_and_denies_none_of_what_we_gave_it(service: Service, pool: Pool) -> None:
    """Overlay and base below --image-dir, empty disk, ignition, seed, NVRAM, console logs, and a hot-plugged disk."""
    machines = [pool.tiny(), pool.half(), *pool.uefi()]
    service.attach(machines[0], disk("ode"))
    name = service.wait_disk(machines[0], "ode")
    service.detach(machines[0], disk("ode"))
    service.wait_line(machines[0], f"disk {name} gone")
    service.wait_line(machines[0], "ignition sha256=")
    service.wait_line(machines[1], "seed sha256=")
    guests = service.guests()
    for machine in machines:
        profile = service.vm.run(f"cat /proc/{guests[machine].pid}/attr/current").strip("\n\0")
        assert profile == f"libvirt-{machine} (enforce)"
    assert "security_driver" not in service.vm.run("grep -v '^#' /etc/libvirt/qemu.conf || true")
    assert service.denials() == []


def test_the_sockets_group_may_call_and_others_may_not(service: Service) -> None:
    assert service.vm.run(f"stat -c '%U %G %a' {SOCKET}").split() == ["root", "sri-libvirt", "660"]
    assert "sri-libvirt" in service.vm.run("id -nG", user="vagrant").split()
    assert service.vm.run(f'{PYTHON} -c "{CONNECT}"', user="vagrant").strip() == "in"
    done = service.vm.ask(f'{PYTHON} -c "{CONNECT}"', user="nobody")
    assert done.returncode == 1
    assert "PermissionError" in done.stderr


@pytest.mark.parametrize("user", ["nobody", "vagrant", "libvirt-qemu"])
def test_store_secrets_and_what_machines_hold_are_unreadable(service: Service, pool: Pool, user: str) -> None:
    machine = pool.tiny()
    directory = f"{STATE}/machines/{machine}"
    listings = [f"{STATE}/store", f"{STATE}/secrets", f"{STATE}/machines", directory]
    files = [f"{STATE}/store/state.sqlite", f"{directory}/console.log", f"{STATE}/admin.sock"]
    if user != "libvirt-qemu":  # QEMU's user has what its guests have
        files += [f"{directory}/ignition", f"{directory}/image.qcow2"]
    for path in listings:
        assert "Permission denied" in service.vm.ask(f"ls {path}", user=user).stderr, path
    for path in files:
        assert "Permission denied" in service.vm.ask(f"cat {path}", user=user).stderr, path
    modes = service.vm.run(
        f"stat -c '%a %n' {STATE} {STATE}/machines {directory} {STATE}/images {STATE}/store {STATE}/secrets"
    )
    assert [line.split()[0] for line in modes.splitlines()] == ["711", "711", "711", "711", "700", "700"]


def test_nothing_secret_is_in_the_log(service: Service, pool: Pool) -> None:
    pool.tiny()
    assert b"open-sesame" in IGNITION
    assert "open-sesame" not in json.dumps(service.log())


@pytest.mark.parametrize("command", ["machine list", "machine why x", "store check", "sweep", "store backup"])
def test_the_command_line_says_what_a_user_lacks(service: Service, command: str) -> None:
    done = service.vm.ask(f"sri-libvirt {command}", user="nobody")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert "root" in line, line


def test_the_service_runs_in_its_sandbox(service: Service) -> None:
    pid = service.property("MainPID")
    status = service.vm.run(f"cat /proc/{pid}/status")
    assert "NoNewPrivs:\t1" in status
    bounding = next(line.split()[1] for line in status.splitlines() if line.startswith("CapBnd"))
    assert int(bounding, 16) == 0b1111 | 1 << 12, "chown, dac_override, dac_read_search, fowner; net_admin"
    assert service.vm.ask(f"nsenter -t {pid} -m touch /usr/probe /etc/probe").returncode != 0
