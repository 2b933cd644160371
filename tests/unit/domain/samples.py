"""A machine with everything, for the tests of this room."""

from __future__ import annotations

import string
from dataclasses import replace
from pathlib import Path

from sri_libvirt import names
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import (
    Backing,
    BackingFile,
    Bandwidth,
    DiskHost,
    DiskSettings,
    DiskSource,
    Encryption,
    FileIdentity,
    ImagePin,
    NicBackend,
    SecretReference,
)
from sri_libvirt.domain import ports
from sri_libvirt.domain.build import build
from sri_libvirt.domain.spec import DomainSpec
from sri_libvirt.hypervisor.base import Firmware, Offer
from sri_libvirt.paths import MachinePaths, StatePaths
from sri_libvirt.records import (
    GIB,
    LABEL_NAME,
    LABEL_NAMESPACE,
    Attachment,
    Machine,
    MachineClass,
    Profile,
    set_class_name,
)

ID = "6b3ffb4e-8d3c-4f52-9d0a-0d2f3c1f0a01"
INSTANCE = "0d7a1c52-52a1-4c53-a7de-0c8f64d8a001"
RUN = "a9d6b1a2-7f56-4a1e-9d6f-51a7b1a5d001"
STATE = StatePaths(Path("/var/lib/sri-libvirt"))

BIOS = Profile(
    layout=1,
    domain_type="qemu",
    machine_type="pc-q35-7.2",
    cpu_mode="maximum",
    cpu_model="",
    vcpus=1,
    cpu_millis=1000,
    memory_bytes=GIB,
    firmware="bios",
    loader="",
    loader_format="raw",
    nvram_template="",
    ports=8,
    emulator="/usr/bin/qemu-system-x86_64",
)
UEFI = replace(
    BIOS,
    domain_type="kvm",
    cpu_mode="host-passthrough",
    vcpus=3,
    cpu_millis=2500,
    memory_bytes=4 * GIB,
    firmware="uefi",
    loader="/usr/share/OVMF/OVMF_CODE_4M.fd",
    nvram_template="/usr/share/OVMF/OVMF_VARS_4M.fd",
    ports=12,
)
OFFER = Offer(
    libvirt_version=9_000_000,
    qemu_version=7_002_022,
    architecture="x86_64",
    emulator="/usr/bin/qemu-system-x86_64",
    domain_types=frozenset({"kvm", "qemu"}),
    machine_type="pc-q35-7.2",
    machine_types=frozenset({"pc-q35-7.2", "pc-q35-7.1", "pc-i440fx-7.2"}),
    cpu_modes={
        "kvm": frozenset({"host-passthrough", "host-model", "maximum", "custom"}),
        "qemu": frozenset({"maximum", "host-model", "custom"}),
    },
    cpu_models={"kvm": frozenset({"qemu64", "EPYC"}), "qemu": frozenset({"qemu64"})},
    firmware=(
        Firmware(
            "/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "raw", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd", True, ("pc-q35-*",)
        ),
        Firmware("/usr/share/OVMF/OVMF_CODE_4M.fd", "raw", "/usr/share/OVMF/OVMF_VARS_4M.fd", False, ("pc-q35-*",)),
    ),
)
PATHS: MachinePaths = STATE.machine(ID)

AUTH = SecretReference("auth", "7d3c1a5e-0b52-4d2f-9a51-2c8f6e1b0a01")
PASSPHRASE = SecretReference("encryption", "7d3c1a5e-0b52-4d2f-9a51-2c8f6e1b0a02")
LUKS = Encryption("qemu", "luks")
RBD = DiskSource(
    handle="ceph/0badcafe",
    path="",
    format="raw",
    size=GIB,
    kind="network",
    protocol="rbd",
    name="pool/image",
    hosts=(DiskHost("mon2.example", 6789), DiskHost("fd00::1", 3300), DiskHost("10.0.0.1", 6789)),
    user="tenant",
    config="/etc/ceph/sri-libvirt.conf",
    encryption=Encryption("librbd", "luks2"),
    secrets=(AUTH, PASSPHRASE),
    settings=DiskSettings(cache="none"),
)
NBD = DiskSource("nbd/1", "", "raw", GIB, kind="network", protocol="nbd", name="export", hosts=(DiskHost("10.0.0.1"),))
ISCSI = DiskSource(
    handle="iscsi/1",
    path="",
    format="raw",
    size=GIB,
    kind="network",
    protocol="iscsi",
    name="iqn.2026-11.example:store/1",
    hosts=(DiskHost("10.0.0.1", 3260),),
    user="iqn.2026-11.example:us.er",
    initiator="iqn.2026-11.example:host",
    secrets=(AUTH,),
)
SETTINGS = DiskSettings(cache="none", io="io_uring")
FILE = DiskSource("file/1", "/srv/volumes/data.raw", "raw", GIB)
BLOCK = DiskSource("block/1", "/dev/disk/by-id/wwn-0x5000c500a0b1c2d3", "raw", GIB, kind="block")
RECONNECTING = replace(NBD, reconnect=60)
"""What libvirt knows from 9.2 on alone."""

DISKS: dict[str, DiskSource] = {
    "file": FILE,
    "file-luks": replace(FILE, encryption=LUKS, secrets=(PASSPHRASE,)),
    "file-qcow2": replace(FILE, path="/srv/volumes/data.qcow2", format="qcow2"),
    "file-settings": replace(FILE, settings=DiskSettings("none", "native", "ignore", "on")),
    "block": replace(BLOCK, settings=SETTINGS),
    "block-luks": replace(BLOCK, encryption=LUKS, secrets=(PASSPHRASE,)),
    "ceph": RBD,
    "ceph-own-ports": replace(RBD, hosts=(DiskHost("mon1"), DiskHost("mon2")), encryption=None, secrets=(AUTH,)),
    "nbd": NBD,
    "nbd-ipv6": replace(NBD, name="", hosts=(DiskHost("fd00::1", 10810),), read_only=True),
    "nbd-socket": replace(NBD, hosts=(DiskHost(socket="/run/nbd/a b.sock"),)),
    "nbd-tls-luks": replace(NBD, tls=True, encryption=LUKS, secrets=(PASSPHRASE,)),
    "iscsi": replace(ISCSI, user="", secrets=()),
    "iscsi-chap-luks": replace(ISCSI, encryption=LUKS, secrets=(AUTH, PASSPHRASE)),
}
"""One of every kind that any libvirt knows."""


def disk(name: str, **changes: object) -> DiskSource:
    path = str(PATHS.root / f"{name}.qcow2")
    source = DiskSource(handle=name, path=path, format="qcow2", size=GIB, settings=SETTINGS)
    return replace(source, **changes)  # type: ignore[arg-type]


def image_row(**changes: object) -> Attachment:
    base = BackingFile("/var/lib/sri-libvirt/images/debian.raw", "raw", FileIdentity(1, 2, 3))
    source = disk("image", path=str(PATHS.image_disk), backing=base)
    row = Attachment(ID, "image", "", 1, b"", True, 0, target=names.IMAGE_TARGET, serial="image", backing=source)
    return replace(row, **changes)  # type: ignore[arg-type]


def seed_row(**changes: object) -> Attachment:
    source = disk("seed", path=str(PATHS.seed), format="raw", read_only=True)
    row = Attachment(ID, "seed", "", 1, b"", True, 0, target=names.SEED_TARGET, serial="seed", backing=source)
    return replace(row, **changes)  # type: ignore[arg-type]


def volume_row(name: str, device: str, size: int = GIB, **changes: object) -> Attachment:
    spec = pb.Volume(name=name, device=device, empty_disk=pb.EmptyDisk(size_bytes=size))
    row = Attachment(
        ID,
        "volume",
        name,
        1,
        spec.SerializeToString(),
        True,
        0,
        target=names.target_of(device),
        serial=names.serial(device, ID, name),
        backing=disk(name, path=str(PATHS.empty_disk(name, size)), size=size),
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def source_row(source: DiskSource, device: str = "oda", **changes: object) -> Attachment:
    """A volume of this source, whatever has made it."""
    return replace(volume_row("data", device, backing=source), **changes)  # type: ignore[arg-type]


def every_disk(*more: DiskSource, profile: Profile = BIOS) -> Machine:
    """A machine with a volume of every kind."""
    sources = [*DISKS.values(), *more]
    rows = [
        volume_row(f"volume-{index}", f"od{string.ascii_lowercase[index]}", backing=source)
        for index, source in enumerate(sources)
    ]
    return machine(*rows, profile=replace(profile, ports=max(len(rows), profile.ports)))


def nic_row(name: str, network: str = "", **changes: object) -> Attachment:
    spec = pb.NetworkInterface(name=name, network_id=f"network://{network}" if network else "isolated")
    backing: Backing = NicBackend(
        f"handle/{name}", "network" if network else "isolated", network, "" if network else "sri0123456789ab"
    )
    row = Attachment(
        ID, "nic", name, 1, spec.SerializeToString(), True, 0, mac=names.mac_address(ID, name), backing=backing
    )
    return replace(row, **changes)  # type: ignore[arg-type]


INTERFACE = "1c7d2f4e-0c6a-4b4e-9d8e-3a2b1c0d9e8f"

NICS = {
    "network": NicBackend("network://lan/1", "network", network="lan", address="10.0.0.7", driver="network"),
    "isolated": NicBackend("isolated://1", "isolated", device="sri0123456789ab", driver="isolated"),
    "bridge": NicBackend("bridge://br0/1", "bridge", bridge="br0", driver="bridge"),
    "bridge-vlan": NicBackend("bridge://br0/1", "bridge", bridge="br0", vlan=42, isolated_port=True, driver="bridge"),
    "ovs": NicBackend("ovs://ovs0/1", "ovs", bridge="ovs0", vlan=7, interface_id=INTERFACE, driver="ovs"),
    "ovs-trunk": NicBackend("ovs://ovs0/1", "ovs", bridge="ovs0", trunk=(7, 8), interface_id=INTERFACE, driver="ovs"),
    "direct": NicBackend("direct://eth1/1", "direct", device="eth1", mode="vepa", driver="direct"),
    "tap": NicBackend("tap://theirs/1", "tap", device="theirs", queues=1, driver="tap"),
    "user": NicBackend("user://qemu/1", "user", queues=1, driver="user"),
    "shaped": NicBackend(
        "bridge://br0/1",
        "bridge",
        bridge="br0",
        driver="bridge",
        mtu=9000,
        queues=4,
        bandwidth=Bandwidth(10 << 20, 20 << 20, 1 << 20),
    ),
    "slow": NicBackend("bridge://br0/1", "bridge", bridge="br0", driver="bridge", bandwidth=Bandwidth(1 << 20)),
    "filtered": NicBackend(
        "network://lan/1",
        "network",
        network="lan",
        driver="network",
        filter="sri-libvirt-1-ipv4-ipv6",
        addresses=("10.0.0.7", "2001:db8::7", "10.0.0.8"),
    ),
    "filtered-any": NicBackend("bridge://br0/1", "bridge", bridge="br0", driver="bridge", filter="sri-libvirt-1-any"),
}
"""A NIC of every kind."""


def every_nic(*without: str) -> Machine:
    """A machine with a NIC of every kind."""
    return machine(*(nic_row(name, backing=backing) for name, backing in NICS.items() if name not in without))


def machine(*rows: Attachment, profile: Profile = BIOS, ignition: bytes = b"", **changes: object) -> Machine:
    """A machine of these devices, with a port for each."""
    spec = pb.MachineSpec(ignition_data=ignition)
    set_class_name(spec, "small")
    spec.volumes.extend(row.volume() for row in rows if row.kind == "volume")
    spec.network_interfaces.extend(row.nic() for row in rows if row.kind == "nic")
    if any(row.kind == "image" for row in rows):
        spec.image.image = "file:///var/lib/sri-libvirt/images/debian.raw"
    assigned = ports.assign(rows, profile.ports)
    made = Machine(
        id=ID,
        labels={LABEL_NAMESPACE: "default", LABEL_NAME: "web"},
        annotations={},
        spec=spec,
        status=pb.MachineStatus(),
        generation=1,
        observed_generation=0,
        created_at=0,
        deleted_at=0,
        power_at=0,
        machine_class=MachineClass("small", profile.cpu_millis, profile.memory_bytes),
        profile=profile,
        attachments=tuple(replace(row, port=assigned[row.key]) for row in rows),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def spec_of(made: Machine, run: str = RUN) -> DomainSpec:
    """The domain spec with all devices that have a port."""
    assert made.profile is not None
    rows = [row for row in made.attachments if row.port]
    return build(made, made.profile, rows, paths=PATHS, instance=INSTANCE, run=run)


KERNEL_PIN = ImagePin(
    "registry.example.org/debian@sha256:" + "0" * 64, "kernel", True, "console=ttyS0 root='LABEL=a&b'", ("sha256:a",)
)
UKI_PIN = replace(KERNEL_PIN, boot="uki", initramfs=False, command_line="")


def booting(pin: ImagePin, profile: Profile) -> Machine:
    """A machine whose image has a kernel."""
    return machine(image_row(image=pin), profile=replace(profile, boot=pin.boot))


def full(profile: Profile = BIOS, ignition: bytes = b'{"ignition": {"version": "3.4.0"}}') -> Machine:
    rows = [image_row(), volume_row("data", "oda"), volume_row("log", "odb"), nic_row("eth", "lan"), nic_row("alone")]
    if ignition.startswith(b"#cloud-config"):
        rows.append(seed_row())
    return machine(*rows, profile=profile, ignition=ignition)
