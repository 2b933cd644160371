"""Claims of devices: taken when they fit, once, and taken over from a store that knew none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sri_libvirt.capacity import claims
from sri_libvirt.capacity.budget import Hardware, Reserves, Resources, budget
from sri_libvirt.capacity.devices import DeviceClaims
from sri_libvirt.capacity.pool import Pool
from sri_libvirt.devices import DiskSource
from sri_libvirt.errors import InvalidSpec, StoreError
from sri_libvirt.records import GIB, Attachment, Machine
from sri_libvirt.resources import DISK, Claim, Usage, virtual_functions
from tests.unit.store.records import machine, row

VF = virtual_functions("eth0")


class Ledger:
    """See `devices.OldLedger`. Without `claimed` all its machines are of an older version."""

    def __init__(self, *machines: Machine) -> None:
        self.usage = Usage()
        self.held: dict[str, list[Claim]] = {}
        self._machines = {each.id: each for each in machines}
        self.damaged: set[str] = set()

    def claims(self, machine_id: str) -> list[Claim]:
        return self.held.get(machine_id, [])

    def holds(self, machine_id: str, holder: str) -> bool:
        return any(claim.holder == holder for claim in self.claims(machine_id))

    def claim(self, machine_id: str, claims: Sequence[Claim]) -> None:
        self.held.setdefault(machine_id, []).extend(claims)
        self.usage = self.usage.plus(claims)

    def unclaim(self, machine_id: str, holder: str) -> None:
        gone = [claim for claim in self.claims(machine_id) if claim.holder == holder]
        self.held[machine_id] = [claim for claim in self.claims(machine_id) if claim not in gone]
        self.usage = self.usage.plus(gone, -1)

    def unclaimed(self) -> list[str]:
        return [each for each in self._machines if each not in self.held]

    def machine(self, machine_id: str) -> Machine | None:
        if machine_id in self.damaged:
            raise StoreError("the record is damaged")
        return self._machines[machine_id]


def claims_of(each: Attachment) -> Sequence[Claim]:
    """Volumes have a GiB each, network interfaces a virtual function; one has a driver that is gone."""
    if each.name == "strange":
        raise InvalidSpec("connection.driver", "there is no such driver")
    claim = Claim(VF, 1) if each.kind == "nic" else Claim(DISK, GIB)
    return (replace(claim, holder=each.alias),) if each.name != "free" else ()


HOST = Hardware(Resources(cpus=8, memory_bytes=64 * GIB, vfs={"eth0": 1}), disk_bytes=2 * GIB)
DEVICES = DeviceClaims(Pool({}, budget(HOST, Reserves())), claims_of)


def test_a_device_has_its_claim_once() -> None:
    ledger = Ledger()
    for _ in range(2):
        assert DEVICES.take(ledger, row()) == ""
        assert ledger.usage.of(DISK) == GIB
    assert DEVICES.take(ledger, row(name="free")) == ""
    assert DEVICES.take(ledger, row(name="second")) == ""
    assert DEVICES.take(ledger, row(name="third")) == "disk: 1 GiB asked, 0 B free (of 2 GiB, 2 GiB claimed)"
    assert ledger.usage.of(DISK) == 2 * GIB
    assert DEVICES.take(ledger, row()) == "", "what it has it keeps on a full host"


def test_what_there_is_one_of_only_one_has() -> None:
    ledger = Ledger()
    assert DEVICES.take(ledger, row(kind="nic", name="n")) == ""
    assert DEVICES.take(ledger, row("m2", kind="nic", name="n")) == "vf/eth0: 1 asked, 0 free (of 1, 1 claimed)"


def test_machines_of_an_older_version_claim_what_they_have_whether_it_fits_or_not() -> None:
    made = DiskSource("h", "/d.qcow2", "qcow2", GIB)
    rows = (
        row("m1", name="ready", backing=made),
        row("m1", name="waits"),
        row("m1", name="strange", backing=made),
    )
    ledger = Ledger(machine("m1", attachments=rows), machine("m2"), machine("broken"))
    ledger.damaged.add("broken")
    kept = Claim(DISK, 7 * GIB, holder="empty-x")
    assert DEVICES.adopt(ledger, lambda machine_id: [kept] if machine_id == "m2" else []) == 3
    of_class = list(claims.of_class(machine().machine_class))
    assert ledger.held == {"m1": [*of_class, *claims_of(rows[0])], "m2": [*of_class, kept]}
    assert DEVICES.adopt(ledger, lambda _: []) == 1, "the damaged one is looked at again"
