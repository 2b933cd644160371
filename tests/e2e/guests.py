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
    "ba0006 ed f6c401 7521"  # again: in ax, 0x600; test ah, 1; jnz off: was the button pressed?
    "bafd03 ec a801 74ef"  # in al, COM1 line status; test al, 1; jz again
    "baf803 ec 3c71 7411"  # in al, COM1; cmp al, 'q'; je off
    "3c70 7416 3c73 741a"  # cmp al, 'p'; je panic; cmp al, 's'; je sleep
    "3c77 741f"  # cmp al, 'w'; je write
    "b075 ee ebd6"  # up: out COM1, 'u'; jmp again
    "ba0406 b80020 ef ebcd"  # off: out 0x604, 0x2000: ACPI S5; jmp again
    "ba0505 b001 ee ebc5"  # panic: out 0x505, 1: what a kernel that panics tells pvpanic; jmp again
    "ba0406 b80024 ef ebbc"  # sleep: out 0x604, 0x2400: ACPI S3; jmp again
    "31c0 8ed8 b80043 b280 be617c cd13"  # write: ds = 0; int 0x13, 0x43: extended write to disk 0x80 as told at si
    "baf803 73ce eba7"  # dx = COM1; jnc up; jmp again
    "1000 4000 007c 0000 0004000000000000"  # 64 sectors from 0000:7c00 to sector 1024
)
_DEAF = _CODE.replace(bytes.fromhex("b80001"), bytes.fromhex("b80000"))


def boot_disk(*, deaf: bool = False) -> bytes:
    """A guest's whole disk, for BIOS: it is up in a second. A deaf one does not hear the power button."""
    sector = (_DEAF if deaf else _CODE).ljust(510, b"\0") + b"\x55\xaa"
    return sector.ljust(1 << 20, b"\0")  # the firmware boots from no smaller disk


@dataclass(frozen=True)
class Guest:
    """A boot sector's domain. It answers 'u' to a byte on its serial port, but powers off at 'q', panics at 'p', sleeps
    at 's', and at 'w' writes 32 KiB to its disk first."""

    id: str
    directory: Path  # QEMU's user must be able to reach it

    @property
    def serial(self) -> Path:
        return self.directory / f"{self.id[:8]}.sock"

    @property
    def disk(self) -> Path:
        return self.directory / f"{self.id[:8]}.raw"

    def xml(self, *, deaf: bool = False) -> str:
        """The domain, with its disk written; a deaf guest does not hear the power button."""
        self.disk.write_bytes(boot_disk(deaf=deaf))
        return f"""<domain type='qemu'>
          <name>{self.id}</name><uuid>{self.id}</uuid>
          <memory unit='MiB'>16</memory><vcpu>1</vcpu>
          <os><type arch='x86_64' machine='q35'>hvm</type></os>
          <features><acpi/></features>
          <on_crash>destroy</on_crash>
          <devices>
            <disk type='file' device='disk'><driver name='qemu' type='raw'/>
              <source file='{self.disk}'/><target dev='sda' bus='sata'/><alias name='ua-boot'/></disk>
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

    def write(self) -> None:
        """Tell the guest to write to its disk."""
        self._tell(b"w")

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
