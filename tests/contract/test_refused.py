"""Every refused input: the right code, a message that names the field, the store unchanged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.records import LABEL_NAME
from tests.contract.conftest import Provider, small
from tests.contract.refusal import refused

Change = Callable[[Any], Any]


@dataclass
class Wrong:
    """What is done to a right message, and the beginning of the answer."""

    name: str
    change: Change
    words: str


def both(volume: pb.Volume) -> None:
    volume.empty_disk.SetInParent()
    volume.connection.driver = "ceph"


def neither(volume: pb.Volume) -> None:
    volume.ClearField("empty_disk")


def connected(**fields: Any) -> Change:
    def change(volume: pb.Volume) -> None:
        volume.ClearField("empty_disk")
        volume.connection.CopyFrom(pb.VolumeConnection(**{"driver": "ceph", **fields}))

    return change


def put(field: str, value: Any) -> Change:
    return lambda message: setattr(message, field, value)


def within(field: str, inner: Wrong) -> Wrong:
    """What is wrong with a volume or a NIC, in the first one of a machine."""

    def change(machine: pb.Machine) -> None:
        inner.change(getattr(machine.spec, field)[0])

    return Wrong(f"{field}: {inner.name}", change, f"machine.spec.{field}[0]{inner.words}")


VOLUME = [
    Wrong("no name", put("name", ""), ".name: must not be empty"),
    Wrong("NUL in name", put("name", "a\0"), ".name: must not hold the control character U+0000"),
    Wrong("escape in name", put("name", "a\x1b"), ".name: must not hold the control character U+001B"),
    Wrong("noncharacter in name", put("name", "a\uffff"), ".name: must not hold the control character U+FFFF"),
    Wrong("device too short", put("device", "od"), '.device: "od" is no device name'),
    Wrong("device too long", put("device", "odabc"), '.device: "odabc" is no device name'),
    Wrong("device upper case", put("device", "ODA"), '.device: "ODA" is no device name'),
    Wrong("device with line break", put("device", "oda\n"), '.device: "oda\\n" is no device name'),
    Wrong("device with NUL", put("device", "o\0"), ".device: must not hold the control character"),
    Wrong("both sources", both, ": has both empty_disk and connection"),
    Wrong("no source", neither, ": has neither empty_disk nor connection"),
    Wrong("negative size", lambda v: setattr(v.empty_disk, "size_bytes", -1), ".empty_disk.size_bytes: must not be"),
    Wrong("no driver", connected(driver=""), ".connection.driver: must not be empty"),
    Wrong("unknown driver", connected(driver="floppy"), ".connection.driver: there is no such driver; supported: ceph"),
    Wrong("handle", connected(handle="\x01"), ".connection.handle: must not hold"),
    Wrong("attribute key", connected(attributes={"\0": ""}), '.connection.attributes["\ufffd"]: must not hold'),
    Wrong("attribute value", connected(attributes={"k": "\b"}), '.connection.attributes["k"]: must not hold'),
    Wrong("secret key", connected(secret_data={"\f": b"hunter2"}), '.connection.secret_data["\ufffd"]: must not hold'),
    Wrong("encryption key", connected(encryption_data={"\0": b""}), '.connection.encryption_data["\ufffd"]: must'),
]
NIC = [
    Wrong("no name", put("name", ""), ".name: must not be empty"),
    Wrong("name", put("name", "\0"), ".name: must not hold"),
    Wrong("network id", put("network_id", "a\x7f\0"), ".network_id: must not hold the control character U+0000"),
    Wrong("unknown network", put("network_id", "x://y"), ".network_id: no driver takes it"),
    Wrong("no address", lambda n: n.ips.append(""), '.ips[1]: "" is no IP address'),
    Wrong("bad address", lambda n: n.ips.append("10.0.0.256"), '.ips[1]: "10.0.0.256" is no IP address'),
    Wrong("subnet", lambda n: n.ips.append("10.0.0.0/24"), ".ips[1]: "),
    Wrong("attribute", lambda n: n.attributes.update({"a\0": "b"}), '.attributes["a\ufffd"]: must not hold'),
]
MACHINE = [
    Wrong("label", lambda m: m.metadata.labels.update({"k": "\0"}), 'machine.metadata.labels["k"]: must not hold'),
    Wrong("label key", lambda m: m.metadata.labels.update({"\0": ""}), 'machine.metadata.labels["\ufffd"]: must'),
    Wrong("name of two lines", lambda m: m.metadata.labels.update({LABEL_NAME: "a\nb"}), "machine.metadata.labels["),
    Wrong("annotation", lambda m: m.metadata.annotations.update({"k": "\x1f"}), "machine.metadata.annotations["),
    Wrong("no class", lambda m: m.spec.ClearField("class"), "machine.spec.class: must not be empty"),
    Wrong(
        "unknown class", lambda m: setattr(m.spec, "class", "huge"), 'machine.spec.class: there is no class "huge"; k'
    ),
    Wrong("power", lambda m: setattr(m.spec, "power", 7), "machine.spec.power: 7 is no known power state"),
    Wrong("empty image", lambda m: m.spec.image.SetInParent(), "machine.spec.image.image: must not be empty"),
    Wrong("image", lambda m: setattr(m.spec.image, "image", "/\0"), "machine.spec.image.image: must not hold"),
    Wrong("image driver", lambda m: setattr(m.spec.image, "image", "ftp://x"), "machine.spec.image.image: no driver"),
    Wrong(
        "ignition", lambda m: setattr(m.spec, "ignition_data", b"x" * (1 << 20) + b"x"), "machine.spec.ignition_data"
    ),
    Wrong("size", lambda m: m.metadata.labels.update({"k": "x" * (128 << 10)}), "machine: the machine would take"),
    Wrong("same volume name", lambda m: m.spec.volumes.append(m.spec.volumes[0]), 'machine.spec.volumes[1].name: "v"'),
    Wrong(
        "same target",
        lambda m: m.spec.volumes.append(pb.Volume(name="w", device="xxa", empty_disk={})),
        "machine.spec.volumes[1].device: xxa would be vda in the guest, as machine.spec.volumes[0] is",
    ),
    Wrong(
        "too many devices",
        lambda m: m.spec.network_interfaces.extend(pb.NetworkInterface(name=f"n{i}") for i in range(11_000)),
        "machine.spec: the machine would have 11002 devices with its image and its seed; at most 184 can be",
    ),
    Wrong(
        "same NIC name",
        lambda m: m.spec.network_interfaces.append(m.spec.network_interfaces[0]),
        'machine.spec.network_interfaces[1].name: "n" is the name of machine.spec.network_interfaces[0]',
    ),
    *(within("volumes", each) for each in VOLUME),
    *(within("network_interfaces", each) for each in NIC),
]


def volume() -> pb.Volume:
    return pb.Volume(name="v", device="oda", empty_disk=pb.EmptyDisk())


def nic() -> pb.NetworkInterface:
    return pb.NetworkInterface(name="n", network_id="isolated", ips=["10.0.0.1"])


def named(cases: list[Wrong]) -> list[Any]:
    return [pytest.param(each, id=each.name) for each in cases]


def content(provider: Provider) -> str:
    """A digest of all machines and their timelines, as stored."""
    digest = hashlib.sha256()
    with provider.store.open_read_only(provider.paths) as reader:
        for machine in reader.machines():
            digest.update(repr((machine, reader.events(machine.id))).encode())
    return digest.hexdigest()


@pytest.mark.parametrize("wrong", named(MACHINE))
async def test_create(provider: Provider, wrong: Wrong) -> None:
    machine, before = small(volumes=[volume()], network_interfaces=[nic()]), content(provider)
    wrong.change(machine)
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, wrong.words):
        await provider.create(machine)
    assert content(provider) == before
    assert await provider.machines() == []
    assert provider.woken == []


@pytest.mark.parametrize("wrong", named(VOLUME))
async def test_attach_volume(provider: Provider, wrong: Wrong) -> None:
    machine_id, before = (await provider.create()).metadata.id, content(provider)
    request = pb.AttachVolumeRequest(machine_id=machine_id, volume=volume())
    wrong.change(request.volume)
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, f"volume{wrong.words}"):
        await provider.stub.AttachVolume(request)
    assert content(provider) == before


@pytest.mark.parametrize("wrong", named(NIC))
async def test_attach_network_interface(provider: Provider, wrong: Wrong) -> None:
    machine_id, before = (await provider.create()).metadata.id, content(provider)
    request = pb.AttachNetworkInterfaceRequest(machine_id=machine_id, network_interface=nic())
    wrong.change(request.network_interface)
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, f"network_interface{wrong.words}"):
        await provider.stub.AttachNetworkInterface(request)
    assert content(provider) == before


LARGE = "x" * (128 << 10)


@pytest.mark.parametrize(
    ("method", "request_", "words"),
    [
        (
            "UpdateMachineAnnotations",
            pb.UpdateMachineAnnotationsRequest(annotations={"k": "\0"}),
            'annotations["k"]: mu',
        ),
        (
            "UpdateMachineAnnotations",
            pb.UpdateMachineAnnotationsRequest(annotations={"k": LARGE}),
            "annotations: the ma",
        ),
        ("UpdateMachinePower", pb.UpdateMachinePowerRequest(power=2), "power: 2 is no known power state"),  # type: ignore[arg-type]
        ("AttachVolume", pb.AttachVolumeRequest(), "volume: must be set"),
        (
            "AttachVolume",
            pb.AttachVolumeRequest(volume=pb.Volume(name="w", connection={"driver": "ceph", "handle": LARGE})),
            "volume: the machine would take",
        ),
        (
            "AttachVolume",
            pb.AttachVolumeRequest(volume=pb.Volume(name="w", device="xda", empty_disk={})),
            'volume.device: xda would be vda in the guest, as volume "v" is',
        ),
        ("DetachVolume", pb.DetachVolumeRequest(), "name: must not be empty"),
        ("DetachVolume", pb.DetachVolumeRequest(name="\0"), "name: must not hold"),
        ("AttachNetworkInterface", pb.AttachNetworkInterfaceRequest(), "network_interface: must be set"),
        (
            "AttachNetworkInterface",
            pb.AttachNetworkInterfaceRequest(network_interface=pb.NetworkInterface(name="w", attributes={"k": LARGE})),
            "network_interface: the machine would take",
        ),
        ("DetachNetworkInterface", pb.DetachNetworkInterfaceRequest(), "name: must not be empty"),
    ],
)
async def test_others(provider: Provider, method: str, request_: Any, words: str) -> None:
    machine_id = (await provider.create(small(volumes=[volume()]))).metadata.id
    before = content(provider)
    request_.machine_id = machine_id
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, words):
        await getattr(provider.stub, method)(request_)
    assert content(provider) == before


@pytest.mark.parametrize("name", [b"\xff", b"\xed\xa0\x80"], ids=["no UTF-8", "a surrogate"])
@pytest.mark.rule("R-A6-3")
async def test_text_that_is_no_utf8(provider: Provider, name: bytes) -> None:
    """Go's gogo does not check it; grpc's own parser would answer UNKNOWN."""
    request = b"\x0a" + bytes([len(name)]) + name
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "machine.v1alpha1.DeleteMachineRequest"):
        await provider.raw("DeleteMachine", request)


@pytest.mark.parametrize("raw", [b"\x0a\x05x", b"\xff", b"\x0a\x02\x12\x7f"])
async def test_bytes_that_are_no_message(provider: Provider, raw: bytes) -> None:
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "request: is no machine.v1alpha1.CreateMachineRequest"):
        await provider.raw("CreateMachine", raw)


async def test_no_machine(provider: Provider) -> None:
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "machine: must be set"):
        await provider.stub.CreateMachine(pb.CreateMachineRequest())


async def test_a_message_about_a_long_name_fits_into_a_reply(provider: Provider) -> None:
    machine_id = (await provider.create()).metadata.id
    async with refused(grpc.StatusCode.NOT_FOUND, "has no volume"):
        await provider.stub.DetachVolume(pb.DetachVolumeRequest(machine_id=machine_id, name="ü" * 100_000))


async def test_an_unknown_method_is_unimplemented(provider: Provider) -> None:
    async with refused(grpc.StatusCode.UNIMPLEMENTED):
        await provider.raw("ListEvents", b"")
