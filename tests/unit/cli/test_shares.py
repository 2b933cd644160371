"""`capacity --by machine`: who has what, and that its sum is what the host's arithmetic counts."""

from __future__ import annotations

import json
from collections import Counter

from sri_libvirt import names
from sri_libvirt.records import GIB, META_NEIGHBOURS, Attachment
from sri_libvirt.resources import CPU, DISK, MACHINES, MEMORY, Claim, claims_of_text, claims_text
from sri_libvirt.store import Store
from tests.unit.cli.conftest import DB, NOW, WEB, Cli

STRANGER = "0a0a0a0a-0000-4000-8000-000000000001"
OF_CLASS = [Claim(CPU, 1000), Claim(MEMORY, GIB), Claim(DISK, 10 * GIB), Claim(MACHINES, 1)]


def planted(store: Store) -> Attachment:
    """Machines that have something for their class, for devices, and for what was detached; and a stranger."""
    machine = store.machine(WEB)
    assert machine is not None
    nic = next(row for row in machine.attachments if row.kind == "nic")
    kept = Claim(DISK, 3 * GIB, holder=names.empty_disk_file("old", 3 * GIB))
    plugged = Claim(DISK, 2 * GIB, holder=names.empty_disk_file("data", 2 * GIB))
    function = Claim("vf/eth0", 1, holder=nic.alias)
    store.write(lambda tx: tx.claim(WEB, [*OF_CLASS, kept, plugged, function]))
    store.write(lambda tx: tx.claim(DB, OF_CLASS))
    others = claims_text([Claim(CPU, 2000, holder=STRANGER), Claim(MEMORY, 4 * GIB, holder=STRANGER)])
    store.write(lambda tx: tx.set_meta(META_NEIGHBOURS, others))
    return nic


def test_who_has_what_for_people(cli: Cli, store: Store) -> None:
    planted(store)
    told = [line.split("  ") for line in cli("capacity", "--by", "machine").out.splitlines()]
    lines = [[cell.strip() for cell in line if cell] for line in told]
    assert lines == [
        ["ID", "NAME", "FOR", "CPU", "MEMORY", "DISK", "DEVICES"],
        [WEB, "default/web", "class c1-m1", "1 CPU", "1 GiB", "10 GiB", "-"],
        [WEB, "default/web", 'network interface "lan"', "-", "-", "-", "vf/eth0 1"],
        [WEB, "default/web", 'volume "data"', "-", "-", "2 GiB", "-"],
        [WEB, "default/web", lines[4][2], "-", "-", "3 GiB", "-"],
        [DB, "default/db", "class c1-m1", "1 CPU", "1 GiB", "10 GiB", "-"],
        [STRANGER, "-", "a domain that is not ours", "2 CPUs", "4 GiB", "-", "-"],
    ]
    assert lines[4][2].startswith("a detached disk that keeps its data (empty-")


def test_its_sum_is_what_is_counted(cli: Cli, store: Store) -> None:
    nic = planted(store)
    shown = json.loads(cli("capacity", "--by", "machine", "-o", "json").out)
    summed: Counter[str] = Counter()
    for each in shown:
        summed.update(each["claims"])
    counted = store.usage().plus(claims_of_text(store.meta(META_NEIGHBOURS)))
    assert dict(summed) == {resource: amount for (resource, _), amount in counted.claimed.items()}
    assert [each["device"] for each in shown if each["device"]] == [nic.alias, names.alias("volume", "data", 1)]
    assert [each["ours"] for each in shown] == [True] * 5 + [False]


def test_a_device_on_its_way_out_is_called_so(cli: Cli, store: Store) -> None:
    nic = planted(store)
    store.write(lambda tx: tx.set_wanted(WEB, nic.key, wanted=False, changed_at=NOW))
    assert 'network interface "lan" (detached)' in cli("capacity", "--by", "machine").out


def test_of_an_older_version_nobody_knows_whose_it_is(cli: Cli, store: Store) -> None:
    store.write(lambda tx: tx.set_meta(META_NEIGHBOURS, '[["cpu", 2000]]'))
    (share,) = json.loads(cli("capacity", "--by", "machine", "-o", "json").out)
    assert (share["id"], share["ours"], share["claims"]) == (None, False, {"cpu": 2000})


def test_it_goes_with_data_alone(cli: Cli) -> None:
    assert cli("capacity", "--by", "machine", "--watch").status == 2
    assert cli("capacity", "--by", "machine", "-o", "prometheus").status == 2
