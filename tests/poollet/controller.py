"""The machine controller and its relist, call for call (contract A.3, A.5, A.10, A.12).

`Poollet.tick` is one second of the real one: the relist, compared with the last by whole-message equality, then a
reconcile of each machine that differs, that its user changed, or whose last reconcile failed. Its defects are kept:
power is not sent at create; one volume that is not ready takes all volumes with it; a machine is created only with as
many network interfaces as volumes; status is read only once the generation of its annotation was observed. Every reply
passes `watch.py`. Scenarios and waiting do not belong here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import grpc

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests.poollet import watch
from tests.poollet.api import ApiMachine, ApiStatus
from tests.poollet.watch import NAME, NAMESPACE, UID, Broken, Panic, Sent

GENERATION = "machinepoollet.spheric.cloud/machine-generation"
SRI_GENERATION = "machinepoollet.spheric.cloud/srimachine-generation"
NIC_MAPPING = "machinepoollet.spheric.cloud/networkinterfacemapping"

STATES = {
    pb.MACHINE_PENDING: "Pending",
    pb.MACHINE_RUNNING: "Running",
    pb.MACHINE_SUSPENDED: "Shutdown",
    pb.MACHINE_TERMINATED: "Terminated",
}


class Entry(Protocol):
    """A Volume or a NetworkInterface."""

    @property
    def name(self) -> str: ...


class Failed(Exception):
    """A reconcile ended with an error; it is tried again."""


class Poollet:
    """One poollet on one provider. `stub` is a blocking MachineRuntimeStub; `calls` the log of all that it asked."""

    def __init__(self, stub: Any, machines: Iterable[ApiMachine] = ()) -> None:
        self.stub = stub
        self.machines: dict[str, ApiMachine] = {machine.uid: machine for machine in machines}
        self.calls: list[str] = []
        self.errors: list[str] = []
        self.sent: dict[str, Sent] = {}
        self._listed: dict[str, pb.Machine] = {}
        self._seen: dict[str, object] = {}
        self._failed: set[str] = set()

    def add(self, machine: ApiMachine) -> ApiMachine:
        self.machines[machine.uid] = machine
        return machine

    # --- the second's beat -----------------------------------------------------------------------

    def tick(self) -> bool:
        """Relist once and reconcile what has to be; whether there was anything to do."""
        due = self.relist() | self._failed | {uid for uid, each in self.machines.items() if self._touched(each)}
        self._failed = set()
        self._delete_unknown(due - self.machines.keys())
        for uid in sorted(due & self.machines.keys()):
            machine = self.machines[uid]
            self._seen[uid] = self._user_side(machine)
            try:
                self.reconcile(machine)
            except (Failed, grpc.RpcError) as error:
                self.errors.append(f"{machine.name}: {_words(error)}")
                self._failed.add(uid)
        return bool(due)

    def relist(self) -> set[str]:
        """The uids of all machines that differ from the last list, are new in it, or gone from it."""
        self.calls.append("ListMachines")
        machines = self._whole(self.stub.ListMachines(pb.ListMachinesRequest(), timeout=10).machines)
        listed = {machine.metadata.id: machine for machine in machines}
        if len(listed) != len(machines):
            raise Panic("an id is listed twice")
        if missing := [uid for uid, sent in self.sent.items() if not sent.deleting and sent.machine_id not in listed]:
            raise Broken(f"taken for gone, and created once more: {missing}")
        before, self._listed = self._listed, listed
        changed = {key for key in before.keys() | listed.keys() if before.get(key) != listed.get(key)}
        both = [each[key] for each in (before, listed) for key in changed if key in each]
        return {machine.metadata.labels[UID] for machine in both if UID in machine.metadata.labels}

    def _touched(self, machine: ApiMachine) -> bool:
        return self._seen.get(machine.uid) != self._user_side(machine)

    @staticmethod
    def _user_side(machine: ApiMachine) -> object:
        devices = [(each.desired().SerializeToString(deterministic=True), each.ready) for each in machine.volumes]
        nics = [each.desired().SerializeToString(deterministic=True) for each in machine.nics]
        return machine.generation, machine.power, machine.deleted, devices, nics

    # --- reconcile -------------------------------------------------------------------------------

    def reconcile(self, machine: ApiMachine) -> None:
        """One pass. Raises Failed or an RPC's error; Panic and Broken when the provider is at fault."""
        found = self._list({UID: machine.uid})
        if machine.deleted:
            self._delete(machine, found)
        elif not found:
            self._create(machine)
        elif len(found) == 1:
            self._update(machine, found[0])
        else:
            raise Panic("unhandled: multiple SRI machines")

    def _create(self, machine: ApiMachine) -> None:
        volumes = self._desired_volumes(machine)
        if volumes is None or len(machine.nics) != len(machine.volumes):  # defect A.10/3
            return
        wanted = pb.Machine()
        wanted.metadata.labels.update({UID: machine.uid, NAMESPACE: machine.namespace, NAME: machine.name})
        wanted.metadata.annotations.update(self._annotations(machine, 1))
        setattr(wanted.spec, "class", machine.machine_class)  # and no power: defect A.10/4
        if machine.image:
            wanted.spec.image.image = machine.image
        wanted.spec.ignition_data = machine.ignition
        wanted.spec.volumes.extend(volumes)
        wanted.spec.network_interfaces.extend(nic.desired() for nic in machine.nics)
        reply = self._call("CreateMachine", pb.CreateMachineRequest(machine=wanted))
        made = watch.whole(reply.machine)
        if made.spec != wanted.spec:
            raise Broken("the reply of CreateMachine has another spec")
        self.sent[machine.uid] = sent = Sent(
            made.metadata.id,
            dict(wanted.metadata.labels),
            made.metadata.created_at,
            volumes={each.name: each for each in volumes},
            nics={each.name: each for each in wanted.spec.network_interfaces},
        )
        watch.as_sent(made, sent)
        self._read_status(machine, made)
        if [each.metadata.id for each in self._list({UID: machine.uid})] != [made.metadata.id]:
            raise Panic("a machine is not listed right after its create: a second one would be created")

    def _update(self, machine: ApiMachine, found: pb.Machine) -> None:
        machine_id = found.metadata.id
        errors: list[str] = []
        wanted_nics = {nic.name: nic.desired() for nic in machine.nics}
        errors += self._sync(machine, "NetworkInterface", machine_id, found.spec.network_interfaces, wanted_nics)
        volumes = self._desired_volumes(machine)
        wanted = {volume.name: volume for volume in volumes or ()}  # None is taken for none: defect A.10/2
        errors += self._sync(machine, "Volume", machine_id, found.spec.volumes, wanted)
        if found.spec.power != machine.power:
            self._mutate(
                machine,
                "UpdateMachinePower",
                pb.UpdateMachinePowerRequest(machine_id=machine_id, power=machine.power),
                lambda sent: setattr(sent, "power", machine.power),
            )
        if errors:
            raise Failed("; ".join(errors))
        annotations = self._annotations(machine, found.metadata.generation)
        if dict(found.metadata.annotations) != annotations:
            self._call(
                "UpdateMachineAnnotations",
                pb.UpdateMachineAnnotationsRequest(machine_id=machine_id, annotations=annotations),
            )
        again = self._list(machine_id=machine_id)
        if not again:
            raise Failed(f"machine {machine_id} not found")
        self._read_status(machine, again[0])

    def _sync(
        self, machine: ApiMachine, kind: str, machine_id: str, found: Iterable[Entry], wanted: dict[str, Any]
    ) -> list[str]:
        """Detach what differs or is unwanted, attach what is missing by name; the errors of all."""
        errors: list[str] = []
        present: set[str] = set()
        field = "volume" if kind == "Volume" else "network_interface"
        for entry in found:
            if wanted.get(entry.name) == entry:
                present.add(entry.name)
                continue
            request = getattr(pb, f"Detach{kind}Request")(machine_id=machine_id, name=entry.name)
            try:
                self._mutate(machine, f"Detach{kind}", request, _forget(kind, entry.name))
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    errors.append(_words(error))
                    present.add(entry.name)
        for name in [name for name in wanted if name not in present]:
            request = getattr(pb, f"Attach{kind}Request")(machine_id=machine_id, **{field: wanted[name]})
            try:
                self._mutate(machine, f"Attach{kind}", request, _remember(kind, wanted[name]))
            except grpc.RpcError as error:
                errors.append(_words(error))
        return errors

    def _delete(self, machine: ApiMachine, found: list[pb.Machine]) -> None:
        sent = self.sent.get(machine.uid)
        if sent:
            sent.deleting = True
        gone = True
        for each in found:
            try:
                self._call("DeleteMachine", pb.DeleteMachineRequest(machine_id=each.metadata.id))
                gone = False
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
        if not gone:
            raise Failed("the machine is still there")
        self.sent.pop(machine.uid, None)
        del self.machines[machine.uid]  # the finalizer goes

    def _delete_unknown(self, uids: set[str]) -> None:
        """Machines that are listed and whose API objects are gone: found by their names, and deleted."""
        for listed in [each for each in self._listed.values() if each.metadata.labels.get(UID) in uids]:
            labels = listed.metadata.labels
            for each in self._list({NAMESPACE: labels[NAMESPACE], NAME: labels[NAME]}):
                self._call("DeleteMachine", pb.DeleteMachineRequest(machine_id=each.metadata.id))

    def forget(self) -> None:
        """What it has sent counts no more: the provider's store was put back from a backup. What it listed does."""
        self.sent = {
            uid: Sent(sent.machine_id, sent.labels, sent.created_at, unsure=True) for uid, sent in self.sent.items()
        }

    # --- status ----------------------------------------------------------------------------------

    def gated(self, machine: ApiMachine) -> bool:
        """Whether its status is not read now, because its generation was not observed yet (A.5/4)."""
        sent = self.sent.get(machine.uid)
        listed = self._listed.get(sent.machine_id) if sent else None
        return listed is not None and listed.status.observed_generation < int(
            listed.metadata.annotations.get(SRI_GENERATION, "0")
        )

    def _read_status(self, machine: ApiMachine, found: pb.Machine) -> None:
        annotations = found.metadata.annotations
        try:
            generation, required = int(annotations.get(GENERATION, "")), int(annotations.get(SRI_GENERATION, ""))
            mapping = json.loads(annotations.get(NIC_MAPPING, ""))
        except (KeyError, ValueError) as error:
            raise Broken(f"annotations of {found.metadata.id} were lost or changed: {error!r}") from error
        status = found.status
        if status.observed_generation < required:
            return
        # Entries are matched by name; one that is missing is Pending.
        by_name = {each.name: (pb.VolumeState.Name(each.state), each.handle) for each in status.volumes}
        nics = {each.name: each for each in status.network_interfaces}
        machine.status = ApiStatus(
            machine_id=f"sri-libvirt://{found.metadata.id}",
            observed_generation=generation,
            state=STATES[status.state],
            volumes={each.name: by_name.get(each.name, ("VOLUME_PENDING", "")) for each in machine.volumes},
            nics={
                each.name: pb.NetworkInterfaceState.Name(nics[each.name].state)
                if each.name in nics
                else "NETWORK_INTERFACE_PENDING"
                for each in machine.nics
            },
        )
        for nic in machine.nics:
            if mapping.get(nic.name, {}).get("uid") == nic.uid:
                nic.provider_id = nics[nic.name].handle if nic.name in nics else ""

    # --- exec ------------------------------------------------------------------------------------

    def exec(self, machine: ApiMachine) -> int:
        """What a user's exec is answered over HTTP."""
        found = self._list({NAMESPACE: machine.namespace, NAME: machine.name})
        if not found:
            return 404
        try:
            self._call("Exec", pb.ExecRequest(machine_id=found[0].metadata.id))
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise Panic("invalid WriteHeader code 0") from error  # defect A.10/7
            return 404 if error.code() is grpc.StatusCode.NOT_FOUND else 500
        return 302

    # --- calls -----------------------------------------------------------------------------------

    def _desired_volumes(self, machine: ApiMachine) -> list[pb.Volume] | None:
        """Connections first, then empty disks; None as soon as one of them is not ready."""
        if not all(volume.ready for volume in machine.volumes):
            return None
        return [volume.desired() for volume in sorted(machine.volumes, key=lambda each: each.connection is None)]

    def _annotations(self, machine: ApiMachine, sri_generation: int) -> dict[str, str]:
        mapping = {nic.name: {"name": nic.name, "uid": nic.uid} for nic in machine.nics}
        return {
            GENERATION: str(machine.generation),
            SRI_GENERATION: str(sri_generation),
            NIC_MAPPING: json.dumps(mapping, separators=(",", ":")),
        }

    def _list(self, labels: dict[str, str] | None = None, machine_id: str = "") -> list[pb.Machine]:
        self.calls.append("ListMachines")
        request = pb.ListMachinesRequest(filter=pb.MachineFilter(id=machine_id, label_selector=labels or {}))
        return self._whole(self.stub.ListMachines(request, timeout=10).machines)

    def _whole(self, machines: Iterable[pb.Machine]) -> list[pb.Machine]:
        found = [watch.whole(machine) for machine in machines]
        watch.one_per_uid(found)
        for machine in found:
            sent = self.sent.get(machine.metadata.labels.get(UID, ""))
            if sent:
                watch.as_sent(machine, sent)
        return found

    def _mutate(self, machine: ApiMachine, method: str, request: Any, accepted: Callable[[Sent], None]) -> None:
        sent = self.sent[machine.uid]
        try:
            self._call(method, request)
        except grpc.RpcError as error:
            sent.unsure = error.code() in watch.WITHOUT_ANSWER
            raise
        accepted(sent)

    def _call(self, method: str, request: Any) -> Any:
        self.calls.append(method)
        return getattr(self.stub, method)(request, timeout=10)


def _remember(kind: str, entry: Any) -> Callable[[Sent], None]:
    def accepted(sent: Sent) -> None:
        entries: dict[str, Any] = sent.volumes if kind == "Volume" else sent.nics
        entries[entry.name] = entry

    return accepted


def _forget(kind: str, name: str) -> Callable[[Sent], None]:
    def accepted(sent: Sent) -> None:
        (sent.volumes if kind == "Volume" else sent.nics).pop(name, None)
        sent.handles.pop(f"{'volume' if kind == 'Volume' else 'nic'} {name}", None)

    return accepted


def _words(error: Exception) -> str:
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.RpcError) else str(error)
