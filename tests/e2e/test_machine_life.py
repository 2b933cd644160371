"""From CreateMachine to the guest's own words and back to nothing, on real libvirt and QEMU."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import grpc
import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests.e2e.provider import Provider, spec, type_line, wait_for

pytestmark = pytest.mark.e2e


def facts(lines: list[str]) -> dict[str, str]:
    """The latest of each fact that the guest told: `disk vda` -> `serial=… size=…`."""
    found: dict[str, str] = {}
    for line in lines:
        match = re.match(r"tiny: ((?:disk|nic|pci) \S+|ignition|seed) (.*)", line)
        if match:
            found[match[1]] = match[2]
    return found


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
@pytest.mark.rule("R-A5-5", "R-G12-6")
def test_a_machine_lives_and_leaves_nothing(provider: Provider, tiny_image: Path, network: str, firmware: str) -> None:
    provider.start("--firmware", firmware)
    ignition = b'{"ignition": {"version": "3.0.0"}}'
    wanted = spec(image=tiny_image, ignition=ignition, disks={"data": "oda"}, nics={"main": f"network://{network}"})
    created = provider.create(wanted)
    machine_id = created.metadata.id
    assert created.spec == wanted
    provider.wait_state(machine_id, "MACHINE_RUNNING")
    lines = provider.wait_console(machine_id, "tiny: up")
    told = facts(lines)
    assert told["ignition"] == f"sha256={hashlib.sha256(ignition).hexdigest()}"
    assert re.match(r"serial=image size=", told["disk vda"])
    assert re.match(r"serial=oda-[0-9a-f]{15} size=67108864", told["disk vdb"])
    machine = provider.get(machine_id)
    assert machine is not None
    assert [volume.state for volume in machine.status.volumes] == [pb.VOLUME_ATTACHED]
    assert [nic.state for nic in machine.status.network_interfaces] == [pb.NETWORK_INTERFACE_ATTACHED]
    assert machine.status.network_interfaces[0].handle
    provider.wait_console(machine_id, " ip=")

    provider.power(machine_id, pb.POWER_OFF)
    provider.wait_state(machine_id, "MACHINE_SUSPENDED")
    assert "tiny: power button" in provider.console(machine_id)
    provider.power(machine_id, pb.POWER_ON)
    provider.wait_console(machine_id, "tiny: up", count=2)

    provider.delete(machine_id)
    provider.delete(machine_id)
    wait_for("end of the machine", lambda: not provider.machines())
    assert list((provider.state / "machines").iterdir()) == []
    assert machine_id not in provider.libvirt.run(["virsh", "-c", "qemu:///system", "list", "--all", "--uuid"])
    with pytest.raises(grpc.RpcError) as refused:
        provider.delete(machine_id)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("user_data", [b"#cloud-config\nhostname: tiny\n", b"\x1f\x8b\b\0"], ids=["config", "gzip"])
def test_user_data_comes_as_a_nocloud_seed(provider: Provider, tiny_image: Path, user_data: bytes) -> None:
    provider.start("--firmware", "bios")
    machine_id = provider.create(spec(image=tiny_image, ignition=user_data, disks={"data": "oda"})).metadata.id
    lines = provider.wait_console(machine_id, "tiny: up")
    told = facts(lines)
    assert told["seed"] == f"sha256={hashlib.sha256(user_data).hexdigest()}"
    assert "ignition" not in told
    assert told["disk vdb"].startswith("serial=oda-")  # the seed shifts no disk's name
    assert told["disk vdc"].startswith("serial=seed")


def test_firmware_alone_runs_and_an_isolated_nic_is_a_link(provider: Provider) -> None:
    provider.start("--firmware", "bios")
    machine_id = provider.create(spec(nics={"alone": "isolated"})).metadata.id
    provider.wait_state(machine_id, "MACHINE_RUNNING")
    machine = provider.get(machine_id)
    assert machine is not None
    assert [nic.state for nic in machine.status.network_interfaces] == [pb.NETWORK_INTERFACE_ATTACHED]


def test_a_disk_in_which_nothing_is_known_runs_and_is_told_of(provider: Provider) -> None:
    provider.start("--firmware", "bios")
    blank = provider.images / "blank.raw"
    blank.write_bytes(bytes(1 << 20))
    blank.chmod(0o444)
    machine_id = provider.create(spec(image=blank)).metadata.id
    provider.wait_state(machine_id, "MACHINE_RUNNING")
    wait_for(
        "the note", lambda: "It is as it should be.\nNote: the image: nothing that boots" in provider.why(machine_id)
    )


def test_a_machine_starts_from_a_restored_image_whose_link_has_moved_on(provider: Provider, tiny_image: Path) -> None:
    provider.start("--firmware", "bios")
    link, file = provider.images / "latest.raw", provider.images / "one.raw"
    shutil.copy2(tiny_image, file)
    link.symlink_to(file.name)
    machine_id = provider.create(spec(image=link)).metadata.id
    provider.wait_console(machine_id, "tiny: up")
    provider.power(machine_id, pb.POWER_OFF)
    provider.wait_state(machine_id, "MACHINE_SUSPENDED")
    link.unlink()
    link.symlink_to("two.raw")
    shutil.copy2(file, provider.images / "restored.raw")
    (provider.images / "restored.raw").rename(file)
    provider.power(machine_id, pb.POWER_ON)
    provider.wait_state(machine_id, "MACHINE_RUNNING")


def test_a_machine_waits_for_its_image_and_refuses_a_changed_one(provider: Provider, tiny_image: Path) -> None:
    provider.start("--firmware", "bios")
    late = provider.images / "late.raw"
    machine_id = provider.create(spec(image=late)).metadata.id
    wait_for("the reason", lambda: str(late) in provider.why(machine_id))
    assert provider.state_of(machine_id) == "MACHINE_PENDING"
    partial = late.with_suffix(".part")
    partial.write_bytes(tiny_image.read_bytes())
    partial.chmod(0o444)
    partial.rename(late)
    provider.wait_console(machine_id, "tiny: up")
    assert late.stat().st_uid == 0
    assert late.stat().st_mode & 0o777 == 0o444
    provider.power(machine_id, pb.POWER_OFF)
    provider.wait_state(machine_id, "MACHINE_SUSPENDED")
    late.chmod(0o644)
    with late.open("r+b") as image:
        image.seek(0, 2)
        image.write(b"\0" * 512)
    provider.power(machine_id, pb.POWER_ON)
    wait_for("the reason", lambda: "not the file any more" in provider.why(machine_id))
    assert provider.state_of(machine_id) == "MACHINE_PENDING"


def test_a_guest_that_ignores_the_button_is_destroyed_after_its_grace(provider: Provider, tiny_image: Path) -> None:
    provider.start("--firmware", "bios", "--shutdown-grace", "3s")
    machine_id = provider.create(spec(image=tiny_image, ignition=b'{"tiny.deaf-button": 1}')).metadata.id
    provider.wait_console(machine_id, "tiny: up")
    provider.delete(machine_id)
    machine = provider.get(machine_id)
    assert machine is not None
    assert machine.metadata.deleted_at > 0
    wait_for("end of the machine", lambda: not provider.machines())
    assert "tiny: power button" not in provider.log()


def test_a_guest_that_powers_itself_off_stays_off_until_power_goes_off_and_on(
    provider: Provider, tiny_image: Path
) -> None:
    provider.start("--firmware", "bios")
    machine_id = provider.create(spec(image=tiny_image)).metadata.id
    provider.wait_console(machine_id, "tiny: up")
    type_line(
        provider.libvirt.uri, machine_id, "poweroff -f", lambda: provider.state_of(machine_id) == "MACHINE_SUSPENDED"
    )
    assert "powered itself off" in provider.why(machine_id)
    provider.stop()
    provider.start("--firmware", "bios")
    provider.wait_state(machine_id, "MACHINE_SUSPENDED")
    provider.power(machine_id, pb.POWER_OFF)
    provider.power(machine_id, pb.POWER_ON)
    provider.wait_console(machine_id, "tiny: up", count=2)
