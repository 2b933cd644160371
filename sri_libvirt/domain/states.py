"""Domain states as the SRI has them: a table (contract A.7, G.11).

What a machine is when no domain is active depends on its power and its deletion, which does not belong here.
"""

from __future__ import annotations

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.hypervisor.base import DomainState

_STATES: dict[DomainState, pb.MachineState] = {
    DomainState.RUNNING: pb.MACHINE_RUNNING,
    DomainState.SHUTTING_DOWN: pb.MACHINE_RUNNING,  # until its guest is off
    DomainState.PAUSED: pb.MACHINE_PENDING,
    DomainState.SUSPENDED: pb.MACHINE_PENDING,
    DomainState.CRASHED: pb.MACHINE_PENDING,  # started again
    DomainState.UNKNOWN: pb.MACHINE_PENDING,
    DomainState.OFF: pb.MACHINE_SUSPENDED,  # which the API shows as "Shutdown", never TERMINATED
}


def machine_state(state: DomainState) -> pb.MachineState:
    """The SRI's word for a domain's state."""
    return _STATES[state]
