"""cgroup v2: a class's share of the CPU is kept by the kernel, and guests are in a slice that is not ours."""

from __future__ import annotations

import shlex
import time

from tests.vm.pool import Pool
from tests.vm.service import Service, wait_for


def scope(service: Service, machine: str) -> str:
    """Directory of the guest's cgroup, for a shell: machine.slice/machine-qemu….scope, whatever is below it."""
    pid = service.guests()[machine].pid
    path = service.vm.run(f"cut -d : -f 3 /proc/{pid}/cgroup").strip()
    return shlex.quote("/sys/fs/cgroup" + path.split(".scope")[0] + ".scope")  # its name has backslashes


def used(service: Service, directory: str) -> float:
    """Seconds of CPU that the guest has used."""
    return int(service.vm.run(f"grep usage_usec {directory}/cpu.stat").split()[1]) / 1e6


def test_this_host_has_cgroup_v2_alone(service: Service) -> None:
    assert service.vm.run("stat -f -c %T /sys/fs/cgroup").strip() == "cgroup2fs"


def test_a_busy_guest_of_half_a_cpu_uses_half_a_cpu(service: Service, pool: Pool) -> None:
    machine = pool.half()
    directory = scope(service, machine)
    assert "machine.slice" in directory
    limits = service.vm.run(f"grep -H . $(find {directory} -name cpu.max)")
    assert "50000 100000" in limits, limits
    service.type(machine, "while :; do :; done & echo tiny: busy", lambda: "tiny: busy" in service.lines(machine))
    before, began = used(service, directory), time.monotonic()
    wait_for("ten seconds of CPU", lambda: used(service, directory) > before + 10, 180)
    share = (used(service, directory) - before) / (time.monotonic() - began)
    service.type(machine, "kill %1; echo tiny: idle", lambda: "tiny: idle" in service.lines(machine))
    assert share < 0.62, f"a class of 500m used {share:.2f} CPUs"


def test_the_slice_of_guests_survives_a_restart_of_the_service(service: Service, pool: Pool) -> None:
    machine = pool.half()
    directory, guests = scope(service, machine), service.guests()
    service.systemctl("restart", "sri-libvirt")
    service.wait_serving()
    assert service.guests() == guests
    assert scope(service, machine) == directory
    group = service.property("ControlGroup")
    assert group == "/system.slice/sri-libvirt.service"
    assert (
        str(guests[machine].pid)
        not in service.vm.run("cat /sys/fs/cgroup/system.slice/sri-libvirt.service/cgroup.procs").split()
    )
