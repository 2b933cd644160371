"""Names that are derived, and so have to stay what they are for machines that exist."""

from __future__ import annotations

import re
import uuid

import pytest

from sri_libvirt import names

MACHINE = "6b3ffb4e-8d3c-4f52-9d0a-0d2f3c1f0a01"


@pytest.mark.rule("R-G12-1")
@pytest.mark.parametrize(("device", "target"), [("oda", "vda"), ("odab", "vdab"), ("sda", "vda"), ("odzz", "vdzz")])
def test_target(device: str, target: str) -> None:
    assert names.target_of(device) == target


def test_targets_are_the_apis_names_in_order_and_none_of_ours() -> None:
    targets = list(names.targets())
    assert (len(targets), targets[0], targets[25:27], targets[-1]) == (702, "vda", ["vdz", "vdaa"], "vdzz")
    assert [names.target_of(names.device_of(target)) for target in targets] == targets
    assert not {names.IMAGE_TARGET, names.SEED_TARGET} & set(targets)


@pytest.mark.rule("R-G12-6")
@pytest.mark.parametrize("device", ["oda", "odab"])
def test_serial(device: str) -> None:
    serial = names.serial(device, "ceph", "4711")
    assert re.fullmatch(rf"{device}-[0-9a-f]{{15}}", serial)
    assert len(serial) <= 20, "virtio-blk shows no more"
    assert serial == names.serial(device, "ceph", "4711") != names.serial(device, "ceph4", "711")


@pytest.mark.rule("R-G13-2")
def test_mac_address() -> None:
    macs = [names.mac_address(MACHINE, "nic"), names.mac_address(MACHINE, "nic", 1), names.mac_address(MACHINE, "lan")]
    assert len(set(macs)) == 3
    assert macs[0] == names.mac_address(MACHINE, "nic")
    for mac in macs:
        assert re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", mac)
        assert int(mac[:2], 16) & 0b11 == 0b10, "locally administered, unicast"


@pytest.mark.parametrize("name", ["data", "a.b=c", "ü/../x", ""])
def test_alias_is_one_that_libvirt_keeps(name: str) -> None:
    alias = names.alias("volume", name, 7)
    assert re.fullmatch(r"ua-vol-[0-9a-f]{16}-7", alias)
    assert alias != names.alias("nic", name, 7)


def test_a_hosts_iscsi_name_stays_what_targets_let_in() -> None:
    instance = "11111111-aaaa-4000-8000-000000000001"
    assert names.initiator(instance) == "iqn.2024-01.cloud.spheric:sri-libvirt.285243c99239c4a4"


def test_secret_uuids_are_uuids_of_their_own() -> None:
    found = {
        names.secret_uuid(machine, volume, purpose)
        for machine in ("a", "b")
        for volume in ("data", "log")
        for purpose in ("auth", "encryption")
    }
    assert len(found) == 8
    assert all(str(uuid.UUID(each)) == each for each in found)
