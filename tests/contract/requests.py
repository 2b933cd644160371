"""Requests as nobody would write them: seeded, hostile, and right often enough to get somewhere.

`Generator.request()` gives a method's name and the bytes of its request; `learn` tells it of machines that were made,
so that later requests hit them. What the answers must be does not belong here.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from ipaddress import IPv4Address

from google.protobuf.message import Message

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.records import GIB, LABEL_NAME, LABEL_NAMESPACE, LABEL_UID

HOSTILE = [
    "",
    "\0",
    "a\0b",
    "\x1b[31m",
    "\t\r\n",
    "\x7f\x85",
    "\ufffe",
    "\U0010ffff",
    "ünïcödé",
    "‮right to left",
    "a" * 5000,
    "<domain>&amp;]]></domain>",
    "'; DROP TABLE machine; --",
    "{{ 7 * 7 }}",
    "../../../etc/passwd",
    "%s%n%x",
    "null",
    "-1",
    "machine://id",
]
PLAIN = ["data", "root", "scratch", "nic", "lan", "a.b", "x-1"]
ENUM = [0, 1, 2, -1, 2**31 - 1]
SIZES = [0, 1, 512, GIB, 2 * GIB, -1, 2**63 - 1, -(2**63)]
DEVICES = ["", "oda", "odb", "odzz", "sda", "od", "odaaa", "ODA", "vda"]


class Generator:
    """An endless, repeatable stream of requests.

    `hostility` is how often a field is odd, 0 to 1; `machines` about how many there are at a time; `image` one that
    machines can boot.
    """

    def __init__(self, seed: int, image: str, hostility: float = 0.04, machines: int = 40) -> None:
        self._random = random.Random(seed)
        self._hostility = hostility
        self._most = machines
        self._image = image
        self._ids: list[str] = []

    def learn(self, machine_id: str) -> None:
        """A machine was made."""
        if machine_id not in self._ids:
            self._ids.append(machine_id)

    def request(self) -> tuple[str, bytes]:
        """The next request."""
        if self._odd(0.2):
            return self._random.choice(list(self._methods())), self._random.randbytes(self._random.randrange(40))
        methods = self._methods()
        weights = [{"CreateMachine": 14, "DeleteMachine": 14}.get(method, 8) for method in methods]
        method = self._random.choices(list(methods), weights)[0]
        return method, methods[method]().SerializeToString()

    def _methods(self) -> dict[str, Callable[[], Message]]:
        return {
            "Version": lambda: pb.VersionRequest(version=self._text()),
            "Status": lambda: pb.StatusRequest(),
            "ListMachines": self._list,
            "CreateMachine": lambda: pb.CreateMachineRequest(machine=self._machine()),
            "DeleteMachine": self._delete,
            "UpdateMachineAnnotations": lambda: pb.UpdateMachineAnnotationsRequest(
                machine_id=self._id(), annotations=self._map()
            ),
            "UpdateMachinePower": lambda: pb.UpdateMachinePowerRequest(
                machine_id=self._id(),
                power=self._power(),  # type: ignore[arg-type]  # any number may come
            ),
            "AttachVolume": lambda: pb.AttachVolumeRequest(machine_id=self._id(), volume=self._volume()),
            "DetachVolume": lambda: pb.DetachVolumeRequest(machine_id=self._id(), name=self._text()),
            "AttachNetworkInterface": lambda: pb.AttachNetworkInterfaceRequest(
                machine_id=self._id(), network_interface=self._nic()
            ),
            "DetachNetworkInterface": lambda: pb.DetachNetworkInterfaceRequest(
                machine_id=self._id(), name=self._text()
            ),
            "Exec": lambda: pb.ExecRequest(machine_id=self._id()),
        }

    def _odd(self, factor: float = 1.0) -> bool:
        return self._random.random() < self._hostility * factor

    def _text(self) -> str:
        return self._random.choice(HOSTILE if self._odd() else PLAIN)

    def _id(self) -> str:
        if not self._ids or self._odd():
            return self._text()
        return self._random.choice(self._ids)

    def _map(self) -> dict[str, str]:
        return {self._text(): self._text() for _ in range(self._random.randrange(3))}

    def _bytes_map(self) -> dict[str, bytes]:
        return {self._text(): self._random.randbytes(8) for _ in range(self._random.randrange(3))}

    def _power(self) -> int:
        return self._random.choice(ENUM if self._odd() else [0, 1])

    def _list(self) -> pb.ListMachinesRequest:
        request = pb.ListMachinesRequest()
        if self._random.random() < 0.5:
            request.filter.id = self._id()
        if self._random.random() < 0.3:
            request.filter.label_selector.update(self._map())
        return request

    def _delete(self) -> pb.DeleteMachineRequest:
        request = pb.DeleteMachineRequest(machine_id=self._id())
        if len(self._ids) <= self._most // 2:  # keep some to hit
            request.machine_id = self._text()
        elif request.machine_id in self._ids and self._random.random() < 0.5:
            self._ids.remove(request.machine_id)
        return request

    def _volume(self) -> pb.Volume:
        volume = pb.Volume(name=self._text(), device=self._random.choice(DEVICES if self._odd() else DEVICES[:3]))
        if self._random.random() < 0.7 or self._odd():
            volume.empty_disk.size_bytes = self._random.choice(SIZES if self._odd() else SIZES[:5])
        if not volume.HasField("empty_disk") or self._odd():
            volume.connection.CopyFrom(
                pb.VolumeConnection(
                    driver=self._text() if self._odd() else "test",
                    handle=self._text(),
                    attributes=self._map(),
                    secret_data=self._bytes_map(),
                    encryption_data=self._bytes_map(),
                )
            )
        return volume

    def _nic(self) -> pb.NetworkInterface:
        # Its own, for an address that another interface has on its network would be waited for.
        own = self._random.randrange(1, 1 << 24)
        addresses = [str(IPv4Address((10 << 24) + own)), f"fd00::{own:x}", *(HOSTILE if self._odd() else [])]
        return pb.NetworkInterface(
            name=self._text(),
            # One of a scheme that nobody takes would be waited for.
            network_id=self._random.choice(["", "isolated", "lan", "network://lan", self._text().replace("://", ":")]),
            ips=self._random.choices(addresses, k=self._random.randrange(3)),
            attributes=self._map(),
        )

    def _machine(self) -> pb.Machine:
        machine = pb.Machine()
        if self._random.random() < 0.8:
            machine.metadata.id = self._text()
            machine.metadata.labels.update(self._map())
            machine.metadata.annotations.update(self._map())
        if self._random.random() < 0.3:
            uid = f"uid-{self._random.randrange(self._most)}"
            machine.metadata.labels.update({LABEL_UID: uid, LABEL_NAMESPACE: "default", LABEL_NAME: self._text()})
        spec = machine.spec
        setattr(spec, "class", self._text() if self._odd() else "small")
        spec.power = self._power()  # type: ignore[assignment]  # any number may come
        if self._random.random() < 0.3:
            spec.image.image = self._text() if self._odd() else self._image
        if self._random.random() < 0.3:
            spec.ignition_data = self._random.choice([b"#cloud-config\n", b"{}", self._random.randbytes(5000)])
        spec.volumes.extend(self._volume() for _ in range(self._random.choice([0, 0, 1, 1, 2])))
        spec.network_interfaces.extend(self._nic() for _ in range(self._random.choice([0, 0, 1, 1, 2])))
        return machine
