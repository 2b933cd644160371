"""Calls that hang, a libvirtd that is frozen, a virtlogd that is gone: what can go on goes on, the rest says why."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests.backends import daemon
from tests.contract.hung import serving
from tests.e2e.libvirtd import PrivateLibvirt
from tests.e2e.provider import Provider, spec, wait_for

pytestmark = pytest.mark.e2e

LATE = "16s"
"""Deadline of a start; three eighths of it for a plug or a look."""

PATIENCE = 90.0


@pytest.fixture
def frozen() -> Iterator[list[int]]:
    """Processes that are stopped; they go on at the end, whatever the test did."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def freeze(provider: Provider, machine_id: str, frozen: list[int]) -> None:
    pid = provider.qemu_pid(machine_id)
    assert pid is not None
    daemon.freeze(pid)
    frozen.append(pid)


def running(provider: Provider, name: str) -> str:
    machine_id = str(provider.create(spec(), name).metadata.id)
    provider.wait_state(machine_id, "MACHINE_RUNNING", PATIENCE)
    return machine_id


def attach(provider: Provider, machine_id: str) -> None:
    volume = pb.Volume(name="late", device="odb")
    volume.empty_disk.size_bytes = 1 << 20
    provider.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=volume), timeout=10)


def wait_reason(provider: Provider, machine_id: str, code: str) -> str:
    wait_for(f"reason {code}", lambda: code in provider.reasons(machine_id), PATIENCE)
    return next((each.message for each in provider.record(machine_id).reasons if each.code == code), "")


def volume_attached(provider: Provider, machine_id: str) -> bool:
    machine = provider.get(machine_id)
    return machine is not None and [each.state for each in machine.status.volumes] == [pb.VOLUME_ATTACHED]


def test_five_hung_qemus_hold_up_nobody_else_and_are_destroyed_or_come_back(
    provider: Provider, frozen: list[int]
) -> None:
    provider.start("--call-deadline", LATE, "--shutdown-grace", "1s")
    hung = [running(provider, f"hung-{number}") for number in range(5)]
    for machine_id in hung:
        freeze(provider, machine_id, frozen)
        attach(provider, machine_id)
    for machine_id in hung:
        wait_reason(provider, machine_id, "stuck-call")
    running(provider, "other")
    provider.power(hung[0], pb.POWER_OFF)
    provider.wait_state(hung[0], "MACHINE_SUSPENDED", PATIENCE)
    provider.delete(hung[1])
    wait_for("end of the machine", lambda: provider.get(hung[1]) is None, PATIENCE)
    for pid in frozen[2:]:
        os.kill(pid, signal.SIGCONT)
    for machine_id in hung[2:]:
        wait_for("late attach", lambda each=machine_id: volume_attached(provider, each), PATIENCE)  # type: ignore[misc]
        wait_for("no reason", lambda each=machine_id: not provider.reasons(each), PATIENCE)  # type: ignore[misc]
        assert "late" in {event.kind for event in provider.events(machine_id)}


@pytest.mark.parametrize("deleted", [False, True])
def test_a_guest_whose_qemu_hangs_ends_after_a_grace_of_a_second(
    provider: Provider, frozen: list[int], deleted: bool
) -> None:
    """libvirt 9 hangs in the press of its button; 11 in the look at it already, and then refuses looks (code 68)."""
    provider.start("--call-deadline", LATE, "--shutdown-grace", "1s")
    machine_id, other = running(provider, "m"), running(provider, "other")
    freeze(provider, machine_id, frozen)
    if deleted:
        provider.delete(machine_id)
        wait_for("end of the machine", lambda: provider.get(machine_id) is None, PATIENCE)
    else:
        provider.power(machine_id, pb.POWER_OFF)
        provider.wait_state(machine_id, "MACHINE_SUSPENDED", PATIENCE)
    assert provider.qemu_pid(machine_id) is None
    assert not provider.reasons(other)


def test_four_images_on_a_file_system_that_hangs_hold_up_nobody(provider: Provider) -> None:
    """Served by a FUSE server that is stopped: whoever opens or stats the image waits for it."""
    with serving(provider.root, provider.images / "remote.raw", provider.libvirt.inside) as hung:
        provider.start("--lanes", "2")
        stays = running(provider, "stays")
        hung.stop()
        waiting = []
        for number in range(4):
            wish = spec()
            wish.image.image = str(hung.path)
            waiting.append(str(provider.create(wish, f"waits-{number}").metadata.id))
        for machine_id in waiting:
            assert str(provider.images) in wait_reason(provider, machine_id, "slow-storage")
        running(provider, "new")
        provider.delete(stays)
        wait_for("end of the machine", lambda: provider.get(stays) is None, PATIENCE)
        provider.delete(waiting[0])
        wait_for("end of a machine that waits", lambda: provider.get(waiting[0]) is None, PATIENCE)


def test_a_frozen_libvirtd_reads_as_unreachable_and_nothing_is_lost(
    provider: Provider, private_libvirt: PrivateLibvirt, frozen: list[int]
) -> None:
    provider.start()
    machine_id, going = running(provider, "m"), running(provider, "going")
    pid = provider.qemu_pid(machine_id)
    libvirtd = private_libvirt.pid("libvirtd")
    assert libvirtd is not None
    daemon.freeze(libvirtd)
    frozen.append(libvirtd)
    provider.delete(going)
    wait_reason(provider, machine_id, "unreachable")
    wait_reason(provider, going, "unreachable")
    new = str(provider.create(spec(), "new").metadata.id)
    wait_reason(provider, new, "unreachable")
    assert provider.state_of(machine_id) == "MACHINE_RUNNING"
    os.kill(libvirtd, signal.SIGCONT)
    provider.wait_state(new, "MACHINE_RUNNING", PATIENCE)
    wait_for("end of the machine", lambda: provider.get(going) is None, PATIENCE)
    wait_for("no reason", lambda: not provider.reasons(machine_id), PATIENCE)
    assert provider.qemu_pid(machine_id) == pid, "the guest was not touched"


def test_without_virtlogd_new_starts_wait_and_say_so(provider: Provider, private_libvirt: PrivateLibvirt) -> None:
    provider.start()
    machine_id = running(provider, "m")
    private_libvirt.stop_virtlogd()
    new = str(provider.create(spec(), "new").metadata.id)
    message = wait_reason(provider, new, "start-failed")
    assert "virtlogd" in message
    assert provider.state_of(new) == "MACHINE_PENDING"
    assert provider.reasons(machine_id) == set(), "what runs is not concerned"
    private_libvirt.start()
    provider.wait_state(new, "MACHINE_RUNNING", PATIENCE)
