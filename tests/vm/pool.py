"""Machines that several tests share: a guest's boot takes half a minute on a machine that is itself emulated.

A test that ends one of them, or changes it for good, makes one of its own instead.
"""

from __future__ import annotations

from tests.vm.service import Service, spec

IGNITION = b'{"ignition": {"version": "3.4.0"}, "secret": "open-sesame"}\n'
ADDRESS = "192.168.77.7"
"""Outside what the network gives to whoever asks."""

CLOUD_CONFIG = b"#cloud-config\nhostname: half\n"


class Pool:
    """Makes each machine when it is first asked for, and waits until its guest is up."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._made: dict[str, str] = {}

    def tiny(self) -> str:
        """A guest of one CPU with overlay, empty disk, ignition data and a NIC, whose address is `ADDRESS`."""
        return self._up("tiny", disks=["oda"], nics=["first"], ips=[ADDRESS], ignition=IGNITION)

    def half(self) -> str:
        """A guest of half a CPU, with a seed."""
        return self._up("half", ignition=CLOUD_CONFIG)

    def uefi(self) -> list[str]:
        """A guest whose firmware keeps variables in a file; none where the machine itself is emulated.

        QEMU's emulation of AMD-V ends by a failed assertion (tcg_handle_interrupt, seen in 7.2) when a guest of KVM
        writes to CR8, as UEFI does in each of its interrupts.
        """
        return [] if self._service.vm.is_emulated() else [self._up("uefi")]

    def _up(self, name: str, **parts: object) -> str:
        if name not in self._made:
            self._made[name] = self._service.create(name, spec(name, **parts))  # type: ignore[arg-type]
        machine = self._made[name]
        self._service.wait_line(machine, "up")
        self._service.wait_state(machine, "MACHINE_RUNNING")
        return machine
