"""What plugins hand out and the domain builders render: plain data about disks and NIC backends.

Every value is JSON-serialisable, because the store keeps it with its attachment (`backing`), so that a machine boots
after a restart from what was prepared, not from what a plugin remembers.
Domain XML does not belong here, nor do addresses, aliases and serials (those are the attachment's own).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

DiskFormat = Literal["qcow2", "raw"]
DiskKind = Literal["file", "block", "network"]
Protocol = Literal["", "rbd", "nbd", "iscsi"]
SecretPurpose = Literal["auth", "encryption"]
DiskCache = Literal["none", "writeback"]
DiskIo = Literal["", "io_uring", "native", "threads"]
DiskDiscard = Literal["unmap", "ignore"]
DetectZeroes = Literal["off", "on", "unmap"]
NicKind = Literal["network", "isolated", "bridge", "ovs", "direct", "tap", "user"]
DirectMode = Literal["", "bridge", "private", "vepa"]
Boot = Literal["disk", "kernel", "uki"]

DEFAULT_PORTS = {"nbd": 10809, "iscsi": 3260}
"""What libvirt takes, and writes into its XML, where a host has no port. librados has its own, which no XML tells."""

SOURCES_BEFORE = 8
"""How many sources of before a disk remembers: so often it may move while its domain cannot be defined."""

HANDLE_BYTES = 256
"""The longest handle that a status shows: the reply to ListMachines has room for so much of every device."""


def shown_handle(handle: str) -> str:
    """A driver's handle as the status shows it: one that is too long keeps its beginning, and a digest of it all."""
    data = handle.encode()
    if len(data) <= HANDLE_BYTES:
        return handle
    digest = hashlib.sha256(data).hexdigest()[:32]
    return f"{data[: HANDLE_BYTES - len(digest) - 1].decode(errors='ignore')}-{digest}"


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Which file it was: enough to notice that a path holds another file, or changed content, by now.

    `digest` is of samples of its content, "" if an older version kept it.
    """

    inode: int
    mtime_ns: int
    size: int
    digest: str = ""


@dataclass(frozen=True, slots=True)
class BackingFile:
    """The read-only base of an overlay. `format` is pinned, so that QEMU never probes a tenant's bytes."""

    path: str
    format: DiskFormat
    identity: FileIdentity


@dataclass(frozen=True, slots=True)
class ImagePin:
    """What an image reference meant when it was asked for a machine, kept with it from then on.

    `reference` names it by its content: `registry/repository@sha256:…`. `boot` is what its firmware boots: its disk, or
    a kernel that it is given. `parts` are the names of what is fetched for it, `content` its driver's own words.
    """

    reference: str
    boot: Boot = "disk"
    initramfs: bool = False
    command_line: str = ""
    parts: tuple[str, ...] = ()
    content: str = ""


def pin_to_json(pin: ImagePin) -> str:
    """Serialise a pin for the store; `pin_from_json` gives an equal value back."""
    return json.dumps(asdict(pin), sort_keys=True)


def pin_from_json(text: str) -> ImagePin:
    """Parse what `pin_to_json` wrote."""
    data: dict[str, Any] = json.loads(text)
    return ImagePin(**{**data, "parts": tuple(data["parts"])})


@dataclass(frozen=True, slots=True)
class DiskHost:
    """Where a network disk is served: a name or address with a port, 0 for its protocol's own, or a unix socket."""

    name: str = ""
    port: int = 0
    socket: str = ""

    def __str__(self) -> str:
        """As people write it; an IPv6 address in brackets."""
        if self.socket:
            return self.socket
        name = f"[{self.name}]" if ":" in self.name else self.name
        return f"{name}:{self.port}" if self.port else name

    def by(self, protocol: str) -> DiskHost:
        """The same host with the port that libvirt takes for that protocol where none is given."""
        default = DEFAULT_PORTS.get(protocol, 0)
        return replace(self, port=default) if default and not self.port and not self.socket else self


@dataclass(frozen=True, slots=True)
class Encryption:
    """LUKS on a disk, as its header says, and who undoes it: QEMU's block layer (version 1 alone) or librbd."""

    engine: Literal["qemu", "librbd"]
    format: Literal["luks", "luks2"]


@dataclass(frozen=True, slots=True)
class SecretReference:
    """A secret that a disk is opened with, by the UUID that libvirt knows it by for that moment. Never its value."""

    purpose: SecretPurpose
    uuid: str


@dataclass(frozen=True, slots=True)
class DiskSettings:
    """How QEMU reads and writes a disk. A guest sees nothing of it. What stands here is what disks were opened with
    before there was a choice.

    `cache`: "none" goes past the host's page cache; either keeps what a guest has flushed. `io` is "" where there is
    nothing to choose: a network disk. `discard`: whether what a guest discards is given back to the storage.
    `detect_zeroes`: whether zeroes that it writes are written down as such ("unmap": discarded) instead of in full.
    """

    cache: DiskCache = "writeback"
    io: DiskIo = ""
    discard: DiskDiscard = "unmap"
    detect_zeroes: DetectZeroes = "off"


@dataclass(frozen=True, slots=True)
class DiskSource:
    """A disk that QEMU can open, `size` bytes as the guest sees it: a local file or block device at `path`, or a
    network disk.

    Of the latter `name` is what its protocol calls it: rbd `pool/image`, nbd the export, iscsi `target/lun`. `user` is
    whom the secret for "auth" is of, `config` a configuration file for librados, `reconnect` how many seconds QEMU
    waits for a server that went away. `device` is the kernel's number for a block device, which may have many names,
    and the boot of which it is.
    `note` is a sentence about it that an operator should know and that keeps no machine from running.
    The loop sets `was`, the sources that it had before, the latest last, as long as a domain may still name one, and
    `settings`.
    """

    handle: str  # what the status reports for the volume; stable over restarts
    path: str
    format: DiskFormat
    size: int
    read_only: bool = False
    backing: BackingFile | None = None
    note: str = ""
    was: tuple[str, ...] = ()
    kind: DiskKind = "file"
    protocol: Protocol = ""
    name: str = ""
    hosts: tuple[DiskHost, ...] = ()
    user: str = ""
    config: str = ""
    tls: bool = False
    initiator: str = ""
    reconnect: int = 0
    encryption: Encryption | None = None
    secrets: tuple[SecretReference, ...] = ()
    settings: DiskSettings = DiskSettings()
    device: str = ""

    @property
    def identity(self) -> str:
        """Two disks of this host of the same one are the same bytes, whatever names and ways lead to it.

        A Ceph image has its monitors in it: of two clusters it would be two.
        """
        return self.device or (_without_ways(self.source) if self.protocol == "iscsi" else self.source)

    @property
    def source(self) -> str:
        """What it is, in one string: two disks of the same one are the same bytes. Domain XML tells it, too."""
        return network_source(self.protocol, self.name, self.hosts) if self.kind == "network" else self.path

    def after(self, old: DiskSource) -> DiskSource:
        """The same disk in the old one's place: `was` is what a domain may still name, which is defined later."""
        before = dict.fromkeys((*old.was, old.source))
        return replace(self, was=tuple(each for each in before if each != self.source)[-SOURCES_BEFORE:])


def network_source(protocol: str, name: str, hosts: Iterable[DiskHost]) -> str:
    """The `source` of a network disk, as `rbd:pool/image@mon1:6789,mon2:6789`, whatever the order of its hosts.

    Whatever the parts hold, two disks of different ones have different sources.
    """
    places = sorted(_plain(str(host.by(protocol))) for host in hosts)
    return f"{protocol}:{_plain(name)}@{','.join(places)}"


def may_be_same(source: str, other: str) -> bool:
    """Whether two disks of these sources may be the same bytes: a cluster or a target has many ways to it.

    An image of a Ceph cluster is told by its name alone, whichever monitors are named, a LUN by its target's.
    """
    return _without_ways(source) == _without_ways(other)


def _without_ways(source: str) -> str:
    return source.partition("@")[0] if source.startswith(("rbd:", "iscsi:")) else source


def _plain(text: str) -> str:
    """A part of a source without what separates the parts, as a URI has it."""
    return text.replace("%", "%25").replace("@", "%40").replace(",", "%2C")


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """What a NIC may carry, in each direction: bytes in a second, or `peak` of them for `burst` bytes; 0: not said."""

    average: int
    peak: int = 0
    burst: int = 0


@dataclass(frozen=True, slots=True)
class NicBackend:
    """What a guest's NIC is joined to, by its `kind`: a libvirt `network`; a `bridge` of Linux, or of Open vSwitch
    ("ovs"); a `device` of the host, which it shares by macvtap in a `mode` ("direct"), or which is a tap that somebody
    else has made ("tap"), or that our driver has made, which is never up and has nobody behind it ("isolated"); QEMU's
    own user networking ("user"). `note` as of a disk.

    On a bridge it may be in a `vlan` (0: untagged), or in those of a `trunk`, and an `isolated_port` exchanges nothing
    with others that are. `interface_id` is what Open vSwitch knows it by. `filter` is libvirt's of what the guest
    sends, "" without one. `address` is what DHCP gives it, `address6` what DHCPv6 gives to its `duid`; "" where that is
    nobody's promise. `mtu` 0 is Ethernet's own. What a driver says of `queues` is the most that there can be, 0 for as
    many as are of use. The loop sets `driver`, whose it is, `addresses`, all that its spec gives it, and `queues`.
    """

    handle: str  # never empty; goes to the API's providerID
    kind: NicKind
    network: str = ""
    device: str = ""
    note: str = ""
    address: str = ""
    driver: str = ""
    bridge: str = ""
    vlan: int = 0
    isolated_port: bool = False
    filter: str = ""
    addresses: tuple[str, ...] = ()
    mode: DirectMode = ""
    trunk: tuple[int, ...] = ()
    interface_id: str = ""
    mtu: int = 0
    queues: int = 0
    bandwidth: Bandwidth | None = None
    address6: str = ""
    duid: str = ""

    @property
    def source(self) -> str:
        """What it is joined to, by name. Domain XML tells it, too."""
        return self.network or self.device or self.bridge


Backing = DiskSource | NicBackend


def to_json(backing: Backing) -> str:
    """Serialise a backing for the store; `from_json` gives an equal value back."""
    found = {"identity": backing.identity} if isinstance(backing, DiskSource) else {}  # for the store to search
    return json.dumps({"type": type(backing).__name__, **asdict(backing), **found}, sort_keys=True)


def from_json(text: str) -> Backing | None:
    """Parse what `to_json` wrote; None for what has to be prepared anew: a link by a tap that libvirt made.

    Raises ValueError for an unknown type (a newer version wrote it).
    """
    data: dict[str, Any] = json.loads(text)
    match data.pop("type"):
        case "DiskSource":
            return _disk(data)
        case "NicBackend":
            return _nic(data)
        case other:
            raise ValueError(f"unknown backing type {other!r}: written by a newer version?")


def _nic(data: dict[str, Any]) -> NicBackend | None:
    if (bandwidth := data.pop("bandwidth", None)) is not None:
        data["bandwidth"] = Bandwidth(**bandwidth)
    data["addresses"], data["trunk"] = tuple(data.get("addresses", ())), tuple(data.get("trunk", ()))
    backend = NicBackend(**data)
    return backend if backend.source or backend.kind == "user" else None


def _disk(data: dict[str, Any]) -> DiskSource:
    for searched in ("identity", "source"):  # the latter in earlier versions
        data.pop(searched, None)
    if (base := data.pop("backing")) is not None:
        data["backing"] = BackingFile(**{**base, "identity": FileIdentity(**base["identity"])})
    if (encryption := data.pop("encryption", None)) is not None:
        data["encryption"] = Encryption(**encryption)
    was = data.pop("was", ())
    data["was"] = tuple(filter(None, [was])) if isinstance(was, str) else tuple(was)  # one, in earlier versions
    data["hosts"] = tuple(DiskHost(**host) for host in data.pop("hosts", ()))
    data["secrets"] = tuple(SecretReference(**secret) for secret in data.pop("secrets", ()))
    data["settings"] = DiskSettings(**data.pop("settings", {}))
    return DiskSource(**data)
