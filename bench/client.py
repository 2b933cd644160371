"""A provider's process and a client of it that measures.

Which figures are made of it does not belong here.
"""

from __future__ import annotations

import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import psutil

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.api.machine.v1alpha1.api_pb2_grpc import MachineRuntimeStub
from sri_libvirt.records import LABEL_NAME, LABEL_NAMESPACE, LABEL_UID, set_class_name

PATIENCE = 120.0
LIMITS = (("grpc.max_receive_message_length", -1),)
MIB = 1 << 20


def milliseconds(act: Callable[[], object]) -> float:
    """How long an act took."""
    begun = time.perf_counter()
    act()
    return (time.perf_counter() - begun) * 1000


def until(what: str, condition: Callable[[], object], pause: float = 0.0) -> None:
    """Wait on a condition, as fast as it can be asked unless there is a pause."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"waited {PATIENCE:g} s in vain: {what}")
        time.sleep(pause)


class Provider:
    """A provider as a process below `root`, answering at `root/sri.sock`."""

    def __init__(self, root: Path, command: Sequence[str], popen: Callable[..., subprocess.Popen[Any]]) -> None:
        self.root = root
        self.first_list = 0.0
        with (root / "provider.log").open("ab") as log:
            begun = time.perf_counter()
            self._process = popen(command, stdout=log, stderr=log)
        address = f"unix://{root}/sri.sock"
        until("its socket", self._listens, 0.002)
        self.channel = grpc.insecure_channel(address, options=LIMITS)
        self.stub = MachineRuntimeStub(self.channel)
        self._list = self.channel.unary_unary("/machine.v1alpha1.MachineRuntime/ListMachines", None, None)
        self.stub.ListMachines(pb.ListMachinesRequest(), wait_for_ready=True, timeout=PATIENCE)
        self.first_list = time.perf_counter() - begun
        self.usage = psutil.Process(self._process.pid)

    def _listens(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"the provider did not start: {self._said()}")
        return (self.root / "sri.sock").exists()

    def _said(self) -> str:
        return (self.root / "provider.log").read_text()[-2000:]

    def stop(self) -> None:
        """End it in order."""
        self.channel.close()
        self._process.terminate()
        if self._process.wait(PATIENCE) != 0:
            raise RuntimeError(f"the provider failed: {self._said()}")

    def cpu(self) -> float:
        """Seconds of CPU that the process has used."""
        times = self.usage.cpu_times()
        return float(times.user + times.system)

    def listing(self) -> bytes:
        """A list's reply, as it comes over the wire."""
        reply: bytes = self._list(b"")
        return reply

    def machines(self) -> list[pb.Machine]:
        return list(pb.ListMachinesResponse.FromString(self.listing()).machines)

    def find(self, machine_id: str) -> pb.Machine | None:
        """One machine, by the id filter."""
        found = self.stub.ListMachines(pb.ListMachinesRequest(filter=pb.MachineFilter(id=machine_id))).machines
        return found[0] if found else None

    def state(self, machine_id: str) -> str:
        machine = self.find(machine_id)
        return pb.MachineState.Name(machine.status.state).removeprefix("MACHINE_") if machine else "GONE"

    def create(self, request: pb.CreateMachineRequest | None = None) -> str:
        reply = self.stub.CreateMachine(request or machine_request())
        return str(reply.machine.metadata.id)

    def power(self, machine_id: str, power: pb.Power) -> None:
        self.stub.UpdateMachinePower(pb.UpdateMachinePowerRequest(machine_id=machine_id, power=power))

    def attach(self, machine_id: str, volume: pb.Volume) -> None:
        self.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=volume))

    def detach(self, machine_id: str, name: str) -> None:
        self.stub.DetachVolume(pb.DetachVolumeRequest(machine_id=machine_id, name=name))

    def delete(self, machine_id: str) -> None:
        self.stub.DeleteMachine(pb.DeleteMachineRequest(machine_id=machine_id))

    def running(self) -> int:
        """Machines that run and are not being deleted: one of those is still RUNNING until its guest has ended."""
        machines = self.machines()
        return sum(each.status.state == pb.MACHINE_RUNNING and not each.metadata.deleted_at for each in machines)


def machine_request(power: pb.Power = pb.POWER_ON) -> pb.CreateMachineRequest:
    """A machine as the poollet makes one, of about 370 bytes in a list: labels, an annotation, one NIC."""
    uid = str(uuid.uuid4())
    machine = pb.Machine(spec=pb.MachineSpec(power=power))
    set_class_name(machine.spec, "c1-m1")
    machine.metadata.labels.update({LABEL_UID: uid, LABEL_NAMESPACE: "default", LABEL_NAME: f"machine-{uid[:8]}"})
    machine.spec.network_interfaces.add(name="nic", network_id="isolated")
    return pb.CreateMachineRequest(machine=machine)
