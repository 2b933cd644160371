"""Disks in use on real QEMU: what a guest meets when its storage has no room left, and when there is some again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests.e2e.provider import Provider, spec, type_line, wait_for

pytestmark = pytest.mark.e2e


class SmallFileSystem:
    """One of 8 MiB, in the private libvirt's namespaces."""

    def __init__(self, provider: Provider) -> None:
        self._run = provider.libvirt.run
        self._directory = provider.libvirt.directory("small")
        self._filler = self._directory / "filler"
        self._mounts = [self._directory]
        self._run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=711", "none", self._directory])

    def take(self, file: Path) -> None:
        """Let a file lie on it, where it was."""
        taken = self._directory / file.name
        self._run(["mv", file, taken])
        self._run(["touch", file])
        self._run(["mount", "--bind", taken, file])
        self._mounts.append(file)

    def fill(self) -> None:
        """Leave no room."""
        self._run(["sh", "-c", f"! dd if=/dev/zero of={self._filler} bs=64k 2>/dev/null"])

    def make_room(self) -> None:
        self._run(["rm", self._filler])

    def close(self) -> None:
        for each in reversed(self._mounts):
            self._run(["umount", "-l", each])


@contextmanager
def small_file_system(provider: Provider) -> Iterator[SmallFileSystem]:
    small = SmallFileSystem(provider)
    try:
        yield small
    finally:
        small.close()


def test_a_guest_without_room_on_a_disk_is_paused_with_a_reason_and_goes_on_when_there_is_some(
    provider: Provider, tiny_image: Path
) -> None:
    provider.start("--firmware", "bios")
    wish = spec(image=tiny_image, disks={"data": "oda"})
    wish.power = pb.POWER_OFF
    machine_id = provider.create(wish).metadata.id
    provider.wait_state(machine_id, "MACHINE_SUSPENDED")
    (disk,) = wait_for("the disk", lambda: list((provider.state / "machines" / machine_id).glob("empty-*.qcow2")))
    with small_file_system(provider) as small:
        small.take(disk)
        provider.power(machine_id, pb.POWER_ON)
        provider.wait_console(machine_id, "tiny: up")
        small.fill()
        write = "dd if=/dev/urandom of=/run/it bs=1M count=4; dd if=/run/it of=/dev/vdb conv=fsync && echo wri''tten"
        type_line(provider.libvirt.uri, machine_id, write, lambda: "io-error" in provider.reasons(machine_id))
        told = [event.message for event in provider.events(machine_id) if event.kind == "disk"]
        words = 'QEMU paused the guest at an I/O error of volume "data" (no space is left for it); it is resumed, '
        assert set(told) == {f"{words}after growing pauses"}
        provider.wait_state(machine_id, "MACHINE_PENDING")  # which it leaves for a moment at each try
        assert 'volume "data"' in provider.why(machine_id)
        small.make_room()
        provider.wait_console(machine_id, "written")
        provider.wait_state(machine_id, "MACHINE_RUNNING")
        wait_for("peace", lambda: not provider.reasons(machine_id))
        same = "cmp -n 4194304 /run/it /dev/vdb && echo sa''me"
        type_line(provider.libvirt.uri, machine_id, same, lambda: "same" in provider.console(machine_id))
        assert [event.kind for event in provider.events(machine_id)].count("started") == 1
        provider.delete(machine_id)
