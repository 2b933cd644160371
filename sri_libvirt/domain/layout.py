"""The fixed PCI layout, by version. A version, once released, is never changed: guests name their NICs by it.

Root ports 1..N sit eight to a slot from slot 2 on; SRI's devices are alone behind one each. What every machine has sits
in slots of its own above them, clear of those that libvirt keeps for its implicit devices (0x01 video, 0x1b sound,
0x1d USB, 0x1f the chipset). Which device gets which port does not belong here (that is `ports.py`).
"""

from __future__ import annotations

from sri_libvirt.domain.spec import Layout, PciAddress, RootPort
from sri_libvirt.errors import HypervisorError

LAYOUT = 1
"""The layout of new machines."""

MOST_PORTS = 192
"""Root ports that layout 1 has room for: machines of an older version have as many. New ones have fewer, which every
guest can use (`records.MOST_DEVICES`)."""

_FIRST_SLOT = 0x02
_PER_SLOT = 8


def of(version: int, ports: int) -> Layout:
    """The layout of that version with that many root ports. Raises HypervisorError for one of a newer program."""
    if version != LAYOUT:
        raise HypervisorError(f"PCI layout {version} is not known to this version: a newer one defined the machine")
    if not 1 <= ports <= MOST_PORTS:
        raise HypervisorError(f"{ports} PCIe ports do not fit: 1 to {MOST_PORTS} do")
    return Layout(
        root_ports=tuple(_root_port(index) for index in range(1, ports + 1)),
        virtio_serial=PciAddress(0x1A),
        balloon=PciAddress(0x1C),
        rng=PciAddress(0x1E),
    )


def _root_port(index: int) -> RootPort:
    slot, function = divmod(index - 1, _PER_SLOT)
    # Function 0 says that there are more, even if it is alone: adding ports must not change it.
    address = PciAddress(_FIRST_SLOT + slot, function, multifunction=function == 0)
    return RootPort(index=index, chassis=index, port=address.slot << 3 | function, address=address)


def guest_address(port: int) -> str:
    """Where a guest has the device behind that root port, as its `lspci -D` says: firmware numbers the buses in the
    order of the ports, and each has one.
    """
    return f"0000:{port:02x}:00.0"
