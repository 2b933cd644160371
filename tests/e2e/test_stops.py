"""Who stopped the guest decides what becomes of it (contract G.5): a test each, on real libvirt and QEMU.

Watched: the provider saw it happen. Unwatched: it did not run, and finds a guest that is off.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import libvirt
import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.paths import StatePaths
from sri_libvirt.reconcile.boots import META_BOOTS
from sri_libvirt.records import SECOND, StopCause
from sri_libvirt.store import Store
from tests.e2e.guests import boot_disk
from tests.e2e.libvirtd import PrivateLibvirt
from tests.e2e.provider import Provider, spec, type_line, wait_for

pytestmark = pytest.mark.e2e

BOOT_ID = "/proc/sys/kernel/random/boot_id"

watched_or_not = pytest.mark.parametrize("watched", [True, False], ids=["watched", "unwatched"])


@contextmanager
def provider_away(provider: Provider, machine_id: str, watched: bool) -> Iterator[None]:
    """Unless `watched`, the provider does not run meanwhile, and comes back to a guest that is off."""
    if not watched:
        assert provider.stop() == 0
    yield
    if not watched:
        wait_for("end of the guest", lambda: not provider.domain_active(machine_id))
        provider.start_again()


def firmware_machine(provider: Provider) -> tuple[str, int]:
    """A running machine without a disk, which is up at once and deaf to its power button; its id and QEMU's pid."""
    machine_id = provider.create(spec()).metadata.id
    provider.wait_state(machine_id, "MACHINE_RUNNING")
    pid = provider.qemu_pid(machine_id)
    assert pid
    return machine_id, pid


def booted_machine(provider: Provider, *, deaf: bool = False) -> tuple[str, int]:
    """A running machine whose guest hears its power button, unless it is `deaf`; its id and QEMU's pid."""
    image = provider.images / f"{uuid.uuid4()}.raw"
    image.write_bytes(boot_disk(deaf=deaf))
    image.chmod(0o444)
    machine_id = provider.create(spec(image=image)).metadata.id
    provider.wait_state(machine_id, "MACHINE_RUNNING")
    type_line(provider.libvirt.uri, machine_id, "?", lambda: "u" in provider.console(machine_id))
    pid = provider.qemu_pid(machine_id)
    assert pid
    return machine_id, pid


def causes(provider: Provider, machine_id: str) -> list[str]:
    """Why its guest stopped, each time."""
    return [event.reason for event in provider.events(machine_id) if event.kind == "stopped"]


def starts(provider: Provider, machine_id: str) -> list[str]:
    """How its guest was started, each time: booted or restored."""
    return [event.reason for event in provider.events(machine_id) if event.kind == "started"]


def expect_new_run(provider: Provider, machine_id: str, old_pid: int, *expected: StopCause) -> None:
    """It runs again, in another QEMU; its stops were told as expected."""
    wait_for("another start", lambda: len(starts(provider, machine_id)) == 2)
    provider.wait_state(machine_id, "MACHINE_RUNNING")
    assert provider.qemu_pid(machine_id) not in (None, old_pid)
    assert causes(provider, machine_id) == list(expected)
    wait_for("peace", lambda: not provider.reasons(machine_id))


def expect_left_off(provider: Provider, machine_id: str) -> None:
    """It stays off, being known to have powered itself off, and comes up when its power goes OFF and ON."""
    provider.wait_state(machine_id, "MACHINE_SUSPENDED")
    assert causes(provider, machine_id) == [StopCause.GUEST]
    assert provider.reasons(machine_id) == {"guest-powered-off"}
    provider.power(machine_id, pb.POWER_OFF)
    provider.power(machine_id, pb.POWER_ON)
    provider.wait_state(machine_id, "MACHINE_RUNNING")


def power_off_from_within(provider: Provider, machine_id: str) -> None:
    """The guest powers itself off, as its own operator wants it to."""
    pid = provider.qemu_pid(machine_id)
    type_line(provider.libvirt.uri, machine_id, "q", lambda: provider.qemu_pid(machine_id) != pid)


# The guest itself.


@watched_or_not
def test_a_guest_that_powers_itself_off_is_left_off(provider: Provider, watched: bool) -> None:
    provider.start("--firmware", "bios")
    machine_id, _ = booted_machine(provider)
    with provider_away(provider, machine_id, watched):
        power_off_from_within(provider, machine_id)
    expect_left_off(provider, machine_id)


@watched_or_not
def test_a_guest_that_powers_itself_off_is_started_again_where_that_is_asked_for(
    provider: Provider, watched: bool
) -> None:
    provider.start("--firmware", "bios", "--on-guest-poweroff", "restart")
    machine_id, pid = booted_machine(provider)
    with provider_away(provider, machine_id, watched):
        power_off_from_within(provider, machine_id)
    expect_new_run(provider, machine_id, pid, StopCause.GUEST)


@watched_or_not
def test_a_guest_whose_domain_was_undefined_is_left_off_after_its_own_power_off(
    provider: Provider, watched: bool
) -> None:
    provider.start("--firmware", "bios")
    machine_id, _ = booted_machine(provider)
    with provider_away(provider, machine_id, watched):
        with provider.domain(machine_id) as domain:
            domain.undefine()
        power_off_from_within(provider, machine_id)
    expect_left_off(provider, machine_id)


# Blows from outside.


@watched_or_not
def test_a_guest_whose_qemu_is_killed_is_started_again(provider: Provider, watched: bool) -> None:
    provider.start("--firmware", "bios")
    machine_id, pid = firmware_machine(provider)
    with provider_away(provider, machine_id, watched):
        os.kill(pid, signal.SIGKILL)
    expect_new_run(provider, machine_id, pid, StopCause.KILLED)


@watched_or_not
def test_a_guest_whose_qemu_is_terminated_is_started_again(provider: Provider, watched: bool) -> None:
    provider.start("--firmware", "bios")
    machine_id, pid = firmware_machine(provider)
    with provider_away(provider, machine_id, watched):
        os.kill(pid, signal.SIGTERM)
    expect_new_run(provider, machine_id, pid, StopCause.HOST)


@watched_or_not
def test_a_guest_that_an_operator_destroys_is_started_again(provider: Provider, watched: bool) -> None:
    provider.start("--firmware", "bios")
    machine_id, pid = firmware_machine(provider)
    with provider_away(provider, machine_id, watched), provider.domain(machine_id) as domain:
        domain.destroy()
    expect_new_run(provider, machine_id, pid, StopCause.DESTROYED)


@watched_or_not
def test_a_guest_that_an_operator_suspends_is_left_alone(provider: Provider, watched: bool) -> None:
    provider.start("--firmware", "bios")
    machine_id, pid = firmware_machine(provider)
    if not watched:
        provider.stop()
    with provider.domain(machine_id) as domain:
        domain.suspend()
    if not watched:
        provider.start_again()
    provider.wait_state(machine_id, "MACHINE_PENDING")
    assert provider.reasons(machine_id) == {"paused"}
    with provider.domain(machine_id) as domain:
        assert domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED
        domain.resume()
    provider.wait_state(machine_id, "MACHINE_RUNNING")
    assert provider.qemu_pid(machine_id) == pid
    assert starts(provider, machine_id) == ["booted"]


@pytest.mark.parametrize("deleted", [False, True], ids=["powered-off", "deleted"])
def test_a_guest_that_an_operator_suspended_ends_after_its_grace_time(provider: Provider, deleted: bool) -> None:
    provider.start("--firmware", "bios", "--shutdown-grace", "1s")
    machine_id, _ = firmware_machine(provider)
    with provider.domain(machine_id) as domain:
        domain.suspend()
    if deleted:
        provider.delete(machine_id)
        wait_for("end of the machine", lambda: provider.get(machine_id) is None)
    else:
        provider.power(machine_id, pb.POWER_OFF)
        provider.wait_state(machine_id, "MACHINE_SUSPENDED")
    assert causes(provider, machine_id) == [StopCause.REQUESTED]
    assert "failed" not in [event.kind for event in provider.events(machine_id)]


# Managed saves.


def test_a_managed_save_is_restored(provider: Provider, tiny_image: Path) -> None:
    provider.start("--firmware", "bios")
    machine_id = provider.create(spec(image=tiny_image)).metadata.id
    provider.wait_console(machine_id, "tiny: up")
    old = provider.qemu_pid(machine_id)
    assert old
    with provider.domain(machine_id) as domain:
        domain.managedSave(0)
    expect_new_run(provider, machine_id, old, StopCause.SAVED)
    assert starts(provider, machine_id) == ["booted", "restored"]
    deaf = "tiny: deaf to the power button"
    type_line(provider.libvirt.uri, machine_id, "deaf-button", lambda: deaf in provider.console(machine_id))
    assert provider.console(machine_id).count("tiny: up") == 1


def test_a_managed_save_that_nobody_watched_is_restored(provider: Provider) -> None:
    provider.start("--firmware", "bios")
    machine_id, pid = firmware_machine(provider)
    with provider_away(provider, machine_id, watched=False), provider.domain(machine_id) as domain:
        domain.managedSave(0)
    expect_new_run(provider, machine_id, pid, StopCause.SAVED)
    assert starts(provider, machine_id) == ["booted", "restored"]


def test_the_clock_of_a_guest_that_was_saved_and_restored_while_the_provider_was_away_is_told_of(
    provider: Provider, tiny_image: Path
) -> None:
    provider.start("--firmware", "bios")
    machine_id = provider.create(spec(image=tiny_image)).metadata.id
    provider.wait_console(machine_id, "tiny: up")
    assert provider.stop() == 0
    with provider.domain(machine_id) as domain:
        domain.managedSave(0)
        domain.create()
    provider.start_again()
    wait_for("word of the clock", lambda: "clock-behind" in [event.reason for event in provider.events(machine_id)])
    assert starts(provider, machine_id) == ["booted"]
    provider.wait_state(machine_id, "MACHINE_RUNNING")


def test_a_managed_save_is_dropped_when_the_machine_was_changed_since(
    provider: Provider, private_libvirt: PrivateLibvirt
) -> None:
    provider.start("--firmware", "bios")
    machine_id, pid = firmware_machine(provider)
    provider.stop()
    with provider.domain(machine_id) as domain:
        domain.managedSave(0)
    private_libvirt.kill()  # so that the change comes before the provider can restore
    provider.start_again()
    volume = pb.Volume(name="late", device="oda", empty_disk=pb.EmptyDisk(size_bytes=64 << 20))
    provider.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=volume))
    private_libvirt.start()
    expect_new_run(provider, machine_id, pid, StopCause.SAVED)
    assert starts(provider, machine_id) == ["booted", "booted"]
    assert "save-dropped" in [event.kind for event in provider.events(machine_id)]
    machine = provider.get(machine_id)
    assert machine is not None
    assert [each.state for each in machine.status.volumes] == [pb.VOLUME_ATTACHED]


# Power that changes its mind.


def test_power_off_and_on_before_the_guest_has_halted_ends_in_a_running_guest(provider: Provider) -> None:
    provider.start("--firmware", "bios")
    machine_id, pid = booted_machine(provider)
    power_off_and_on(provider, machine_id)
    expect_new_run(provider, machine_id, pid, StopCause.REQUESTED)


@watched_or_not
def test_a_deaf_guest_whose_power_went_off_and_on_runs_on_and_is_started_after_it_halts(
    provider: Provider, watched: bool
) -> None:
    provider.start("--firmware", "bios")
    machine_id, pid = booted_machine(provider, deaf=True)
    power_off_and_on(provider, machine_id)
    wait_for("peace", lambda: not provider.reasons(machine_id))
    assert provider.state_of(machine_id) == "MACHINE_RUNNING"
    assert provider.qemu_pid(machine_id) == pid
    with provider_away(provider, machine_id, watched):
        power_off_from_within(provider, machine_id)
    expect_new_run(provider, machine_id, pid, StopCause.REQUESTED)


def power_off_and_on(provider: Provider, machine_id: str) -> None:
    """Off until the button is pressed, then on again."""
    provider.power(machine_id, pb.POWER_OFF)
    wait_for("press of the button", lambda: provider.record(machine_id).run.pressed_at or causes(provider, machine_id))
    provider.power(machine_id, pb.POWER_ON)


# libvirtd and the host.


def press_by_monitor(private: PrivateLibvirt, machine_id: str) -> None:
    """Press the power button past a libvirtd that is dead, and return once the guest has powered off."""
    (monitor,) = (private.base / "lib" / "qemu").glob(f"domain-*-{machine_id[:20]}*/monitor.sock")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(monitor))
        lines = connection.makefile("rw")
        for command in ("qmp_capabilities", "system_powerdown"):
            lines.write(json.dumps({"execute": command}) + "\n")
            lines.flush()
        assert any(json.loads(line).get("event") == "SHUTDOWN" for line in lines)


@watched_or_not
def test_a_guest_that_powered_itself_off_while_libvirtd_was_dead_is_left_off(
    provider: Provider, private_libvirt: PrivateLibvirt, watched: bool
) -> None:
    provider.start("--firmware", "bios")
    machine_id, _ = booted_machine(provider)
    if not watched:
        provider.stop()
    private_libvirt.kill()
    press_by_monitor(private_libvirt, machine_id)
    private_libvirt.start()
    if not watched:
        wait_for("end of the guest", lambda: not provider.domain_active(machine_id))
        provider.start_again()
    expect_left_off(provider, machine_id)


@contextmanager
def rebooted_host(private: PrivateLibvirt, *machine_ids: str) -> Iterator[None]:
    """The host after a power failure: guests are gone without a word, /run is empty, the kernel's boot id is new."""
    private.kill()
    for machine_id in machine_ids:
        with suppress(FileNotFoundError):
            os.kill(int((private.base / "run" / "qemu" / f"{machine_id}.pid").read_text()), signal.SIGKILL)
        for file in (private.base / "run" / "qemu").glob(f"{machine_id}.*"):
            file.unlink()
    boot_id = private.base / "boot_id"
    boot_id.write_text(f"{uuid.uuid4()}\n")
    private.run(["mount", "--bind", boot_id, BOOT_ID])
    try:
        private.start()
        yield
    finally:
        private.run(["umount", BOOT_ID])


def host_went_on(provider: Provider, machine_id: str) -> None:
    """Let ten minutes lie between a stop and the end of its boot: nobody here can tell whether the host goes down."""
    run = provider.record(machine_id).run
    store = Store.open(StatePaths(provider.state))
    ended = json.dumps({run.boot_id: run.stopped_at + 600 * SECOND})
    store.write(lambda tx: tx.set_meta(META_BOOTS, ended))
    store.close()


def test_a_host_boot_starts_what_ran_and_leaves_off_what_had_powered_itself_off(
    provider: Provider, private_libvirt: PrivateLibvirt
) -> None:
    provider.start("--firmware", "bios")
    ran, pid = firmware_machine(provider)
    off, _ = booted_machine(provider)
    power_off_from_within(provider, off)
    provider.wait_state(off, "MACHINE_SUSPENDED")
    provider.kill()
    host_went_on(provider, off)
    with rebooted_host(private_libvirt, ran):
        provider.start_again()
        expect_new_run(provider, ran, pid, StopCause.HOST)
        assert provider.record(ran).run.failures == 0
        assert provider.record(off).run.boot_id != provider.record(ran).run.boot_id
        expect_left_off(provider, off)
