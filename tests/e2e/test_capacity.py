"""What was sold is what guests get: half a core is half a core, and what does not fit is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import libvirt
import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.host import cpu
from sri_libvirt.hypervisor import offers
from tests.e2e.provider import Provider, spec, type_line, wait_for

pytestmark = pytest.mark.e2e

ENOUGH = 2.0
"""Seconds of CPU time over which a busy guest is measured."""

PATIENCE = 180.0


class Cgroup:
    """The control group that holds a guest's quota, of either version."""

    def __init__(self, pid: int) -> None:
        self._directory = next(path for path in _above(pid) if _limited(path))

    def quota(self) -> float:
        """CPUs that it may use."""
        if (self._directory / "cpu.max").exists():
            quota, period = (self._directory / "cpu.max").read_text().split()
        else:
            quota, period = ((self._directory / f"cpu.cfs_{word}_us").read_text() for word in ("quota", "period"))
        return int(quota) / int(period)

    def throttled(self) -> int:
        """How often it was held up."""
        words = (self._directory / "cpu.stat").read_text().split()
        return int(words[words.index("nr_throttled") + 1])


def _above(pid: int) -> list[Path]:
    """The process's groups of the cpu controller, innermost first."""
    found: list[Path] = []
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in (Path("/sys/fs/cgroup") / controllers, Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")):
            inner = mount / name.lstrip("/")
            if (inner / "cgroup.procs").exists():
                found += [inner, *(path for path in inner.parents if path.is_relative_to(mount))]
                break
    return found


def _limited(path: Path) -> bool:
    if (path / "cpu.max").exists():
        return not (path / "cpu.max").read_text().startswith("max")
    quota = path / "cpu.cfs_quota_us"
    return quota.exists() and int(quota.read_text()) > 0


def cpu_seconds(pid: int) -> float:
    """What all threads of a process have used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100  # in units of USER_HZ


@pytest.mark.rule("R-G7-2")
def test_half_a_core_is_half_a_core_and_what_does_not_fit_is_refused(provider: Provider, tiny_image: Path) -> None:
    everything = len(cpu.read().online)
    classes = provider.root / "classes.yaml"
    classes.write_text(
        f"classes:\n- {{name: half, cpu: 500m, memory: 256Mi}}\n- {{name: all, cpu: {everything}, memory: 256Mi}}\n"
    )
    provider.start("--firmware", "bios", "--machine-classes", str(classes), "--cpu-overcommit", "1.0")
    machine_id = provider.create(spec(machine_class="half", image=tiny_image)).metadata.id

    big = spec(machine_class="all")
    big.power = pb.POWER_OFF
    with pytest.raises(grpc.RpcError) as caught:
        provider.create(big)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    free = everything - 0.5
    details = caught.value.details() or ""
    assert f"cpu: {everything} CPU" in details
    assert f"{free:g} CPU" in details
    assert quantities(provider) == {"half": 2 * everything, "all": 0}

    provider.wait_console(machine_id, "tiny: up")
    pid = provider.qemu_pid(machine_id)
    assert pid is not None
    group = Cgroup(pid)
    assert group.quota() == 0.5
    busy = 'while :; do :; done & echo bu""sy'
    type_line(provider.libvirt.uri, machine_id, busy, lambda: "busy" in provider.console(machine_id))
    # In this order a test that is held up itself sees less than there was, never more.
    begun, before = time.monotonic(), cpu_seconds(pid)
    wait_for("CPU time used", lambda: cpu_seconds(pid) - before >= ENOUGH, PATIENCE)
    used, took = cpu_seconds(pid) - before, time.monotonic() - begun
    assert used / took <= 0.55
    wait_for("the guest held up", group.throttled, PATIENCE)

    provider.delete(machine_id)
    wait_for("the machine gone", lambda: provider.get(machine_id) is None)
    assert quantities(provider) == {"half": 2 * everything, "all": 1}
    provider.create(big)


def test_the_report_knows_what_libvirt_and_qemu_of_this_host_offer(provider: Provider) -> None:
    provider.start()
    argv = [sys.executable, "-m", "sri_libvirt", "capacity", "-o", "json", "--state-dir", str(provider.state)]

    def virtualisation() -> dict[str, Any]:
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        return dict(json.loads(done.stdout)["host"]["virtualisation"])

    wait_for("libvirt's version", lambda: virtualisation()["libvirt"], PATIENCE)
    found = virtualisation()
    connection = libvirt.open(provider.libvirt.uri)
    try:
        versions = connection.getLibVersion(), connection.getVersion()
    finally:
        connection.close()
    assert (found["libvirt"], found["qemu"]) == tuple(offers.version(number) for number in versions)
    assert found["machine_type"] in found["machine_types"]
    assert all(Path(each["loader"]).is_file() for each in found["firmware"])


def quantities(provider: Provider) -> dict[str, int]:
    reply = provider.stub.Status(pb.StatusRequest(), timeout=10)
    return {each.machine_class.name: each.quantity for each in reply.machine_class_status}
