"""What each RPC accepts, stores, lists and answers, over a real socket (contract A and G)."""

from __future__ import annotations

import asyncio
import re
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from sri_libvirt import __version__, names
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import Unavailable
from sri_libvirt.records import GIB, LABEL_UID, Attachment, MachineClass
from tests.contract.conftest import CLASSES, Provider, serving, small
from tests.contract.refusal import refused

CEPH = pb.Volume(
    name="data",
    device="oda",
    connection=pb.VolumeConnection(
        driver="ceph",
        handle="4711/é:x",
        attributes={"monitors": "[::1]:6789", "image": "pool/image", "empty": ""},
        secret_data={"userID": b"me", "userKey": b"\x00\xff", "none": b""},
        encryption_data={"encryptionKey": b"\x01"},
    ),
)
NIC = pb.NetworkInterface(name="nic", network_id="network://lan", ips=["10.0.0.1", "fd00::1"], attributes={"a": ""})


def disk(name: str, device: str = "", size: int = 0) -> pb.Volume:
    return pb.Volume(name=name, device=device, empty_disk=pb.EmptyDisk(size_bytes=size))


async def attach(provider: Provider, machine_id: str, thing: pb.Volume | pb.NetworkInterface) -> None:
    if isinstance(thing, pb.Volume):
        await provider.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=thing))
    else:
        await provider.stub.AttachNetworkInterface(
            pb.AttachNetworkInterfaceRequest(machine_id=machine_id, network_interface=thing)
        )


async def detach(provider: Provider, machine_id: str, thing: pb.Volume | pb.NetworkInterface) -> None:
    if isinstance(thing, pb.Volume):
        await provider.stub.DetachVolume(pb.DetachVolumeRequest(machine_id=machine_id, name=thing.name))
    else:
        await provider.stub.DetachNetworkInterface(
            pb.DetachNetworkInterfaceRequest(machine_id=machine_id, name=thing.name)
        )


async def set_power(provider: Provider, machine_id: str, power: pb.Power) -> None:
    await provider.stub.UpdateMachinePower(pb.UpdateMachinePowerRequest(machine_id=machine_id, power=power))


async def delete(provider: Provider, machine_id: str) -> None:
    await provider.stub.DeleteMachine(pb.DeleteMachineRequest(machine_id=machine_id))


def rows(provider: Provider, machine_id: str) -> dict[tuple[str, str, int], Attachment]:
    machine = provider.store.machine(machine_id)
    assert machine is not None
    return {row.key: row for row in machine.attachments}


# Version, Status, Exec


@pytest.mark.rule("R-A9-1")
async def test_version(provider: Provider) -> None:
    reply = await provider.stub.Version(pb.VersionRequest(version="any"))
    assert (reply.runtime_name, reply.runtime_version) == ("sri-libvirt", __version__)


@pytest.mark.rule("R-A8-1")
async def test_status_has_every_class_with_its_capabilities(provider: Provider) -> None:
    reply = await provider.stub.Status(pb.StatusRequest())
    assert {entry.machine_class.name for entry in reply.machine_class_status} == set(CLASSES)
    assert all(entry.machine_class.HasField("capabilities") for entry in reply.machine_class_status)


@pytest.mark.rule("R-A6-5", "R-G2-1", "R-G2-2")
async def test_exec_is_for_machines_that_run(provider: Provider) -> None:
    machine = await provider.create()
    async with refused(grpc.StatusCode.FAILED_PRECONDITION, "does not run (its state is MACHINE_PENDING)"):
        await provider.stub.Exec(pb.ExecRequest(machine_id=machine.metadata.id))
    async with refused(grpc.StatusCode.NOT_FOUND, "my-machine"):
        await provider.stub.Exec(pb.ExecRequest(machine_id="my-machine"))
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "machine_id"):
        await provider.stub.Exec(pb.ExecRequest())


# CreateMachine


@pytest.mark.rule("R-A1-1", "R-A1-2", "R-A2-1", "R-A4-1", "R-A4-4", "R-A4-5", "R-A4-6", "R-A4-8", "R-A5-1", "R-A3-6")
async def test_a_created_machine_comes_back_whole_and_as_it_was(provider: Provider) -> None:
    wanted = small(
        "u1",
        power=pb.POWER_OFF,
        image=pb.ImageSpec(image="/images/a.qcow2"),
        ignition_data=b'{"ignition": {}}',
        volumes=[CEPH, disk("scratch", "odb"), disk("auto", size=GIB)],
        network_interfaces=[NIC, pb.NetworkInterface(name="later")],
    )
    wanted.metadata.annotations.update({"a": "1\n2\t", "": ""})
    wanted.metadata.id, wanted.metadata.generation, wanted.status.state = "mine", 9, pb.MACHINE_RUNNING
    made = await provider.create(wanted)
    assert made.spec == wanted.spec
    assert made.metadata.labels == wanted.metadata.labels
    assert made.metadata.annotations == wanted.metadata.annotations
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", made.metadata.id)
    assert (made.metadata.generation, made.metadata.deleted_at) == (1, 0)
    assert made.metadata.created_at > 0
    assert (made.status.state, made.status.observed_generation) == (pb.MACHINE_PENDING, 0)
    assert await provider.machines() == [made]
    assert provider.woken == [made.metadata.id]


@pytest.mark.rule("R-A4-2", "R-A4-3")
async def test_presence_and_unknown_fields_survive(provider: Provider) -> None:
    strange = small(volumes=[disk("v"), pb.Volume(name="w", connection=pb.VolumeConnection(driver="test"))])
    unknown = strange.spec.SerializeToString() + b"\xf2\x3f\x03new"  # field 1022, of a newer client
    raw = b"\x0a" + bytes([len(body := b"\x12" + bytes([len(unknown)]) + unknown)]) + body
    reply = pb.CreateMachineResponse.FromString(await provider.raw("CreateMachine", raw))
    for machine in (reply.machine, *await provider.machines()):
        assert machine.spec == pb.MachineSpec.FromString(unknown)
        assert machine.spec != strange.spec
        assert machine.spec.volumes[0].HasField("empty_disk")


@pytest.mark.rule("R-A1-7", "R-A1-8")
async def test_a_bare_machine_has_metadata_spec_and_status(provider: Provider) -> None:
    await provider.create()
    (listed,) = await provider.machines()
    assert all(listed.HasField(field) for field in ("metadata", "spec", "status"))


@pytest.mark.rule("R-A11-1", "R-G1-4")
async def test_four_machines_of_one_uid_without_the_other_labels(provider: Provider) -> None:
    """The reference's machine_list_test: exactly the messages that Create returned."""
    wanted = small(volumes=[CEPH], network_interfaces=[NIC])
    wanted.metadata.labels[LABEL_UID] = "foobar"
    made = [await provider.create(wanted) for _ in range(4)]
    assert len({machine.metadata.id for machine in made}) == 4
    assert sorted(await provider.machines(), key=by_id) == sorted(made, key=by_id)


def by_id(machine: pb.Machine) -> str:
    return machine.metadata.id


@pytest.mark.rule("R-G1-1", "R-G1-2", "R-G1-3")
async def test_create_is_idempotent_by_uid(provider: Provider) -> None:
    made = await provider.create(small("u1", volumes=[CEPH]))
    assert await provider.create(small("u1", volumes=[CEPH])) == made
    assert provider.woken == [made.metadata.id]
    async with refused(grpc.StatusCode.ALREADY_EXISTS, made.metadata.id):
        await provider.create(small("u1"))
    await delete(provider, made.metadata.id)
    async with refused(grpc.StatusCode.UNAVAILABLE, "being deleted, retry"):
        await provider.create(small("u1", volumes=[CEPH]))
    provider.finish(made.metadata.id)
    assert (await provider.create(small("u1"))).metadata.id != made.metadata.id


@pytest.mark.rule("R-G1-1", "R-G1-2")
async def test_the_spec_as_it_is_now_decides_about_the_same_uid(provider: Provider) -> None:
    made = await provider.create(small("u1"))
    await attach(provider, made.metadata.id, CEPH)
    async with refused(grpc.StatusCode.ALREADY_EXISTS):
        await provider.create(small("u1"))
    again = await provider.create(small("u1", volumes=[CEPH]))
    assert (again.metadata.id, again.metadata.generation) == (made.metadata.id, 2)


@pytest.mark.rule("R-A10-1")
async def test_concurrent_creates_of_one_uid_make_one_machine(provider: Provider) -> None:
    made = await asyncio.gather(*(provider.create(small("u1")) for _ in range(40)))
    assert len({machine.metadata.id for machine in made}) == 1
    assert len(await provider.machines()) == 1


@pytest.mark.rule("R-G6-3")
async def test_a_host_that_cannot_run_guests_takes_no_new_machine(provider: Provider) -> None:
    made = await provider.create(small("u1"))

    def gate() -> None:
        raise Unavailable("KVM is gone from this host")

    provider.gate = gate
    async with refused(grpc.StatusCode.UNAVAILABLE, "KVM is gone"):
        await provider.create(small("u2"))
    assert await provider.create(small("u1")) == made
    assert len(await provider.machines()) == 1


@pytest.mark.rule("R-G1-5")
async def test_the_class_is_kept_with_the_machine(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await provider.create(small("u1"))
    monkeypatch.delitem(CLASSES, "small")
    assert await provider.create(small("u1")) == made
    stored = provider.store.machine(made.metadata.id)
    assert stored is not None
    assert stored.machine_class == MachineClass("small", 1000, GIB)


@pytest.mark.rule("R-G12-1", "R-G12-3")
async def test_every_device_has_its_row(provider: Provider) -> None:
    made = await provider.create(
        small(
            image=pb.ImageSpec(image="/i"),
            ignition_data=b"#cloud-config\n",
            volumes=[disk("z"), disk("b"), CEPH, disk("c", "odc")],
            network_interfaces=[NIC],
        )
    )
    found = rows(provider, made.metadata.id)
    assert {key: row.target for key, row in found.items()} == {
        ("image", "", 1): "vdaaa",
        ("seed", "", 1): "vdzzz",
        ("volume", "data", 1): "vda",
        ("volume", "b", 1): "vdb",  # the lowest free, by name
        ("volume", "c", 1): "vdc",
        ("volume", "z", 1): "vdd",
        ("nic", "nic", 1): "",
    }
    assert all(row.wanted and row.port == 0 and row.backing is None for row in found.values())
    assert (found["image", "", 1].serial, found["seed", "", 1].serial) == ("image", "seed")
    assert found["volume", "data", 1].serial == names.serial("oda", "ceph", "4711/é:x")
    assert found["volume", "z", 1].serial == names.serial("odd", made.metadata.id, "z")
    assert found["nic", "nic", 1].mac == names.mac_address(made.metadata.id, "nic")
    assert found["volume", "data", 1].volume() == CEPH
    assert found["nic", "nic", 1].nic() == NIC


@pytest.mark.parametrize("data", [b"#!/bin/sh\n", b"MIME-Version: 1.0\n", b"## template: jinja\n", b"\x1f\x8b\b"])
async def test_all_user_data_of_cloud_init_has_a_seed_disk(provider: Provider, data: bytes) -> None:
    made = await provider.create(small(ignition_data=data))
    assert set(rows(provider, made.metadata.id)) == {("seed", "", 1)}


@pytest.mark.parametrize("known", [True, False])
async def test_other_ignition_has_no_seed_disk_and_what_nobody_knows_is_told_of(
    provider: Provider, known: bool
) -> None:
    made = await provider.create(
        small(ignition_data=b'{"ignition": {"version": "3.4.0"}}' if known else b"hostname: a")
    )
    assert rows(provider, made.metadata.id) == {}
    told = [event.reason for event in provider.store.events(made.metadata.id)]
    assert told == (["created"] if known else ["created", "user-data"])


@pytest.mark.rule("R-G13-2")
async def test_a_mac_is_unique_in_the_store(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "mac_address", lambda _machine, _nic, attempt=0: f"02:00:00:00:00:{attempt:02x}")
    first = await provider.create(small(network_interfaces=[NIC, pb.NetworkInterface(name="other")]))
    second = await provider.create(small(network_interfaces=[NIC]))
    macs = [row.mac for machine in (first, second) for row in rows(provider, machine.metadata.id).values()]
    assert len(macs) == len(set(macs)) == 3


@pytest.mark.rule("R-G3-1")
async def test_large_ignition_is_in_the_create_reply_only(provider: Provider) -> None:
    limit = await provider.create(small(ignition_data=b"x" * 4096))
    large = await provider.create(small(ignition_data=b"x" * 4097))
    assert large.spec.ignition_data == b"x" * 4097
    assert (await provider.machine(limit.metadata.id)).spec.ignition_data == b"x" * 4096
    listed = await provider.machine(large.metadata.id)
    assert listed.spec.ignition_data == b""
    large.spec.ClearField("ignition_data")
    assert listed == large
    stored = provider.store.machine(large.metadata.id)
    assert stored is not None
    assert len(stored.spec.ignition_data) == 4097


@pytest.mark.rule("R-G3-3", "R-G8-1")
async def test_no_attach_makes_a_list_that_clients_could_not_receive(provider: Provider) -> None:
    """40 machines of a few bytes, and as much as a spec takes attached to each."""
    ids = [(await provider.create()).metadata.id for _ in range(40)]
    nic = pb.NetworkInterface(name="n", network_id="isolated", attributes={"a": "x" * (126 << 10)})
    attached = 0
    for machine_id in ids:
        request = pb.AttachNetworkInterfaceRequest(machine_id=machine_id, network_interface=nic)
        with suppress(grpc.aio.AioRpcError):
            await provider.stub.AttachNetworkInterface(request)
            attached += 1
    assert attached == 28, "3.5 MiB of them"
    async with refused(grpc.StatusCode.FAILED_PRECONDITION, "the list of all machines could take 3"):
        await provider.stub.AttachNetworkInterface(request)
    machines = await provider.machines()  # this very client takes 4 MiB
    assert len(machines) == 40
    large = next(machine for machine in machines if machine.spec.network_interfaces)
    await provider.stub.AttachNetworkInterface(
        pb.AttachNetworkInterfaceRequest(machine_id=large.metadata.id, network_interface=nic)
    )  # it has it already
    await provider.stub.UpdateMachinePower(
        pb.UpdateMachinePowerRequest(machine_id=large.metadata.id, power=pb.POWER_OFF)
    )
    await provider.stub.DetachNetworkInterface(pb.DetachNetworkInterfaceRequest(machine_id=large.metadata.id, name="n"))
    await provider.stub.AttachNetworkInterface(request)  # there is room again


@pytest.mark.rule("R-G3-3")
async def test_a_list_that_clients_could_not_receive_is_prevented(provider: Provider) -> None:
    wanted = small()
    wanted.metadata.annotations["big"] = "x" * (127 * 1024)
    for _ in range(24):
        await provider.create(wanted)
    async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "list of all machines"):
        await provider.create(wanted)
    assert len(await provider.machines()) == 24
    await provider.create()  # a small one still fits


# ListMachines


@pytest.mark.rule("R-A3-2", "R-A3-3", "R-A3-4")
async def test_filters(provider: Provider) -> None:
    one, two = await provider.create(small("u1")), await provider.create(small("u2"))
    assert await provider.machines(one.metadata.id) == [one]
    assert await provider.machines("unknown") == []
    assert await provider.machines(labels={LABEL_UID: "u2"}) == [two]
    assert len(await provider.machines(labels={})) == 2
    assert await provider.machines(one.metadata.id, {LABEL_UID: "u2"}) == []
    assert await provider.machines(labels={LABEL_UID: "u1", "absent": ""}) == []


@pytest.mark.rule("R-A3-5")
async def test_order_is_live_first_then_newest(provider: Provider) -> None:
    made = [(await provider.create()).metadata.id for _ in range(4)]
    await delete(provider, made[3])
    await delete(provider, made[1])
    assert [machine.metadata.id for machine in await provider.machines()] == [made[2], made[0], made[3], made[1]]


@pytest.mark.rule("R-A3-8")
async def test_a_relist_at_rest_differs_in_nothing(provider: Provider) -> None:
    for _ in range(3):
        await provider.create(small(volumes=[CEPH], network_interfaces=[NIC]))
    assert await provider.raw("ListMachines", b"") == await provider.raw("ListMachines", b"")


# Annotations, power, delete


@pytest.mark.rule("R-A1-3", "R-A1-4")
async def test_annotations_are_replaced_without_a_generation(provider: Provider) -> None:
    wanted = small()
    wanted.metadata.annotations["old"] = "1"
    made = await provider.create(wanted)
    request = pb.UpdateMachineAnnotationsRequest(machine_id=made.metadata.id, annotations={"new": "", "": "x"})
    await provider.stub.UpdateMachineAnnotations(request)
    listed = await provider.machine(made.metadata.id)
    assert dict(listed.metadata.annotations) == {"new": "", "": "x"}
    assert listed.metadata.generation == 1


@pytest.mark.rule("R-A1-4", "R-A4-6", "R-G8-2")
async def test_power_bumps_the_generation_only_if_it_changes(provider: Provider) -> None:
    machine_id = (await provider.create()).metadata.id
    await set_power(provider, machine_id, pb.POWER_ON)
    assert (await provider.machine(machine_id)).metadata.generation == 1
    await set_power(provider, machine_id, pb.POWER_OFF)
    await set_power(provider, machine_id, pb.POWER_OFF)
    listed = await provider.machine(machine_id)
    assert (listed.spec.power, listed.metadata.generation) == (pb.POWER_OFF, 2)
    stored = provider.store.machine(machine_id)
    assert stored is not None
    assert stored.power_at > stored.created_at
    assert provider.woken == [machine_id] * 2


@pytest.mark.rule("R-A3-1", "R-A5-4")
async def test_delete_is_ok_each_time_and_keeps_the_machine_listed(provider: Provider) -> None:
    machine_id = (await provider.create()).metadata.id
    await delete(provider, machine_id)
    (first,) = await provider.machines()
    assert first.metadata.deleted_at > 0
    await delete(provider, machine_id)
    assert await provider.machines() == [first]
    provider.finish(machine_id)
    assert await provider.machines() == []
    async with refused(grpc.StatusCode.NOT_FOUND, machine_id):
        await delete(provider, machine_id)


@pytest.mark.rule("R-G8-3")
async def test_a_machine_being_deleted_takes_detach_and_annotations_only(provider: Provider) -> None:
    machine_id = (await provider.create(small(volumes=[CEPH], network_interfaces=[NIC]))).metadata.id
    await delete(provider, machine_id)
    for call in (
        attach(provider, machine_id, CEPH),
        attach(provider, machine_id, disk("new")),
        attach(provider, machine_id, NIC),
        set_power(provider, machine_id, pb.POWER_ON),
    ):
        async with refused(grpc.StatusCode.FAILED_PRECONDITION, "being deleted"):
            await call
    await detach(provider, machine_id, CEPH)
    await detach(provider, machine_id, NIC)
    await provider.stub.UpdateMachineAnnotations(
        pb.UpdateMachineAnnotationsRequest(machine_id=machine_id, annotations={"a": "b"})
    )
    listed = await provider.machine(machine_id)
    assert not listed.spec.volumes
    assert not listed.spec.network_interfaces
    assert dict(listed.metadata.annotations) == {"a": "b"}


@pytest.mark.parametrize(
    ("method", "request_type"),
    [
        ("DeleteMachine", pb.DeleteMachineRequest),
        ("UpdateMachineAnnotations", pb.UpdateMachineAnnotationsRequest),
        ("UpdateMachinePower", pb.UpdateMachinePowerRequest),
        ("AttachVolume", pb.AttachVolumeRequest),
        ("DetachVolume", pb.DetachVolumeRequest),
        ("AttachNetworkInterface", pb.AttachNetworkInterfaceRequest),
        ("DetachNetworkInterface", pb.DetachNetworkInterfaceRequest),
        ("Exec", pb.ExecRequest),
    ],
)
@pytest.mark.rule("R-A6-1", "R-A6-3")
async def test_an_unknown_machine_is_not_found_and_no_id_is_invalid(
    provider: Provider, method: str, request_type: type
) -> None:
    fields: dict[str, dict[str, Any]] = {
        "AttachVolume": {"volume": CEPH},
        "DetachVolume": {"name": "v"},
        "AttachNetworkInterface": {"network_interface": NIC},
        "DetachNetworkInterface": {"name": "n"},
    }
    given = fields.get(method, {})
    for unknown in ("00000000-0000-4000-8000-000000000000", "no uuid", "\x00'"):
        async with refused(grpc.StatusCode.NOT_FOUND):
            await getattr(provider.stub, method)(request_type(machine_id=unknown, **given))
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "machine_id: must not be empty"):
        await getattr(provider.stub, method)(request_type(**given))


# Attach and detach


@pytest.mark.parametrize("thing", [CEPH, disk("scratch", "odb", 5), NIC], ids=["connection", "empty disk", "nic"])
@pytest.mark.rule("R-A1-4", "R-A5-2", "R-A6-2", "R-A6-4", "R-G4-7", "R-G8-2")
async def test_attach_and_detach(provider: Provider, thing: pb.Volume | pb.NetworkInterface) -> None:
    machine_id = (await provider.create()).metadata.id

    async def spec() -> tuple[int, list[pb.Volume | pb.NetworkInterface]]:
        listed = await provider.machine(machine_id)
        return listed.metadata.generation, [*listed.spec.volumes, *listed.spec.network_interfaces]

    await attach(provider, machine_id, thing)
    assert await spec() == (2, [thing])
    await attach(provider, machine_id, thing)  # identical: nothing
    assert await spec() == (2, [thing])
    await detach(provider, machine_id, thing)
    assert await spec() == (3, [])
    async with refused(grpc.StatusCode.NOT_FOUND, thing.name):
        await detach(provider, machine_id, thing)
    (row,) = rows(provider, machine_id).values()
    assert not row.wanted
    await attach(provider, machine_id, thing)  # at once, while the old one is still plugged
    assert await spec() == (4, [thing])
    (again,) = rows(provider, machine_id).values()
    assert again.wanted
    assert (again.key, again.mac, again.serial, again.target) == (row.key, row.mac, row.serial, row.target)
    assert provider.woken == [machine_id] * 4


@pytest.mark.rule("R-A6-4")
async def test_another_spec_of_the_same_name_exists_already(provider: Provider) -> None:
    machine_id = (await provider.create(small(volumes=[CEPH], network_interfaces=[NIC]))).metadata.id
    other = pb.Volume()
    other.CopyFrom(CEPH)
    other.connection.encryption_data.clear()
    async with refused(grpc.StatusCode.ALREADY_EXISTS, "volume.name"):
        await attach(provider, machine_id, other)
    async with refused(grpc.StatusCode.ALREADY_EXISTS, "network_interface.name"):
        await attach(provider, machine_id, pb.NetworkInterface(name="nic"))
    assert (await provider.machine(machine_id)).metadata.generation == 1


@pytest.mark.rule("R-G4-4")
async def test_credentials_may_differ_at_a_re_attach(provider: Provider) -> None:
    machine_id = (await provider.create(small(volumes=[CEPH]))).metadata.id
    await detach(provider, machine_id, CEPH)
    renewed = pb.Volume()
    renewed.CopyFrom(CEPH)
    renewed.connection.secret_data["userKey"] = b"new"
    await attach(provider, machine_id, renewed)
    (row,) = rows(provider, machine_id).values()
    assert row.key == ("volume", "data", 1)
    assert row.volume() == renewed
    assert list((await provider.machine(machine_id)).spec.volumes) == [renewed]


@pytest.mark.parametrize(
    "other",
    [
        pb.Volume(name="data", device="oda", connection=pb.VolumeConnection(driver="ceph", handle="other")),
        pb.Volume(name="data", device="oda", connection=pb.VolumeConnection(driver="test", handle="4711/é:x")),
        pb.Volume(name="data", device="odb", connection=CEPH.connection),
        disk("data", "oda"),
    ],
    ids=["handle", "driver", "device", "source"],
)
async def test_another_backing_is_another_incarnation(provider: Provider, other: pb.Volume) -> None:
    machine_id = (await provider.create(small(volumes=[CEPH]))).metadata.id
    await detach(provider, machine_id, CEPH)
    await attach(provider, machine_id, other)
    found = rows(provider, machine_id)
    assert {key: row.wanted for key, row in found.items()} == {
        ("volume", "data", 1): False,
        ("volume", "data", 2): True,
    }
    await detach(provider, machine_id, other)
    await attach(provider, machine_id, CEPH)  # the first again: it was never released
    assert {key for key, row in rows(provider, machine_id).items() if row.wanted} == {("volume", "data", 1)}


async def test_a_changed_nic_is_another_incarnation_with_the_same_mac(provider: Provider) -> None:
    machine_id = (await provider.create(small(network_interfaces=[pb.NetworkInterface(name="nic")]))).metadata.id
    await detach(provider, machine_id, NIC)
    await attach(provider, machine_id, NIC)
    found = rows(provider, machine_id)
    assert [row.wanted for row in found.values()] == [False, True]
    assert len({row.mac for row in found.values()}) == 1


@pytest.mark.rule("R-G4-2")
async def test_an_empty_disk_of_size_0_is_one_of_1_gib(provider: Provider) -> None:
    machine_id = (await provider.create(small(volumes=[disk("d", "odb")]))).metadata.id
    await detach(provider, machine_id, disk("d"))
    await attach(provider, machine_id, disk("d", "odb", GIB))
    assert set(rows(provider, machine_id)) == {("volume", "d", 1)}
    await detach(provider, machine_id, disk("d"))
    await attach(provider, machine_id, disk("d", "odb", 2 * GIB))
    assert set(rows(provider, machine_id)) == {("volume", "d", 1), ("volume", "d", 2)}


@pytest.mark.rule("R-G12-2", "R-G12-3")
async def test_targets_of_a_machine_differ(provider: Provider) -> None:
    machine_id = (await provider.create(small(volumes=[disk("first")]))).metadata.id
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, 'volume.device: sda would be vda in the guest, as volume "fi'):
        await attach(provider, machine_id, disk("second", "sda"))
    await attach(provider, machine_id, disk("third", "odc"))
    await attach(provider, machine_id, disk("fourth"))
    assert rows(provider, machine_id)["volume", "fourth", 1].target == "vdb"


async def test_a_target_is_free_for_a_named_device_once_detached(provider: Provider) -> None:
    machine_id = (await provider.create(small(volumes=[disk("a", "oda"), disk("b")]))).metadata.id
    await detach(provider, machine_id, disk("a"))
    await attach(provider, machine_id, disk("c", "oda"))
    await attach(provider, machine_id, disk("d"))  # the lowest that no row holds, plugged or not
    found = rows(provider, machine_id)
    assert (found["volume", "c", 1].target, found["volume", "d", 1].target) == ("vda", "vdc")


@pytest.mark.rule("R-A10-2")
async def test_what_the_poollet_does_when_a_secret_is_not_ready(provider: Provider) -> None:
    """Contract A.10/2: everything is detached and attached again; nothing may be lost by it."""
    volumes = [CEPH, disk("root", "odb"), disk("scratch", "odc")]
    machine_id = (await provider.create(small("u1", volumes=volumes))).metadata.id
    before = rows(provider, machine_id)
    for volume in volumes:
        await detach(provider, machine_id, volume)
    assert not (await provider.machine(machine_id)).spec.volumes
    for volume in reversed(volumes):
        await attach(provider, machine_id, volume)
    after = rows(provider, machine_id)
    assert after.keys() == before.keys()
    assert all(after[key].wanted and after[key].serial == before[key].serial for key in before)


# Restart, timeline, wrapper


async def test_a_restart_changes_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as first:
        kept = await first.create(small("u1", volumes=[CEPH], network_interfaces=[NIC], ignition_data=b"x" * 5000))
        gone = await first.create()
        await first.create(small(volumes=[disk("d")]))
        await attach(first, kept.metadata.id, disk("late"))
        await delete(first, gone.metadata.id)
        listed, stored = await first.machines(), first.store.machine(kept.metadata.id)
        instance = first.store.instance
    async with serving(tmp_path) as second:
        assert await second.machines() == listed
        assert second.store.machine(kept.metadata.id) == stored
        assert second.store.instance == instance
        async with refused(grpc.StatusCode.ALREADY_EXISTS):
            await second.create(small("u1"))


async def test_requests_are_in_the_timeline_without_secrets(provider: Provider) -> None:
    secret = pb.Volume(name="s", connection=pb.VolumeConnection(driver="test", secret_data={"k": b"hunter2"}))
    machine_id = (await provider.create()).metadata.id
    await attach(provider, machine_id, secret)
    await detach(provider, machine_id, secret)
    await set_power(provider, machine_id, pb.POWER_OFF)
    await delete(provider, machine_id)
    await delete(provider, machine_id)
    events = provider.store.events(machine_id)
    assert [event.reason for event in events] == ["created", "attach", "detach", "power", "delete"]
    assert all(event.time and "hunter2" not in event.message for event in events)


async def test_each_call_is_measured(provider: Provider) -> None:
    await provider.machines()
    async with refused(grpc.StatusCode.NOT_FOUND):
        await delete(provider, "x")
    assert provider.calls == [("ListMachines", "OK"), ("DeleteMachine", "NOT_FOUND")]


async def test_a_closed_store_is_unavailable(provider: Provider) -> None:
    await asyncio.to_thread(provider.store.close)
    async with refused(grpc.StatusCode.UNAVAILABLE, "stopping"):
        await provider.create()
    assert await provider.machines() == []


async def test_a_machine_is_woken_although_its_caller_hung_up(provider: Provider) -> None:
    storing, hung_up = threading.Event(), threading.Event()

    def gate() -> None:  # called in the middle of the store's work
        storing.set()
        assert hung_up.wait(10)

    provider.gate = gate
    call = provider.stub.CreateMachine(pb.CreateMachineRequest(machine=small("u1")))
    assert await asyncio.to_thread(storing.wait, 10)
    call.cancel()
    async with asyncio.timeout(10):
        while ("CreateMachine", "CANCELLED") not in provider.calls:
            await asyncio.sleep(0.01)
    assert provider.woken == []
    hung_up.set()
    await asyncio.to_thread(provider.store.close)
    assert provider.woken == [machine.metadata.id for machine in await provider.machines()]
    assert len(provider.woken) == 1
