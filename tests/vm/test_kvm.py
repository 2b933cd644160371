"""KVM on a real host: the probe's verdict, the host's CPU for guests, hot-plug, and the model to fall back to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vm.pool import Pool
from tests.vm.service import Service, disk, nic, spec, wait_for

WRAPPER = """\
#!/bin/sh
# A QEMU that cannot give guests the host's CPU.
case " $* " in *" -cpu host "*) echo "CPU model 'host' is not to be had" >&2; exit 1 ;; esac
exec /usr/bin/qemu-system-x86_64 "$@"
"""


def verdict(service: Service) -> dict[str, object]:
    """What the daemon that runs says of KVM when it has started: it serves before it knows."""
    said = wait_for("the verdict", lambda: [line for line in service.log() if line["event"] == "KVM"])
    return {key: said[-1][key] for key in ("works", "host_passthrough")}


def test_the_probe_says_kvm(service: Service) -> None:
    assert verdict(service) == {"works": True, "host_passthrough": True}


def test_a_machine_boots_by_kvm_with_the_hosts_cpu(service: Service, pool: Pool) -> None:
    machine = pool.tiny()
    xml = service.xml(machine)
    assert "<domain type='kvm'" in xml
    assert "<cpu mode='host-passthrough'" in xml
    assert service.state(machine) == "MACHINE_RUNNING"
    files = service.vm.run(f"ls -l /proc/{service.guests()[machine].pid}/fd")
    assert "anon_inode:kvm-vm" in files


def test_devices_come_to_and_leave_a_running_guest(service: Service, pool: Pool) -> None:
    machine = pool.tiny()
    volume, interface, boots = disk("odc"), nic("second"), service.boots(machine)
    service.attach(machine, volume, interface)
    name = service.wait_disk(machine, "odc")
    service.wait_line(machine, "nic eth1 mac=")
    gone = service.lines(machine).count(f"tiny: disk {name} gone")
    service.detach(machine, volume, interface)
    service.wait_line(machine, f"disk {name} gone", gone + 1)
    service.wait_line(machine, "nic eth1 gone")
    assert service.boots(machine) == boots, "nothing of it was a reboot"


@pytest.fixture
def without_host_cpu(service: Service) -> Iterator[None]:
    """The provider's probe finds that guests cannot have the host's CPU."""
    # In the service's own PATH: libvirt looks for emulators in its. Not below /run, from which nothing may be executed.
    service.vm.run("mkdir -p /opt/sri-test")
    service.vm.write("/opt/sri-test/qemu-system-x86_64", WRAPPER, "0755")
    with service.drop_in("[Service]\nEnvironment=PATH=/opt/sri-test:/usr/sbin:/usr/bin:/sbin:/bin\n"):
        service.systemctl("restart", "sri-libvirt")
        service.wait_serving()
        yield
    service.vm.run("rm -r /opt/sri-test")
    service.systemctl("restart", "sri-libvirt")
    service.wait_serving()


@pytest.mark.usefixtures("without_host_cpu")
def test_where_guests_cannot_have_the_hosts_cpu_they_run_by_kvm_with_another(service: Service) -> None:
    machine = service.create("other-cpu", spec("tiny"))
    service.wait_line(machine, "up")
    xml = service.xml(machine)
    assert "<domain type='kvm'" in xml
    assert ">qemu64</model>" in xml
    assert verdict(service) == {"works": True, "host_passthrough": False}
    service.delete(machine)
