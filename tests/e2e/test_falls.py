"""How a guest or its QEMU falls, halts or is saved on a bad day, on real libvirt and QEMU: each has its own word."""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
from pathlib import Path

import libvirt
import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.records import StopCause
from tests.e2e.libvirtd import PrivateLibvirt
from tests.e2e.provider import Provider, spec, type_line, wait_for
from tests.e2e.test_stops import booted_machine, expect_new_run, firmware_machine, starts

pytestmark = pytest.mark.e2e

SEIZE = 0x4206  # PTRACE_SEIZE

EJECT = "for s in /sys/bus/pci/slots/*; do [ $(cat $s/address) = 0000:02:00 ] && echo 0 > $s/power; done"
"""What a guest's root types to throw the device in root port 2 out."""


def tiny_machine(provider: Provider, image: Path, disks: dict[str, str] | None = None) -> str:
    """A machine whose Linux is up."""
    machine_id = provider.create(spec(image=image, disks=disks)).metadata.id
    provider.wait_console(machine_id, "tiny: up")
    return machine_id


@pytest.mark.parametrize("watched", [True, False], ids=["watched", "unwatched"])
def test_a_kernels_panic_is_told_as_such(provider: Provider, tiny_image: Path, watched: bool) -> None:
    provider.start("--firmware", "bios")
    machine_id = tiny_machine(provider, tiny_image)
    pid = provider.qemu_pid(machine_id)
    assert pid
    if not watched:
        provider.stop()
    panic = "echo c > /proc/sysrq-trigger"  # once the module of pvpanic is there, which the guest loads after "up"
    type_line(
        provider.libvirt.uri, machine_id, f"[ -e /sys/module/pvpanic_mmio ] && {panic}",
        lambda: provider.qemu_pid(machine_id) != pid,
    )  # fmt: skip
    if not watched:
        provider.start_again()
    expect_new_run(provider, machine_id, pid, StopCause.PANICKED)
    assert "Kernel panic" in provider.console(machine_id)


def test_a_qemu_that_gives_up_with_words_is_told_by_them(provider: Provider) -> None:
    provider.start("--firmware", "bios")
    machine_id, pid = firmware_machine(provider)
    words = "../hw/core/cpu.c:1: cpu_exec: Assertion `x' failed."
    with (provider.libvirt.log_dir / f"{machine_id}.log").open("a") as log:
        log.write(f"qemu-system-x86_64: {words}\n")  # where QEMU's own standard error goes
    os.kill(pid, signal.SIGABRT)
    expect_new_run(provider, machine_id, pid, StopCause.ABORTED)
    assert words in next(event.message for event in provider.events(machine_id) if event.kind == "stopped")


def test_an_oom_kill_is_told_by_the_kernels_word(provider: Provider, private_libvirt: PrivateLibvirt) -> None:
    # The private /dev lacks it.
    private_libvirt.run(["sh", "-c", "test -e /dev/kmsg || mknod -m 600 /dev/kmsg c 1 11"])
    if not private_libvirt.run(["sh", "-c", "timeout 1 dd if=/dev/kmsg bs=8192 count=1 2>/dev/null || true"]):
        pytest.skip("this kernel's log cannot be read")
    provider.start("--firmware", "bios")
    machine_id, pid = firmware_machine(provider)
    with provider.domain(machine_id) as domain:
        try:
            domain.setMemoryParameters({"hard_limit": resident_kib(pid) + (8 << 10)}, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        except libvirt.libvirtError as error:
            pytest.skip(f"no memory limits here: {error}")
        with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
            fill(pid, memory.fileno())
    expect_new_run(provider, machine_id, pid, StopCause.OUT_OF_MEMORY)


def resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def fill(pid: int, memory: int) -> None:
    """Write into the guest's memory as a busy guest would, until the kernel has had enough."""
    ranges = [line.split()[0].split("-") for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    start, end = max(((int(a, 16), int(b, 16)) for a, b in ranges), key=lambda pair: pair[1] - pair[0])
    for place in range(start, end, 4096):
        try:
            os.pwrite(memory, b"x", place)
        except OSError:
            return


def test_a_guest_that_has_halted_under_a_hung_qemu_has_a_reason_and_a_way_out(
    provider: Provider, private_libvirt: PrivateLibvirt
) -> None:
    provider.start("--firmware", "bios", "--shutdown-grace", "3s")
    machine_id, pid = booted_machine(provider)
    # Whoever traces it holds it at the first signal, which is libvirt's SIGTERM after the guest has halted.
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    assert ptrace(SEIZE, pid, None, None) == 0, os.strerror(ctypes.get_errno())
    type_line(provider.libvirt.uri, machine_id, "q", lambda: "halted" in provider.reasons(machine_id))
    assert "has halted" in provider.why(machine_id)
    assert provider.qemu_pid(machine_id) == pid
    assert provider.state_of(machine_id) == "MACHINE_RUNNING"

    def ended() -> bool:
        done, _ = os.waitpid(pid, os.WNOHANG | 0x40000000)  # __WALL; a traced process is its tracer's to bury
        return done == pid and not Path(f"/proc/{pid}/root").exists()

    provider.delete(machine_id)
    wait_for("end of QEMU", ended)
    wait_for("end of the machine", lambda: provider.get(machine_id) is None)


def test_a_guest_that_ejects_its_own_disk_gets_it_back_ever_more_slowly(provider: Provider, tiny_image: Path) -> None:
    provider.start("--firmware", "bios")
    machine_id = tiny_machine(provider, tiny_image, disks={"data": "oda"})
    uri = provider.libvirt.uri
    script = f"(while :; do {EJECT}; done) 2>/dev/null &"
    type_line(uri, machine_id, script, lambda: "device-ejected" in provider.reasons(machine_id))

    def plugs() -> int:
        return next(row.plugs for row in provider.record(machine_id).attachments if row.name == "data")

    wait_for("five plugs in a row", lambda: plugs() >= 5)
    plugged = [event for event in provider.events(machine_id) if event.reason == "attached"]
    gaps = [b.time - a.time for a, b in itertools.pairwise(plugged)]
    assert all(later > earlier for earlier, later in itertools.pairwise(gaps[1:])), gaps

    def waits() -> bool:
        machine = provider.get(machine_id)
        assert machine is not None
        pending = machine.status.volumes[0].state == pb.VOLUME_PENDING
        return pending and "device-ejected" in provider.reasons(machine_id)

    wait_for("it PENDING with its reason", waits)


def test_a_restore_that_fails_while_virtlogd_is_away_is_made_up_for(
    provider: Provider, private_libvirt: PrivateLibvirt, tiny_image: Path
) -> None:
    provider.start("--firmware", "bios")
    machine_id = tiny_machine(provider, tiny_image)
    pid = provider.qemu_pid(machine_id)
    assert pid
    private_libvirt.stop_virtlogd()
    with provider.domain(machine_id) as domain:
        domain.managedSave(0)
    # Between two tries; during one it is "starting".
    wait_for("a restore that fails, and what to do", lambda: "power OFF and ON" in provider.why(machine_id))
    private_libvirt.start()
    expect_new_run(provider, machine_id, pid, StopCause.SAVED)
    assert starts(provider, machine_id) == ["booted", "restored"]
    assert provider.console(machine_id).count("tiny: up") == 1
    wait_for("word of the clock", lambda: "clock-behind" in [event.reason for event in provider.events(machine_id)])


@pytest.mark.parametrize("damage", ["no save at all", "cut"])
def test_a_save_that_is_unusable_is_dropped_and_that_is_told(
    provider: Provider, private_libvirt: PrivateLibvirt, damage: str
) -> None:
    provider.start("--firmware", "bios")
    machine_id, pid = firmware_machine(provider)
    provider.stop()
    with provider.domain(machine_id) as domain:
        domain.managedSave(0)
    file = private_libvirt.base / "lib" / "qemu" / "save" / f"{machine_id}.save"
    whole = file.read_bytes()
    file.write_bytes(b"x" * len(whole) if damage == "no save at all" else whole[: len(whole) // 2])
    provider.start_again()
    expect_new_run(provider, machine_id, pid, StopCause.SAVED)
    assert starts(provider, machine_id) == ["booted", "booted"]
    why = {event.reason for event in provider.events(machine_id) if event.kind == "save-dropped"}
    assert why in ({"unusable"}, {"incomplete"})  # libvirt 11 drops by itself what is none


def test_power_off_and_on_gives_up_a_save_that_cannot_be_restored(
    provider: Provider, private_libvirt: PrivateLibvirt
) -> None:
    provider.start("--firmware", "bios")
    machine_id, pid = firmware_machine(provider)
    private_libvirt.stop_virtlogd()
    with provider.domain(machine_id) as domain:
        domain.managedSave(0)
    wait_for("a restore that fails", lambda: "restore-failed" in provider.reasons(machine_id))
    provider.power(machine_id, pb.POWER_OFF)
    provider.wait_state(machine_id, "MACHINE_SUSPENDED")
    provider.power(machine_id, pb.POWER_ON)
    private_libvirt.start()
    expect_new_run(provider, machine_id, pid, StopCause.SAVED)
    assert starts(provider, machine_id) == ["booted", "booted"]
    assert ("save-dropped", "spec-changed") in [(event.kind, event.reason) for event in provider.events(machine_id)]
