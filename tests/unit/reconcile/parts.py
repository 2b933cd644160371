"""Small working parts to build a loop of: a clock, drivers, a compiler and a host that do as a test says.

Machines and their rows come from `world.py`; what must be true does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from sri_libvirt import names
from sri_libvirt.devices import DiskSource, ImagePin, NicBackend, SecretPurpose, SecretReference
from sri_libvirt.domain import chain, compare, observed
from sri_libvirt.errors import InvalidSpec, NotReady
from sri_libvirt.hypervisor.base import Connection, LastWords
from sri_libvirt.nics.attributes import Attributes
from sri_libvirt.paths import MachinePaths, StatePaths
from sri_libvirt.reconcile.perform import Performer
from sri_libvirt.reconcile.secrets import Lending, Loans
from sri_libvirt.records import Attachment, Machine
from sri_libvirt.store import Store
from tests.unit.reconcile.world import PIN, PROFILE, T0


@dataclass
class Clock:
    now: int = T0

    def __call__(self) -> int:
        return self.now


@dataclass
class Drivers:
    """All drivers in one: prepares anything, except what is `broken` (by name; "image" for images)."""

    broken: dict[str, Exception] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    """Devices whose driver is not there any more."""
    calls: list[tuple[str, ...]] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    """What the latest looks at backends have found, by the name of the volume."""
    meanwhile: Callable[[], object] = lambda: None
    """What happens while a driver works."""
    passphrases: dict[str, bytes] = field(default_factory=dict)
    """Of volumes that are encrypted, by name."""

    pin: ImagePin = PIN
    """What image references mean."""
    unfit: set[str] = field(default_factory=set)
    """Meanings of references that are no images."""

    def resolve_image(self, machine: Machine) -> ImagePin:
        self.call("resolve", "image", machine.spec.image.image)
        return self.pin

    def image_disk(self, machine: Machine, row: Attachment, paths: MachinePaths) -> DiskSource:
        self.call("prepare", "image", machine.spec.image.image)
        if row.image is not None and row.image.reference in self.unfit:
            raise NotReady("it is not an image", "Use one.", "image-refused")
        size = machine.machine_class.policy.root_disk_bytes
        made = row.backing if isinstance(row.backing, DiskSource) else None
        return made or DiskSource("image", str(paths.image_disk), "qcow2", size)

    def remove_image_disk(self, paths: MachinePaths) -> None:
        self.call("release", "image")

    def volume(self, row: Attachment) -> DeviceDriver:
        if row.name in self.absent:
            raise InvalidSpec("connection.driver", "there is no volume driver for this")
        return DeviceDriver(self, row)

    def nic(self, row: Attachment) -> DeviceDriver:
        return DeviceDriver(self, row)

    def nic_attributes(self, _row: Attachment) -> Attributes:
        return Attributes()

    def nic_made(self, row: Attachment) -> DeviceDriver:
        return DeviceDriver(self, row)

    def size_of(self, row: Attachment) -> int:
        return self.sizes.get(row.name, 0)

    def keeps_data(self, row: Attachment, paths: MachinePaths) -> bool:
        return True

    def secrets_of(self, row: Attachment) -> dict[SecretPurpose, bytes]:
        return {"encryption": self.passphrases[row.name]} if row.name in self.passphrases else {}

    def call(self, *what: str) -> None:
        self.calls.append(what)
        self.meanwhile()
        if what[1] in self.broken:
            raise self.broken[what[1]]


@dataclass
class DeviceDriver:
    """A volume's or a NIC's driver; the contracts differ in what `prepare` gets and gives."""

    drivers: Drivers
    row: Attachment
    name: str = "device"

    def supports(self, spec: object) -> bool:
        return True

    def validate(self, spec: object) -> None:
        pass

    def handle(self, machine_id: str, spec: object) -> str:
        return f"handle-{self.row.name}"

    def prepare(self, machine_id: str, spec: object, *more: object) -> object:
        self.drivers.call("prepare", self.row.name)
        handle = self.handle(machine_id, spec)
        if self.row.kind == "nic":
            return NicBackend(handle, "network", "net")
        locked = self.row.name in self.drivers.passphrases
        secret = SecretReference("encryption", names.secret_uuid(machine_id, self.row.name, "encryption"))
        return DiskSource(handle, "/d", "raw", 512, secrets=(secret,) if locked else ())

    def release(self, machine_id: str, spec: object, *more: object, final: bool = False) -> None:
        self.drivers.call("release", self.row.name, "final" if final else "kept")


@dataclass
class Compiler:
    """The least XML in which our marks and devices are found again; `lost` is what libvirt does not keep."""

    instance: str
    lost: list[str] = field(default_factory=list)

    def domain_xml(self, machine: Machine, rows: list[Attachment], paths: MachinePaths, run: str) -> str:
        return domain_xml(machine.id, self.instance, run, [], "".join(self.device_xml(machine, row) for row in rows))

    def device_xml(self, machine: Machine, row: Attachment, *, by_qemu: bool = False) -> str:
        if isinstance(row.backing, NicBackend):
            driver = "<driver name='qemu'/>" if by_qemu else ""
            source = f"<source network='{row.backing.network}'/>{driver}"
            return f"<interface>{source}<alias name='{row.alias}'/></interface>"
        secrets = row.backing.secrets if row.backing else ()
        locks = "".join(f"<encryption><secret type='passphrase' uuid='{each.uuid}'/></encryption>" for each in secrets)
        source = f"<source>{locks}</source>" if locks else ""
        return f"<disk>{source}<target dev='{row.target}'/><alias name='{row.alias}'/></disk>"

    def differences(self, asked: str, got: str) -> list[str]:
        return self.lost or compare.differences(observed.read(asked), observed.read(got))

    def undone(self, before: str, asked: str) -> list[str]:
        return compare.undone(observed.read(before), observed.read(asked))

    def follow(self, live: str, persistent: str, alias: str) -> str:
        return chain.follow(live, persistent, alias)


def domain_xml(machine_id: str, instance: str, run: str, aliases: list[str], more: str = "") -> str:
    """A domain with our marks, disks of these aliases, and more devices."""
    disks = "".join(map(_disk, aliases))
    return (
        f"<domain type='qemu'><uuid>{machine_id}</uuid><metadata><sri:machine xmlns:sri='{names.METADATA_NAMESPACE}' "
        f"instance='{instance}' id='{machine_id}' run='{run}'/></metadata><devices>{disks}{more}</devices></domain>"
    )


def _disk(alias: str) -> str:
    return f"<disk><alias name='{alias}'/></disk>"


@dataclass
class HostStub:
    boot: str = "boot-1"
    going_down: bool | None = False
    asked: int = 0
    """How often it was asked whether it goes down, which takes a process."""

    def boot_id(self) -> str:
        return self.boot

    def stopping(self) -> bool | None:
        self.asked += 1
        return self.going_down


def performer(store: Store, root: Path, clock: Callable[[], int], drivers: Drivers, compiler: Compiler) -> Performer:
    """A performer whose effects are the store, files below `root` and what the connection does."""
    return Performer(
        store=store,
        paths=StatePaths(root),
        plugins=drivers,  # type: ignore[arg-type]  # its drivers take what both kinds get
        compiler=compiler,
        choose_profile=lambda _connection, _class, boot: replace(PROFILE, boot=boot),
        boot_id=lambda: "boot-1",
        clock=clock,
        lend=Lending(store.instance, Loans(), drivers.secrets_of).lend,
    )


class Said:
    """A connection that has last words for every domain, and counts who asks for them."""

    def __init__(self, connection: Connection, words: LastWords) -> None:
        self._connection = connection
        self._words = words
        self.asked = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)

    def last_words(self, machine_id: str) -> LastWords:
        self.asked += 1
        return self._words
