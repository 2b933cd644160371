"""The typed domain spec: all that the templates render, as plain data.

Builders fill it, templates read it; nothing in it is optional knowledge of a template. Units are in the names. How it
is decided does not belong here, nor any XML.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sri_libvirt.devices import (
    BackingFile,
    Bandwidth,
    DirectMode,
    DiskFormat,
    DiskHost,
    DiskKind,
    DiskSettings,
    NicKind,
    network_source,
)


@dataclass(frozen=True, slots=True)
class PciAddress:
    """A place on pcie.0, where everything but SRI's own devices sits."""

    slot: int
    function: int = 0
    multifunction: bool = False


@dataclass(frozen=True, slots=True)
class RootPort:
    """A PCIe root port; `index` is the bus number behind it and names the port to the rest of the provider."""

    index: int
    chassis: int
    port: int
    address: PciAddress


@dataclass(frozen=True, slots=True)
class Layout:
    """The fixed part of a machine's PCI topology. It never depends on which devices exist."""

    root_ports: tuple[RootPort, ...]
    virtio_serial: PciAddress
    balloon: PciAddress
    rng: PciAddress


@dataclass(frozen=True, slots=True)
class Marks:
    """What tells our domains from others', and one run of a machine from another (kept in `<metadata>`)."""

    instance: str
    id: str
    class_name: str
    run: str


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU of the guest. `quota_us` of `period_us` bounds all its threads together; 0 = unbounded."""

    mode: Literal["host-passthrough", "host-model", "maximum", "custom"]
    model: str
    vcpus: int
    period_us: int = 0
    quota_us: int = 0


@dataclass(frozen=True, slots=True)
class Firmware:
    """UEFI as two flash devices: read-only code, and variables copied from a template at the first start."""

    loader: str
    loader_format: Literal["raw", "qcow2"]
    nvram_template: str
    nvram: str


@dataclass(frozen=True, slots=True)
class Kernel:
    """What the firmware is given to boot: a Linux kernel, or by UEFI a unified kernel image. `initramfs` is a path, ""
    without one."""

    path: str
    initramfs: str = ""
    command_line: str = ""


@dataclass(frozen=True, slots=True)
class DiskAuth:
    """Who opens a network disk, and by which secret: of `kind`, known to libvirt by its UUID."""

    user: str
    kind: Literal["ceph", "iscsi"]
    secret: str


@dataclass(frozen=True, slots=True)
class DiskEncryption:
    """LUKS on a disk, which `engine` undoes with the passphrase that libvirt knows by its UUID, `secret`."""

    engine: Literal["qemu", "librbd"]
    format: Literal["luks", "luks2"]
    secret: str


@dataclass(frozen=True, slots=True)
class NetworkDisk:
    """Where a network disk is, and how it is reached. What is "", False, 0 or None is not written.

    Each host has the port that libvirt would give it. `reconnect` is in seconds; libvirt knows it from 9.2 on.
    """

    protocol: Literal["rbd", "nbd", "iscsi"]
    name: str
    hosts: tuple[DiskHost, ...]
    config: str = ""
    tls: bool = False
    reconnect: int = 0
    initiator: str = ""
    auth: DiskAuth | None = None


@dataclass(frozen=True, slots=True)
class Disk:
    """One virtio disk behind a root port. `boot_order` 0 = never booted from.

    `network` is of kind "network" and nothing else; such a disk has no `path`.
    """

    alias: str
    target: str
    serial: str
    path: str
    format: DiskFormat
    read_only: bool
    backing: BackingFile | None
    port: int
    boot_order: int = 0
    kind: DiskKind = "file"
    network: NetworkDisk | None = None
    encryption: DiskEncryption | None = None
    settings: DiskSettings = field(default_factory=DiskSettings)

    @property
    def source(self) -> str:
        """As `DiskSource` has it."""
        found = self.network
        return network_source(found.protocol, found.name, found.hosts) if found else self.path


@dataclass(frozen=True, slots=True)
class Nic:
    """One virtio NIC behind a root port, joined to `source`: by its kind a libvirt network, a bridge, a device of the
    host, a tap; "" of user networking.

    `vlan` 0 = untagged; `isolated_port` = nothing is exchanged with other such ports of the bridge. `filter` is
    libvirt's of what the guest sends, "" = none; of `parameters`, name and value, there may be several of a name.
    `mode`, `trunk`, `interface_id` and `bandwidth` as of a NicBackend; `mtu` 0 and `queues` 0 or 1 are not written.
    `by_qemu`: QEMU carries its frames, and never the kernel (vhost-net).
    """

    alias: str
    mac: str
    kind: NicKind
    source: str
    port: int
    vlan: int = 0
    isolated_port: bool = False
    filter: str = ""
    parameters: tuple[tuple[str, str], ...] = ()
    mode: DirectMode = ""
    trunk: tuple[int, ...] = ()
    interface_id: str = ""
    mtu: int = 0
    queues: int = 0
    bandwidth: Bandwidth | None = None
    by_qemu: bool = False


@dataclass(frozen=True, slots=True)
class DomainSpec:
    """One domain. `ignition` is the path of the fw_cfg payload, "" without one; `firmware` is None by BIOS, `kernel`
    where that boots a disk."""

    marks: Marks
    title: str
    domain_type: Literal["kvm", "qemu"]
    emulator: str
    machine_type: str
    cpu: Cpu
    memory_kib: int
    firmware: Firmware | None
    kernel: Kernel | None
    ignition: str
    layout: Layout
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]
    console_log: str
