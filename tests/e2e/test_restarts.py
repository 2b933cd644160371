"""A provider or libvirtd that ends, at any moment, costs no guest, makes no second one and leaks nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial

import libvirt
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.records import StopCause
from tests.e2e.guests import boot_disk
from tests.e2e.libvirtd import PrivateLibvirt
from tests.e2e.provider import Provider, spec, type_line, wait_for

pytestmark = pytest.mark.e2e

PROMPT = 20.0
"""Seconds within which something is noticed by an event; the periodic look would take up to 60."""

by_order_or_crash = pytest.mark.parametrize("end", [Provider.stop, Provider.kill], ids=["terminated", "killed"])

End = Callable[[Provider], object]


def domains(provider: Provider) -> list[str]:
    connection = libvirt.open(provider.libvirt.uri)
    try:
        return [domain.UUIDString() for domain in connection.listAllDomains()]
    finally:
        connection.close()


def guests(provider: Provider) -> list[str]:
    """Machines that have a QEMU, by libvirtd's files of processes; one is libvirtd's own."""
    files = (provider.libvirt.base / "run" / "qemu").glob("*.pid")
    return [file.stem for file in files if file.stem != "driver"]


def expect_nothing_left(provider: Provider) -> None:
    """No domain, no process, no file of a machine."""
    wait_for("end of all machines", lambda: not provider.machines())
    assert domains(provider) == []
    assert list((provider.state / "machines").iterdir()) == []
    base = provider.libvirt.base
    for directory in ("lib/qemu/nvram", "lib/qemu/save"):
        assert not list((base / directory).glob("*")), directory
    assert guests(provider) == []
    wait_for("end of all secrets", lambda: not secrets(provider))  # what a crash left goes with the survey


def secrets(provider: Provider) -> list[str]:
    """Usage names of all secrets that libvirt has."""
    connection = libvirt.open(provider.libvirt.uri)
    try:
        return [each.usageID() for each in connection.listAllSecrets(0)]
    finally:
        connection.close()


def hypervisor_health(provider: Provider) -> int:
    """What grpc.health.v1 says of the hypervisor."""
    request = health_pb2.HealthCheckRequest(service="libvirt")
    status: int = health_pb2_grpc.HealthStub(provider.channel).Check(request, timeout=5).status
    return status


# The provider.


def accepted(provider: Provider, machine_id: str) -> bool:
    return True


def preparing(provider: Provider, machine_id: str) -> bool:
    return (provider.state / "machines" / machine_id).exists()


def defined(provider: Provider, machine_id: str) -> bool:
    return (provider.libvirt.base / "etc" / "qemu" / f"{machine_id}.xml").exists()


def launching(provider: Provider, machine_id: str) -> bool:
    return (provider.libvirt.base / "run" / "qemu" / f"{machine_id}.pid").exists()


@pytest.mark.parametrize("moment", [accepted, preparing, defined, launching])
@by_order_or_crash
def test_a_provider_that_ends_while_it_makes_a_machine_finishes_it_after_its_restart(
    provider: Provider, end: End, moment: Callable[[Provider, str], bool]
) -> None:
    provider.start("--firmware", "uefi")  # so that there is an NVRAM file to leak
    machine_id = provider.create(spec(disks={"data": "oda"}, nics={"alone": "isolated"})).metadata.id
    end_at = time.monotonic() + 60
    while not moment(provider, machine_id):
        assert time.monotonic() < end_at, moment.__name__
    end(provider)
    provider.start_again()
    provider.wait_state(machine_id, "MACHINE_RUNNING")
    assert domains(provider) == [machine_id]
    assert guests(provider) == [machine_id]
    machine = provider.get(machine_id)
    assert machine is not None
    assert [each.state for each in machine.status.volumes] == [pb.VOLUME_ATTACHED]
    assert [each.state for each in machine.status.network_interfaces] == [pb.NETWORK_INTERFACE_ATTACHED]
    with provider.domain(machine_id) as domain:
        domain.destroy()  # spares the grace time; deleted before its next start it must still be
    provider.delete(machine_id)
    expect_nothing_left(provider)


@by_order_or_crash
def test_a_guest_runs_on_through_a_restart_of_the_provider(provider: Provider, end: End) -> None:
    provider.start("--firmware", "bios", "--shutdown-grace", "0s")
    machine_id = provider.create(spec()).metadata.id
    provider.wait_state(machine_id, "MACHINE_RUNNING")
    before, pid = provider.record(machine_id), provider.qemu_pid(machine_id)
    assert pid
    end(provider)
    assert provider.qemu_pid(machine_id) == pid
    provider.start_again()
    wait_for("connection to libvirt", lambda: hypervisor_health(provider) == health_pb2.HealthCheckResponse.SERVING)
    assert provider.state_of(machine_id) == "MACHINE_RUNNING"
    provider.power(machine_id, pb.POWER_OFF)  # once this is carried out the machine was surely looked at
    provider.wait_state(machine_id, "MACHINE_SUSPENDED")
    after = provider.record(machine_id)
    assert (after.run.uuid, after.run.started_at) == (before.run.uuid, before.run.started_at)
    assert [event.reason for event in provider.events(machine_id) if event.kind == "started"] == ["booted"]
    provider.delete(machine_id)
    expect_nothing_left(provider)


@by_order_or_crash
def test_the_grace_of_a_power_off_runs_on_through_a_restart_of_the_provider(provider: Provider, end: End) -> None:
    provider.start("--firmware", "bios", "--shutdown-grace", "4s")
    machine_id = provider.create(spec()).metadata.id
    provider.wait_state(machine_id, "MACHINE_RUNNING")
    provider.power(machine_id, pb.POWER_OFF)
    pressed_at = wait_for("press of the button", lambda: provider.record(machine_id).run.pressed_at)
    end(provider)
    assert provider.qemu_pid(machine_id)
    provider.start_again()
    provider.wait_state(machine_id, "MACHINE_SUSPENDED")
    run = provider.record(machine_id).run
    assert run.pressed_at == pressed_at
    assert run.stopped is StopCause.REQUESTED
    assert run.stopped_at >= pressed_at + 4_000_000_000
    assert domains(provider) == [machine_id]


@pytest.mark.parametrize("pressed", [False, True], ids=["at-once", "button-pressed"])
@by_order_or_crash
def test_a_provider_that_ends_while_it_deletes_finishes_after_its_restart(
    provider: Provider, end: End, pressed: bool
) -> None:
    provider.start("--firmware", "uefi", "--shutdown-grace", "3s")
    machine_id = provider.create(spec(disks={"data": "oda"})).metadata.id
    provider.wait_state(machine_id, "MACHINE_RUNNING")
    provider.delete(machine_id)
    if pressed:
        wait_for("press of the button", lambda: provider.record(machine_id).run.pressed_at)
    end(provider)
    provider.start_again()
    expect_nothing_left(provider)


def test_sigterm_ends_the_provider_soon_and_in_order(provider: Provider) -> None:
    provider.start("--firmware", "bios")
    machine_id = provider.create(spec()).metadata.id
    provider.wait_state(machine_id, "MACHINE_RUNNING")
    pid = provider.qemu_pid(machine_id)
    begun = time.monotonic()
    assert provider.stop() == 0
    assert time.monotonic() - begun < 5
    assert not provider.socket.exists()
    assert provider.qemu_pid(machine_id) == pid
    assert "Traceback" not in provider.log()


def refused(provider: Provider, *options: str) -> str:
    """What a second provider says that must not start."""
    second = provider.libvirt.popen(
        provider.command(*options), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        said: str = second.communicate(timeout=30)[0]
    finally:
        second.kill()
        second.wait()
    assert second.returncode > 0
    assert "Traceback" not in said
    return said


def test_two_providers_share_neither_a_state_directory_nor_a_socket(provider: Provider) -> None:
    provider.start("--firmware", "bios")
    assert "another provider" in refused(provider, "--address", f"unix://{provider.root}/other.sock")
    assert str(provider.socket) in refused(provider, "--state-dir", str(provider.root / "other"))
    assert provider.machines() == []
    assert provider.socket.exists()


def test_a_socket_that_a_crash_left_behind_is_no_obstacle(provider: Provider) -> None:
    provider.start("--firmware", "bios")
    provider.kill()
    assert provider.socket.exists()
    provider.start_again()
    assert provider.machines() == []


# libvirtd.


def unreachable(provider: Provider, machine_id: str) -> bool:
    return provider.reasons(machine_id) == {"unreachable"}


def as_it_should_be(provider: Provider, machine_id: str) -> bool:
    return not provider.reasons(machine_id)


def test_a_provider_without_libvirtd_answers_and_starts_machines_once_it_comes(
    provider: Provider, private_libvirt: PrivateLibvirt
) -> None:
    provider.start("--firmware", "bios")
    off = spec()
    off.power = pb.POWER_OFF
    kept = provider.create(off).metadata.id  # an empty store would wait for libvirt
    provider.wait_state(kept, "MACHINE_SUSPENDED")
    provider.stop()
    private_libvirt.kill()
    provider.start("--firmware", "bios")
    assert [each.metadata.id for each in provider.machines()] == [kept]
    assert provider.stub.Status(pb.StatusRequest(), timeout=5).machine_class_status
    machine_id = provider.create(spec(disks={"data": "oda"})).metadata.id
    wait_for("the reason", lambda: unreachable(provider, machine_id))
    assert "ibvirt cannot be asked" in provider.why(machine_id)
    assert provider.state_of(machine_id) == "MACHINE_PENDING"
    assert hypervisor_health(provider) == health_pb2.HealthCheckResponse.NOT_SERVING
    gone = provider.create(spec()).metadata.id
    provider.delete(gone)
    private_libvirt.start()
    provider.wait_state(machine_id, "MACHINE_RUNNING")
    wait_for("end of the deleted machine", lambda: provider.get(gone) is None)
    wait_for("events of libvirt", lambda: hypervisor_health(provider) == health_pb2.HealthCheckResponse.SERVING)
    assert set(domains(provider)) - {kept} == {machine_id}


def test_a_crash_of_libvirtd_touches_no_guest_and_events_come_again_after_it(
    provider: Provider, private_libvirt: PrivateLibvirt
) -> None:
    provider.start("--firmware", "bios")
    ids = [provider.create(spec()).metadata.id for _ in range(2)]
    for machine_id in ids:
        provider.wait_state(machine_id, "MACHINE_RUNNING")
    pids = [provider.qemu_pid(machine_id) for machine_id in ids]
    private_libvirt.kill()
    wait_for("loss of libvirt", lambda: hypervisor_health(provider) == health_pb2.HealthCheckResponse.NOT_SERVING)
    for machine_id in ids:
        wait_for("the reason", partial(unreachable, provider, machine_id))
        assert provider.state_of(machine_id) == "MACHINE_RUNNING"  # unreachable is not gone
    private_libvirt.start()
    wait_for("reconnect", lambda: hypervisor_health(provider) == health_pb2.HealthCheckResponse.SERVING)
    for machine_id in ids:
        wait_for("another look", partial(as_it_should_be, provider, machine_id))
    assert [provider.qemu_pid(machine_id) for machine_id in ids] == pids
    assert sorted(domains(provider)) == sorted(ids)
    pid = pids[0]
    assert pid
    os.kill(pid, signal.SIGKILL)
    wait_for("notice of the stop", lambda: provider.record(ids[0]).run.stopped or provider.qemu_pid(ids[0]), PROMPT)
    wait_for("another run", lambda: provider.qemu_pid(ids[0]) not in (None, pid), PROMPT)
    assert provider.qemu_pid(ids[1]) == pids[1]


def test_a_power_off_after_a_restart_of_libvirtd_is_seen_by_its_event(
    provider: Provider, private_libvirt: PrivateLibvirt
) -> None:
    provider.start("--firmware", "bios")
    image = provider.images / "quick.raw"
    image.write_bytes(boot_disk())
    image.chmod(0o444)
    machine_id = provider.create(spec(image=image)).metadata.id
    provider.wait_state(machine_id, "MACHINE_RUNNING")
    type_line(provider.libvirt.uri, machine_id, "?", lambda: "u" in provider.console(machine_id))
    private_libvirt.kill()
    wait_for("loss of libvirt", lambda: hypervisor_health(provider) == health_pb2.HealthCheckResponse.NOT_SERVING)
    private_libvirt.start()
    wait_for("reconnect", lambda: hypervisor_health(provider) == health_pb2.HealthCheckResponse.SERVING)
    with provider.domain(machine_id) as domain:
        domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
    wait_for("end of the guest", lambda: not provider.domain_active(machine_id))
    provider.wait_state(machine_id, "MACHINE_SUSPENDED", PROMPT)
    assert provider.record(machine_id).run.stopped is StopCause.GUEST
