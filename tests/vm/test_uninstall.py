"""Removing the service leaves the guests and the state; installed again, it goes on with them."""

from __future__ import annotations

from tests.vm.pool import Pool
from tests.vm.service import STATE, UNINSTALL, VIRSH, Service


def test_removed_and_installed_again_it_goes_on_with_its_machines(service: Service, pool: Pool) -> None:
    machine = pool.tiny()
    guests, boots = service.guests(), service.boots(machine)
    done = service.vm.ask(f"{UNINSTALL} --purge 2>&1")
    assert done.returncode == 1
    assert "there are machines" in done.stdout
    assert service.serves()

    assert "Guests run on" in service.uninstall()
    assert service.guests() == guests
    left = "ls -d /etc/systemd/system/sri-libvirt* /usr/local/lib/sri-libvirt /usr/local/bin/sri-libvirt /run/sri*"
    assert service.vm.ask(f"{left} 2>/dev/null").stdout == ""
    assert "state.sqlite" in service.vm.run(f"ls {STATE}/store")

    service.install(service.wheel())
    service.connect()
    service.wait_state(machine, "MACHINE_RUNNING")
    assert service.guests() == guests
    assert service.boots(machine) == boots


def test_purge_with_machines_leaves_nothing(service: Service) -> None:
    service.disconnect()
    service.uninstall("--purge", "--with-machines")
    assert service.guests() == {}
    assert service.vm.run(f"{VIRSH} list --all --name").split() == []
    assert service.vm.ask(f"ls -d {STATE} /etc/sri-libvirt 2>/dev/null").stdout == ""
    assert "sri-libvirt-" not in service.vm.run(f"{VIRSH} nwfilter-list")
