"""What a provider must never let happen to a poollet, checked at every reply.

Two kinds: `Panic` ends the real poollet's process (a nil dereference, two machines of a uid); `Broken` is what would
make it detach, attach or write for ever, or take a machine for gone. What the poollet does does not belong here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import Message

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb

UID = "machinepoollet.spheric.cloud/machine-uid"
NAMESPACE = "machinepoollet.spheric.cloud/machine-namespace"
NAME = "machinepoollet.spheric.cloud/machine-name"

WITHOUT_ANSWER = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
    }
)
"""Codes of a call that may have been carried out all the same."""


class Panic(AssertionError):
    """The Go process would end here."""


class Broken(AssertionError):
    """The provider broke the contract, and the poollet would act on it."""


@dataclass
class Sent:
    """What the provider has accepted for one machine, and so has to return."""

    machine_id: str
    labels: dict[str, str]
    created_at: int
    power: pb.Power = pb.POWER_ON
    generation: int = 0
    volumes: dict[str, pb.Volume] = field(default_factory=dict)
    nics: dict[str, pb.NetworkInterface] = field(default_factory=dict)
    deleting: bool = False
    handles: dict[str, str] = field(default_factory=dict)
    unsure: bool = False
    """A call ended without an answer: what is listed next is what was accepted."""

    def adopt(self, spec: pb.MachineSpec) -> None:
        """Take what the provider lists for what it accepted."""
        self.power = spec.power
        self.volumes = {each.name: each for each in spec.volumes}
        self.nics = {each.name: each for each in spec.network_interfaces}
        self.handles.clear()
        self.unsure = False


def whole(machine: pb.Machine) -> pb.Machine:
    """The machine, no sub-message of which is nil and no state of which is unknown."""
    for name in ("metadata", "spec", "status"):
        if not machine.HasField(name):
            raise Panic(f"{name} of {machine.metadata.id!r} is nil")
    status = machine.status
    known: Iterable[tuple[int, Iterable[int]]] = [
        (status.state, pb.MachineState.values()),
        *((each.state, pb.VolumeState.values()) for each in status.volumes),
        *((each.state, pb.NetworkInterfaceState.values()) for each in status.network_interfaces),
    ]
    if any(number not in numbers for number, numbers in known):
        raise Broken(f"a state of {machine.metadata.id} is unknown: {status}")
    return machine


def one_per_uid(machines: Iterable[pb.Machine]) -> None:
    """Raises Panic for two machines of one uid, among those that carry the poollet's three labels."""
    labels = [machine.metadata.labels for machine in machines]
    counts = Counter(each[UID] for each in labels if {UID, NAMESPACE, NAME} <= each.keys())
    if twice := [uid for uid, count in counts.items() if count > 1]:
        raise Panic(f"multiple SRI machines of uid {twice}")


def as_sent(machine: pb.Machine, sent: Sent) -> None:
    """Raises Broken where the machine is not what the provider accepted: each would be a spurious call."""
    metadata, spec = machine.metadata, machine.spec
    if sent.unsure:
        sent.adopt(spec)
    if metadata.id != sent.machine_id:
        raise Broken(f"{sent.machine_id} became {metadata.id}")
    if dict(metadata.labels) != sent.labels:
        raise Broken(f"labels of {metadata.id} are {dict(metadata.labels)}")
    if metadata.created_at != sent.created_at:
        raise Broken(f"created_at of {metadata.id} changed")
    if bool(metadata.deleted_at) and not sent.deleting:
        raise Broken(f"{metadata.id} is being deleted, and nobody asked for that")
    if metadata.generation < sent.generation:
        raise Broken(f"the generation of {metadata.id} went back from {sent.generation}")
    if machine.status.observed_generation > metadata.generation:
        raise Broken(f"{metadata.id} observed a generation that it never had")
    if spec.power != sent.power:
        raise Broken(f"spurious UpdateMachinePower: {metadata.id} was told {sent.power}")
    _same("volume", {each.name: each for each in spec.volumes}, len(spec.volumes), sent.volumes)
    _same(
        "network interface", {each.name: each for each in spec.network_interfaces}, len(spec.network_interfaces),
        sent.nics,
    )  # fmt: skip
    _handles(machine, sent)
    sent.generation = metadata.generation


def _same(kind: str, found: Mapping[str, Message], count: int, sent: Mapping[str, Message]) -> None:
    if count != len(found):
        raise Broken(f"a {kind} is there twice: {sorted(found)}")
    for name in found.keys() | sent.keys():
        if found.get(name) != sent.get(name):
            raise Broken(f"spurious detach of {kind} {name!r}: {sent.get(name)} came back as {found.get(name)}")


def _handles(machine: pb.Machine, sent: Sent) -> None:
    """Handles are there with ATTACHED, and do not change while the spec of their device does not."""
    attached = pb.NETWORK_INTERFACE_ATTACHED
    entries = [
        *((f"volume {each.name}", each.handle, each.state == pb.VOLUME_ATTACHED) for each in machine.status.volumes),
        *((f"nic {each.name}", each.handle, each.state == attached) for each in machine.status.network_interfaces),
    ]
    current = machine.status.observed_generation == machine.metadata.generation
    for name, handle, is_attached in entries:
        if is_attached and not handle:
            raise Broken(f"{name} of {machine.metadata.id} is attached without a handle")
        if current and handle and sent.handles.setdefault(name, handle) != handle:
            raise Broken(f"the handle of {name} changed from {sent.handles[name]} to {handle}")
