"""The SRI status of a machine, from its record and what was observed (contract A.7, G.11). Pure.

Why something is pending does not belong here (that is `plan.py` with `reasons.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import shown_handle
from sri_libvirt.domain.states import machine_state
from sri_libvirt.errors import InvalidSpec
from sri_libvirt.reconcile import drift
from sri_libvirt.reconcile.view import Observed, Policy
from sri_libvirt.records import Attachment, Machine, Run, StopCause


def wanted_rows(machine: Machine) -> dict[tuple[str, str], Attachment]:
    """The wanted row of each (kind, name); there is never more than one."""
    return {(row.kind, row.name): row for row in machine.attachments if row.wanted}


def build(machine: Machine, observed: Observed, run: Run, policy: Policy) -> pb.MachineStatus:
    """The status as of this pass: volumes and NICs in the order of the spec, so that equal states are equal."""
    status = pb.MachineStatus(observed_generation=machine.generation, state=_state(machine, observed, run, policy))
    if machine.spec.HasField("image"):
        status.image_ref = machine.image.reference if machine.image else machine.spec.image.image
    rows = wanted_rows(machine)
    present = observed.live - drift.astray(machine, observed) if observed.active else observed.persistent
    before = {(kind, each.name): each.handle for kind, each in _devices(machine.status)}
    for volume in machine.spec.volumes:
        row = rows.get(("volume", volume.name))
        if row:
            state = pb.VOLUME_ATTACHED if _attached(row, present) else pb.VOLUME_PENDING
            status.volumes.add(name=volume.name, handle=_handle(row, policy, before), state=state)
    for nic in machine.spec.network_interfaces:
        row = rows.get(("nic", nic.name))
        if row:
            attached = pb.NETWORK_INTERFACE_ATTACHED if _attached(row, present) else pb.NETWORK_INTERFACE_PENDING
            status.network_interfaces.add(name=nic.name, handle=_handle(row, policy, before), state=attached)
    return status


def unseen(machine: Machine, policy: Policy) -> pb.MachineStatus:
    """The status of a machine that nobody could look at yet: all pending, with the handles (contract G.11)."""
    nothing = Observed(domain=None, boot_id="")
    status = build(machine, nothing, machine.run, policy)
    status.observed_generation = machine.observed_generation
    status.state = pb.MACHINE_PENDING
    return status


def _attached(row: Attachment, present: frozenset[str]) -> bool:
    return row.backing is not None and row.alias in present


def _devices(status: pb.MachineStatus) -> list[tuple[str, pb.VolumeStatus | pb.NetworkInterfaceStatus]]:
    return [("volume", each) for each in status.volumes] + [("nic", each) for each in status.network_interfaces]


def _handle(row: Attachment, policy: Policy, before: Mapping[tuple[str, str], str]) -> str:
    if row.backing:
        return shown_handle(row.backing.handle)
    try:
        return shown_handle(policy.handle_of(row))
    except InvalidSpec:  # its driver is gone, as the reason of its prepare says
        return before.get((row.kind, row.name), "")


def _state(machine: Machine, observed: Observed, run: Run, policy: Policy) -> pb.MachineState:
    if observed.domain is not None and observed.active and not observed.foreign:
        return pb.MACHINE_RUNNING if machine.deleted_at else machine_state(observed.domain.state)
    if machine.deleted_at:
        return pb.MACHINE_TERMINATED
    if machine.spec.power == pb.POWER_OFF or stays_off(machine, run, policy) or policy.drained_since():
        return pb.MACHINE_SUSPENDED
    return pb.MACHINE_PENDING


def stays_off(machine: Machine, run: Run, policy: Policy) -> bool:
    """The guest powered itself off since its power was last set, and such guests are left off (contract G.5)."""
    return (
        run.stopped is StopCause.GUEST
        and run.stopped_at >= machine.power_at
        and not policy.restart_after_guest_poweroff
    )
