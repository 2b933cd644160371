"""Volumes that are wrong in themselves, told over a real socket by the drivers that the daemon has.

Each refusal names the key, holds no secret, and leaves nothing of the request.
"""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.hypervisor.fake import FakeHypervisor
from tests.contract.loop import Loop, serving_loop, spec_of
from tests.contract.refusal import refused

WRONG: dict[str, tuple[str, dict[str, bytes], str]] = {
    "no key": ("ceph", {"userID": b"guest"}, 'connection.secret_data["userKey"]: must be set'),
    "no user": ("ceph", {"userKey": b"QVFEbldBPT0="}, 'connection.secret_data["userID"]: must be set'),
    "no base64": (
        "ceph",
        {"userID": b"guest", "userKey": b"tops3cret!"},
        'connection.secret_data["userKey"]: is not base64 text',
    ),
    "unknown driver": ("floppy", {}, 'connection.driver: there is no volume driver for "floppy"; supported: block'),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
async def test_create(tmp_path: Path, name: str) -> None:
    spec = spec_of(disks=("first",))
    spec.volumes.append(wrong(name))
    async with serving_loop(tmp_path, FakeHypervisor()) as loop:
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, f"machine.spec.volumes[1].{words(name)}") as answer:
            await loop.create(spec)
        assert await loop.machines() == []
        assert loop.left_over() == ([], [])
        assert_no_trace(loop, answer.message)


@pytest.mark.parametrize("name", WRONG)
async def test_attach(tmp_path: Path, name: str) -> None:
    async with serving_loop(tmp_path, FakeHypervisor()) as loop:
        machine_id = await loop.created()
        before = await loop.machine(machine_id)
        request = pb.AttachVolumeRequest(machine_id=machine_id, volume=wrong(name))
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, f"volume.{words(name)}") as answer:
            await loop.stub.AttachVolume(request)
        after = await loop.machine(machine_id)
        assert (after.spec, after.metadata.generation) == (before.spec, before.metadata.generation)
        assert loop.stored(machine_id).attachments == ()
        assert_no_trace(loop, answer.message)


def wrong(name: str) -> pb.Volume:
    driver, secrets, _ = WRONG[name]
    connection = pb.VolumeConnection(driver=driver, handle="1", secret_data=secrets)
    connection.attributes.update(monitors="10.0.0.1:6789", image="vms/left")
    return pb.Volume(name="late", device="odb", connection=connection)


def words(name: str) -> str:
    return WRONG[name][2]


def assert_no_trace(loop: Loop, answer: str) -> None:
    """No file of the store holds anything of the volume; the answer holds no secret."""
    stored = b"".join(each.read_bytes() for each in loop.paths.store.iterdir() if each.is_file())
    assert not [each for each in (b"vms/left", b"tops3cret") if each in stored]
    assert "tops3cret" not in answer
