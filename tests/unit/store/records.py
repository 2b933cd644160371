"""Records with something in every field, so that what is lost is seen."""

from __future__ import annotations

from typing import Any

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import BackingFile, DiskSource, FileIdentity, NicBackend
from sri_libvirt.records import (
    LABEL_NAME,
    LABEL_NAMESPACE,
    LABEL_UID,
    Attachment,
    ClassPolicy,
    Machine,
    MachineClass,
    Profile,
    Reason,
    Run,
    StopCause,
    StopEvent,
)

PROFILE = Profile(
    layout=1,
    domain_type="qemu",
    machine_type="pc-q35-7.2",
    cpu_mode="maximum",
    cpu_model="",
    vcpus=2,
    cpu_millis=1500,
    memory_bytes=1 << 30,
    firmware="uefi",
    loader="/ovmf",
    loader_format="raw",
    nvram_template="/vars",
    ports=24,
    emulator="/qemu",
)
DISK = DiskSource("h", "/d.qcow2", "qcow2", 512, True, BackingFile("/b", "raw", FileIdentity(1, 2, 3)))
NIC = NicBackend("h", "network", "lan")


def machine(machine_id: str = "m1", **fields: Any) -> Machine:
    """A machine with few fields set."""
    values: dict[str, Any] = {
        "labels": {},
        "annotations": {},
        "spec": pb.MachineSpec(**{"class": "small"}),  # type: ignore[arg-type]
        "status": pb.MachineStatus(),
        "generation": 1,
        "observed_generation": 0,
        "created_at": 10,
        "deleted_at": 0,
        "power_at": 10,
        "machine_class": MachineClass("small", 1000, 1 << 30),
    }
    return Machine(id=machine_id, **{**values, **fields})


def labelled(machine_id: str, uid: str) -> Machine:
    """A machine with the poollet's three labels."""
    return machine(machine_id, labels={LABEL_UID: uid, LABEL_NAMESPACE: "ns", LABEL_NAME: "n"})


def row(
    machine_id: str = "m1", kind: Any = "volume", name: str = "v", incarnation: int = 1, **fields: Any
) -> Attachment:
    """An attachment."""
    spec = pb.NetworkInterface(name=name) if kind == "nic" else pb.Volume(name=name, empty_disk=pb.EmptyDisk())
    return Attachment(machine_id, kind, name, incarnation, spec.SerializeToString(), True, 10, **fields)


def full(machine_id: str = "m1") -> Machine:
    """A machine with every field set."""
    return machine(
        machine_id,
        labels={LABEL_UID: "u", LABEL_NAMESPACE: "ns", LABEL_NAME: "n", "é": "\t"},
        annotations={"": "", "a": "\U0001f600"},
        spec=pb.MachineSpec(power=pb.POWER_OFF, ignition_data=b"\x00\xff", image=pb.ImageSpec()),
        status=pb.MachineStatus(state=pb.MACHINE_RUNNING, observed_generation=3, image_ref="i"),
        generation=4,
        observed_generation=3,
        deleted_at=99,
        power_at=50,
        machine_class=MachineClass("c", 10, 20, ClassPolicy(30, "uefi")),
        profile=PROFILE,
        run=Run("u", "b", 1, 2, 3, 4, StopCause.GUEST, 5, 6, 7, "e"),
        stop_event=StopEvent("guest", "shutdown", 77),
        reasons=(Reason("code", "message", "advice", 5, True), Reason("c2", "m2")),
        attachments=(
            row(machine_id, "nic", "n", mac="02:00:00:00:00:01", port=2, backing=NIC),
            row(machine_id, target="vda", serial="s", backing=DISK, problem="p", problem_advice="a", problem_at=8),
        ),
    )
