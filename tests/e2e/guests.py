"""Tiny guests for tests of the hypervisor: boot sectors that stop themselves when told to, and their domain XML.

Real guests with an operating system are built in tests/guest.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from pathlib import Path

_CODE = bytes.fromhex(
    "fa"  # cli
    "ba0206 b80001 ef"  # out 0x602, 0x0100: enable the power button (ACPI PM1 enable register, as SeaBIOS places it)
    "ba0006 ed f6c401 751d"  # again: in ax, 0x600; test ah, 1; jnz off: was the button pressed?
    "bafd03 ec a801 74ef"  # in al, COM1 line status; test al, 1; jz again
    "baf803 ec 3c71 740d"  # in al, COM1; cmp al, 'q'; je off
    "3c70 7412 3c73 7416"  # cmp al, 'p'; je panic; cmp al, 's'; je sleep
    "b075 ee ebda"  # out COM1, 'u': up; jmp again
    "ba0406 b80020 ef ebd1"  # off: out 0x604, 0x2000: ACPI S5; jmp again
    "ba0505 b001 ee ebc9"  # panic: out 0x505, 1: what a kernel that panics tells pvpanic; jmp again
    "ba0406 b80024 ef ebc0"  # sleep: out 0x604, 0x2400: ACPI S3; jmp again
)
_DEAF = _CODE.replace(bytes.fromhex("b80001"), bytes.fromhex("b80000"))


def boot_disk(*, deaf: bool = False) -> bytes:
    """A guest's whole disk, for BIOS: it is up in a second. A deaf one does not hear the power button."""
    sector = (_DEAF if deaf else _CODE).ljust(510, b"\0") + b"\x55\xaa"
    return sector.ljust(1 << 20, b"\0")  # the firmware boots from no smaller disk


@dataclass(frozen=True)
class Guest:
    """A boot sector's domain. It answers 'u' to a byte on its serial port, but powers off at 'q', panics at 'p', sleeps
    at 's'."""

    id: str
    directory: Path  # QEMU's user must be able to reach it

    @property
    def serial(self) -> Path:
        return self.directory / f"{self.id[:8]}.sock"

    def xml(self, *, deaf: bool = False) -> str:
        """The domain, with its disk written; a deaf guest does not hear the power button."""
        disk = self.directory / f"{self.id[:8]}.raw"
        disk.write_bytes(boot_disk(deaf=deaf))
        return f"""<domain type='qemu'>
          <name>{self.id}</name><uuid>{self.id}</uuid>
          <memory unit='MiB'>16</memory><vcpu>1</vcpu>
          <os><type arch='x86_64' machine='q35'>hvm</type></os>
          <features><acpi/></features>
          <on_crash>destroy</on_crash>
          <devices>
            <disk type='file' device='disk'><driver name='qemu' type='raw'/>
              <source file='{disk}'/><target dev='sda' bus='sata'/></disk>
            <controller type='usb' model='none'/>
            <controller type='pci' index='0' model='pcie-root'/>
            <controller type='pci' index='1' model='pcie-root-port'/>
            <serial type='unix'><source mode='bind' path='{self.serial}'/></serial>
            <memballoon model='none'/>
            <panic model='isa'/>
          </devices>
        </domain>"""

    def wait_until_up(self, deadline: float = 30.0) -> None:
        """Wait until the boot sector runs. The serial port holds the byte until somebody reads it."""
        with self._connection(deadline) as connection:
            connection.sendall(b"?")
            assert connection.recv(1) == b"u", "the guest's QEMU ended before it was up"

    def power_off(self) -> None:
        """Tell the guest to power off, as its own operator would."""
        self._tell(b"q")

    def panic(self) -> None:
        """Tell the guest to panic, as its kernel would."""
        self._tell(b"p")

    def sleep(self) -> None:
        """Tell the guest to suspend itself to RAM."""
        self._tell(b"s")

    def _tell(self, byte: bytes) -> None:
        with self._connection(10.0) as connection:
            connection.sendall(byte)

    def _connection(self, deadline: float) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(deadline)
        end = time.monotonic() + deadline
        while True:
            try:
                connection.connect(str(self.serial))
                return connection
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
