"""A poollet's eyes on any test: a stub that remembers what was accepted and checks every list reply against it.

So a scenario that drives the RPCs itself is watched as if the poollet had made them: nothing is spuriously detached,
powered or deleted, no sub-message is nil, no machine is there twice, no handle changes. What the poollet itself would
ask does not belong here (that is `controller.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests.poollet import watch
from tests.poollet.watch import Broken, Sent


class Witness:
    """What one provider has accepted, over all its restarts: `stub(inner)` for each connection to it."""

    def __init__(self) -> None:
        self.sent: dict[str, Sent] = {}
        self.lists = 0

    def stub(self, inner: Any) -> WatchedStub:
        return WatchedStub(inner, self)

    def forget(self) -> None:
        """After what no poollet expects, such as a backup that was put back."""
        self.sent.clear()

    def listed(self, reply: pb.ListMachinesResponse) -> None:
        """Check a list; a machine that is new in it is taken as it is."""
        self.lists += 1
        machines = [watch.whole(machine) for machine in reply.machines]
        watch.one_per_uid(machines)
        for machine in machines:
            metadata = machine.metadata
            sent = self.sent.get(metadata.id)
            if sent is None:
                sent = self.sent[metadata.id] = Sent(metadata.id, dict(metadata.labels), metadata.created_at)
                sent.deleting = bool(metadata.deleted_at)
                sent.adopt(machine.spec)
            watch.as_sent(machine, sent)

    def whole_list(self, reply: pb.ListMachinesResponse) -> None:
        """The same for a list without a filter, from which no machine may be missing that nobody deleted."""
        self.listed(reply)
        there = {machine.metadata.id for machine in reply.machines}
        if missing := [each for each, sent in self.sent.items() if each not in there and not sent.deleting]:
            raise Broken(f"taken for gone, and created once more: {missing}")
        self.sent = {each: sent for each, sent in self.sent.items() if each in there}

    def accepted(self, method: str, request: Any) -> None:
        """A change was acknowledged."""
        sent = self.sent.get(getattr(request, "machine_id", ""))
        if sent is None:
            return
        match method:
            case "DeleteMachine":
                sent.deleting = True
            case "UpdateMachinePower":
                sent.power = request.power
            case "AttachVolume":
                sent.volumes[request.volume.name] = request.volume
            case "AttachNetworkInterface":
                sent.nics[request.network_interface.name] = request.network_interface
            case "DetachVolume":
                sent.volumes.pop(request.name, None)
                sent.handles.pop(f"volume {request.name}", None)
            case "DetachNetworkInterface":
                sent.nics.pop(request.name, None)
                sent.handles.pop(f"nic {request.name}", None)

    def unanswered(self, method: str, request: Any) -> None:
        """A change ended without an answer: the next list says whether it was accepted."""
        sent = self.sent.get(getattr(request, "machine_id", ""))
        if sent is not None:
            sent.unsure = True
            sent.deleting |= method == "DeleteMachine"


class WatchedStub:
    """A MachineRuntimeStub whose calls and replies a Witness sees."""

    def __init__(self, inner: Any, witness: Witness) -> None:
        self._inner = inner
        self._witness = witness

    def __getattr__(self, method: str) -> Callable[..., Any]:
        inner = getattr(self._inner, method)

        def call(request: Any, timeout: float | None = None) -> Any:
            try:
                reply = inner(request, timeout=timeout)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND and method == "DeleteMachine":
                    self._witness.accepted(method, request)
                elif error.code() in watch.WITHOUT_ANSWER:
                    self._witness.unanswered(method, request)
                raise
            if method == "ListMachines":
                whole = not request.HasField("filter")
                (self._witness.whole_list if whole else self._witness.listed)(reply)
            else:
                self._witness.accepted(method, request)
            return reply

        return call
