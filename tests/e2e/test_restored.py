"""A backup that is put back under real guests: they run on as they are, and what the store has lost leaves them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.records import LABEL_UID
from tests.e2e.provider import Provider, spec, wait_for

pytestmark = pytest.mark.e2e

MIB = 1 << 20


def store(provider: Provider, *argv: str) -> str:
    command = [sys.executable, "-m", "sri_libvirt", "store", *argv, "--state-dir", str(provider.state)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def attach(provider: Provider, machine_id: str, name: str, device: str) -> None:
    volume = pb.Volume(name=name, device=device, empty_disk=pb.EmptyDisk(size_bytes=64 * MIB))
    provider.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=volume), timeout=10)


def detach(provider: Provider, machine_id: str, name: str) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as error:
        provider.stub.DetachVolume(pb.DetachVolumeRequest(machine_id=machine_id, name=name), timeout=10)
    code: grpc.StatusCode = error.value.code()
    return code


def compare(provider: Provider, machine_id: str, uid: str) -> None:
    """What a poollet asks when it has nothing to change."""
    for asked in (pb.MachineFilter(label_selector={LABEL_UID: uid}), pb.MachineFilter(id=machine_id)):
        provider.stub.ListMachines(pb.ListMachinesRequest(filter=asked), timeout=10)


def test_guests_run_on_and_let_go_of_what_nobody_wants(provider: Provider, tiny_image: Path, tmp_path: Path) -> None:
    provider.start("--firmware", "bios", "--detach-settle", "0s")
    guest = provider.create(spec(image=tiny_image, disks={"first": "oda"}), "guest").metadata.id
    other = provider.create(spec(), "other").metadata
    provider.wait_console(guest, "tiny: up")
    provider.wait_state(other.id, "MACHINE_RUNNING")
    store(provider, "backup", str(tmp_path / "copy.sqlite"))
    for name, device in (("kept", "odb"), ("lost", "odc")):
        attach(provider, guest, name, device)
        provider.wait_console(guest, f"serial={device}-")
    with provider.domain(other.id) as domain:
        domain.destroy()
    provider.stop()
    pid = provider.qemu_pid(guest)
    said = len(provider.console(guest))

    store(provider, "restore", str(tmp_path / "copy.sqlite"))
    provider.witness.forget()
    provider.start_again()
    wait_for("the reasons", lambda: provider.reasons(guest) == provider.reasons(other.id) == {"restored"})
    wait_for("a look at the guest", lambda: provider.record(guest).run.strangers)
    assert detach(provider, guest, "lost") is grpc.StatusCode.UNAVAILABLE
    attach(provider, guest, "kept", "odb")
    assert provider.qemu_pid(other.id) is None, "it was started by a wish of the past"

    compare(provider, other.id, other.labels[LABEL_UID])
    provider.wait_state(other.id, "MACHINE_RUNNING")
    assert "gone" not in provider.console(guest)[said:]
    assert store(provider, "confirm", guest) == "1 machines are confirmed\n"
    wait_for("the lost disk's end", lambda: " gone" in provider.console(guest)[said:])
    wait_for("rest", lambda: provider.reasons(guest) == set())
    assert provider.console(guest)[said:].count(" gone") == 1
    assert "tiny: disk" not in provider.console(guest)[said:].replace("tiny: disk vdd gone", ""), "a disk was replugged"
    assert detach(provider, guest, "lost") is grpc.StatusCode.NOT_FOUND
    found = provider.get(guest)
    assert found is not None
    assert [(each.name, each.state) for each in found.status.volumes] == [
        ("first", pb.VOLUME_ATTACHED),
        ("kept", pb.VOLUME_ATTACHED),
    ]
    assert provider.qemu_pid(guest) == pid
