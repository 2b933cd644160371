"""The SRI status of a machine: every state by a table, devices in the order of the spec, handles from the beginning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DiskSource, NicBackend
from sri_libvirt.hypervisor.base import DomainState
from sri_libvirt.reconcile import status
from sri_libvirt.reconcile.view import Observed
from sri_libvirt.records import Run, StopCause
from tests.unit.reconcile.world import POLICY, T0, machine, nic_row, snapshot, volume_row

DISK = DiskSource("disk-handle", "/d", "qcow2", 512)
GUEST_OFF = Run(uuid="r", started_at=T0, stopped=StopCause.GUEST, stopped_at=T0 + 1)


def seen(state: DomainState | None = None, **changes: Any) -> Observed:
    return Observed(domain=None if state is None else snapshot(state), boot_id="b", **changes)


@pytest.mark.parametrize(
    ("domain", "changes", "run", "state"),
    [
        (None, {}, Run(), "PENDING"),
        (DomainState.OFF, {}, Run(), "PENDING"),
        (DomainState.CRASHED, {}, Run(), "PENDING"),
        (DomainState.RUNNING, {}, Run(), "RUNNING"),
        (DomainState.SHUTTING_DOWN, {}, Run(), "RUNNING"),
        (DomainState.PAUSED, {}, Run(), "PENDING"),
        (DomainState.SUSPENDED, {}, Run(), "PENDING"),
        (None, {"power": pb.POWER_OFF}, Run(), "SUSPENDED"),
        (DomainState.OFF, {"power": pb.POWER_OFF}, Run(), "SUSPENDED"),
        (DomainState.RUNNING, {"power": pb.POWER_OFF}, Run(), "RUNNING"),
        (DomainState.OFF, {}, GUEST_OFF, "SUSPENDED"),
        (DomainState.OFF, {"power_at": T0 + 2}, GUEST_OFF, "PENDING"),
        (DomainState.OFF, {}, replace(GUEST_OFF, stopped=StopCause.REQUESTED), "PENDING"),
        (DomainState.RUNNING, {"deleted_at": T0}, Run(), "RUNNING"),
        (DomainState.PAUSED, {"deleted_at": T0}, Run(), "RUNNING"),
        (DomainState.OFF, {"deleted_at": T0}, Run(), "TERMINATED"),
        (None, {"deleted_at": T0, "power": pb.POWER_OFF}, Run(), "TERMINATED"),
    ],
)
@pytest.mark.rule("R-A7-1", "R-A7-4", "R-G11-3")
def test_state(domain: DomainState | None, changes: dict[str, Any], run: Run, state: str) -> None:
    made = status.build(machine(**changes), seen(domain), run, POLICY)
    assert pb.MachineState.Name(made.state) == f"MACHINE_{state}"


def test_a_guests_power_off_is_pending_where_it_is_started_again() -> None:
    policy = replace(POLICY, restart_after_guest_poweroff=True)
    assert status.build(machine(), seen(DomainState.OFF), GUEST_OFF, policy).state == pb.MACHINE_PENDING


def test_somebody_elses_domain_says_nothing_about_the_machine() -> None:
    made = status.build(machine(), seen(DomainState.RUNNING, foreign=True), Run(), POLICY)
    assert made.state == pb.MACHINE_PENDING


@pytest.mark.parametrize(
    ("domain", "live", "persistent", "attached"),
    [
        (DomainState.RUNNING, True, False, True),
        (DomainState.RUNNING, False, True, False),
        (DomainState.OFF, False, True, True),
        (DomainState.OFF, False, False, False),
        (None, False, False, False),
    ],
)
@pytest.mark.rule("R-G11-1")
def test_attached_is_in_the_live_xml_and_of_a_machine_that_is_off_in_the_persistent_one(
    domain: DomainState | None, live: bool, persistent: bool, attached: bool
) -> None:
    disk = volume_row(backing=DISK)
    nic = nic_row(backing=NicBackend("h", "network", "net"))
    aliases = frozenset({disk.alias, nic.alias})
    none: frozenset[str] = frozenset()
    observed = seen(domain, live=aliases if live else none, persistent=aliases if persistent else none)
    made = status.build(machine(disk, nic), observed, Run(), POLICY)
    assert (made.volumes[0].state == pb.VOLUME_ATTACHED) is attached
    assert (made.network_interfaces[0].state == pb.NETWORK_INTERFACE_ATTACHED) is attached


@pytest.mark.rule("R-A7-2")
def test_devices_come_in_the_order_of_the_spec() -> None:
    first, second = volume_row("zeta"), volume_row("alpha", target="vdb")
    record = machine(first, second)
    for rows in ((first, second), (second, first)):
        made = status.build(replace(record, attachments=rows), seen(), Run(), POLICY)
        assert [volume.name for volume in made.volumes] == ["zeta", "alpha"]


@pytest.mark.rule("R-A7-3", "R-G11-2")
def test_a_device_has_its_handle_before_it_is_prepared() -> None:
    made = status.build(machine(volume_row(), nic_row()), seen(), Run(), POLICY)
    assert [made.volumes[0].handle, made.network_interfaces[0].handle] == ["handle-data", "handle-nic"]
    made = status.build(machine(volume_row(backing=DISK)), seen(), Run(), POLICY)
    assert made.volumes[0].handle == "disk-handle"


def test_the_latest_incarnation_counts() -> None:
    old, new = volume_row(wanted=False, backing=DISK), volume_row(incarnation=2)
    record = replace(machine(new), attachments=(old, new))
    made = status.build(record, seen(DomainState.RUNNING, live=frozenset({old.alias})), Run(), POLICY)
    assert [(each.handle, each.state) for each in made.volumes] == [("handle-data", pb.VOLUME_PENDING)]


def test_what_was_detached_is_gone_from_the_status() -> None:
    old = volume_row(wanted=False, backing=DISK)
    made = status.build(machine(old), seen(DomainState.RUNNING, live=frozenset({old.alias})), Run(), POLICY)
    assert not made.volumes


def test_generation_and_image() -> None:
    record = machine(generation=7)
    record.spec.image.image = "/images/a.raw"
    made = status.build(record, seen(), Run(), POLICY)
    assert (made.observed_generation, made.image_ref) == (7, "/images/a.raw")
    assert status.build(machine(), seen(), Run(), POLICY).image_ref == ""
