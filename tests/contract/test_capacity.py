"""Claims, admission and Status over a real socket (contract A.8, G.4, G.7, G.8)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from sri_libvirt import app
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.capacity.budget import Hardware, Resources
from sri_libvirt.errors import ConfigError, Unavailable
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import GIB, set_class_name
from sri_libvirt.resources import DISK, Usage
from sri_libvirt.store import Store
from tests.contract.conftest import Provider, serving, small
from tests.contract.loop import Loop, serving_loop, settings, spec_of, until
from tests.contract.refusal import refused

FOUR = Hardware(Resources(cpus=4, memory_bytes=100 * GIB), disk_bytes=1000 * GIB)
"""Four CPUs, and enough of the rest."""


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[Provider]:
    async with serving(tmp_path, FOUR) as provider:
        yield provider


async def quantities(provider: Provider | Loop) -> dict[str, int]:
    reply = await provider.stub.Status(pb.StatusRequest())
    return {entry.machine_class.name: entry.quantity for entry in reply.machine_class_status}


async def outcomes(provider: Provider, machines: Sequence[pb.Machine]) -> list[grpc.StatusCode]:
    """How each create ended; all are sent at once."""
    sent = [provider.create(machine) for machine in machines]
    done = await asyncio.gather(*sent, return_exceptions=True)
    return [each.code() if isinstance(each, grpc.aio.AioRpcError) else grpc.StatusCode.OK for each in done]


@pytest.mark.rule("R-G7-2")
async def test_concurrent_creates_never_share_the_last_slot(provider: Provider) -> None:
    assert (await quantities(provider))["small"] == 4
    found = await outcomes(provider, [small(f"uid-{number}") for number in range(10)])
    assert found.count(grpc.StatusCode.OK) == 4
    assert found.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 6
    assert await quantities(provider) == {"small": 4, "large": 0}


async def test_a_refusal_names_the_resource_the_free_and_the_asked(provider: Provider) -> None:
    await provider.create()
    words = "no room for a machine of class large: cpu: 4 CPUs asked, 3 CPUs free (of 4 CPUs, 1 CPU claimed)"
    async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, words):
        await provider.create(small(**{"class": "large"}))
    assert len(await provider.machines()) == 1


@pytest.mark.rule("R-G7-1")
async def test_quantity_is_what_exists_and_what_more_would_fit_beside_it(provider: Provider) -> None:
    assert await quantities(provider) == {"small": 4, "large": 1}
    one = await provider.create()
    assert await quantities(provider) == {"small": 4, "large": 0}
    await provider.stub.DeleteMachine(pb.DeleteMachineRequest(machine_id=one.metadata.id))
    assert await quantities(provider) == {"small": 4, "large": 0}, "until it is gone it has what it has"
    provider.finish(one.metadata.id)
    assert await quantities(provider) == {"small": 4, "large": 1}
    await provider.create(small(**{"class": "large"}))
    assert await quantities(provider) == {"small": 0, "large": 1}


async def test_a_full_host_answers_a_create_of_a_uid_that_is_there(provider: Provider) -> None:
    made = [await provider.create(small(f"uid-{number}")) for number in range(4)]
    before = provider.store.usage()
    assert (await provider.create(small("uid-2"))).metadata.id == made[2].metadata.id
    assert provider.store.usage() == before
    async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
        await provider.create(small("uid-9"))


async def test_a_create_that_fails_claims_nothing(provider: Provider) -> None:
    await provider.create(small("uid"))
    before = provider.store.usage()
    async with refused(grpc.StatusCode.ALREADY_EXISTS):
        await provider.create(small("uid", power=pb.POWER_OFF))
    assert provider.store.usage() == before


async def test_claims_outlive_the_provider(tmp_path: Path) -> None:
    async with serving(tmp_path, FOUR) as provider:
        await provider.create()
        before = provider.store.usage()
    async with serving(tmp_path, FOUR) as provider:
        assert provider.store.usage() == before
        assert await quantities(provider) == {"small": 4, "large": 0}


async def test_a_host_that_takes_nothing_shows_what_exists(provider: Provider) -> None:
    await provider.create()

    def closed() -> None:
        raise Unavailable("this host is cordoned (a new disk)")

    provider.gate = closed
    assert await quantities(provider) == {"small": 1, "large": 0}
    async with refused(grpc.StatusCode.UNAVAILABLE, "a new disk"):
        await provider.create()


# Disks


def volume(name: str, size: int) -> pb.Volume:
    return pb.Volume(name=name, empty_disk=pb.EmptyDisk(size_bytes=size))


async def attach(provider: Provider | Loop, machine_id: str, each: pb.Volume) -> None:
    await provider.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=each))


async def detach(provider: Provider | Loop, machine_id: str, name: str) -> None:
    await provider.stub.DetachVolume(pb.DetachVolumeRequest(machine_id=machine_id, name=name))


@pytest.mark.rule("R-G4-9")
async def test_the_claim_of_an_empty_disk_is_kept_until_its_machine_is_gone(provider: Provider) -> None:
    empty = provider.store.usage()
    made = await provider.create(small(volumes=[volume("a", GIB), volume("default", 0)]))
    machine_id = made.metadata.id
    assert provider.store.usage().of(DISK) == 12 * GIB
    await detach(provider, machine_id, "a")
    assert provider.store.usage().of(DISK) == 12 * GIB
    provider.store.write(lambda tx: tx.delete_attachment(machine_id, ("volume", "a", 1)))  # as the loop does
    assert provider.store.usage().of(DISK) == 12 * GIB
    await attach(provider, machine_id, volume("a", GIB))
    assert provider.store.usage().of(DISK) == 12 * GIB, "it has its data again"
    await attach(provider, machine_id, volume("b", 3 * GIB))
    assert provider.store.usage().of(DISK) == 15 * GIB
    provider.finish(machine_id)
    assert provider.store.usage() == empty


TIGHT = Hardware(Resources(cpus=100, memory_bytes=100 * GIB), disk_bytes=25 * GIB)


@pytest.mark.rule("R-G8-1")
async def test_an_attach_that_does_not_fit_waits_until_it_does(tmp_path: Path) -> None:
    async with serving_loop(tmp_path, FakeHypervisor(), hardware=TIGHT, detach_settle=0) as loop:
        first, second = await loop.created(), await loop.created()
        await attach(loop, first, volume("data", 8 * GIB))
        told = await loop.reason(first, "no-room")
        assert told == (
            'volume "data" is not ready: the host has no room for it: '
            "disk: 8 GiB asked, 5 GiB free (of 25 GiB, 20 GiB claimed)"
        )
        assert (await loop.machine(first)).status.volumes[0].state == pb.VOLUME_PENDING
        assert (await quantities(loop))["c1-m1"] == 2
        await loop.delete(second)
        await loop.gone(second)
        await until("the volume attached", lambda: loop.codes(first) == [], loop.explain)
        assert (await loop.machine(first)).status.volumes[0].state == pb.VOLUME_ATTACHED
        assert loop.store.usage().of(DISK) == 18 * GIB


async def test_a_machine_is_made_though_its_volume_waits(tmp_path: Path) -> None:
    async with serving_loop(tmp_path, FakeHypervisor(), hardware=TIGHT) as loop:
        spec = spec_of()
        spec.volumes.append(volume("large", 20 * GIB))
        machine_id = await loop.create(spec)
        await loop.reason(machine_id, "no-room")
        assert (await loop.observed(machine_id)).status.state == pb.MACHINE_PENDING
        assert loop.store.usage().of(DISK) == 10 * GIB


def backed(loop: Loop, machine_id: str) -> dict[str, bool]:
    """Volumes of a machine, those that leave included, and whether each is prepared."""
    rows = loop.stored(machine_id).attachments
    return {row.name: row.backing is not None for row in rows if row.kind == "volume"}


async def test_an_empty_disk_that_was_detached_before_it_was_made_claims_nothing(tmp_path: Path) -> None:
    hypervisor = FakeHypervisor()
    async with serving_loop(tmp_path, hypervisor, hardware=TIGHT, detach_settle=0, detach_hold=0) as loop:
        machine_id = await loop.created()
        await attach(loop, machine_id, volume("made", GIB))
        await until("the volume attached", lambda: backed(loop, machine_id)["made"], loop.explain)
        hypervisor.set_reachable(False)
        await loop.reason(machine_id, "unreachable")
        await attach(loop, machine_id, volume("brief", 2 * GIB))
        assert loop.store.usage().of(DISK) == 13 * GIB
        for name in ("brief", "made"):
            await detach(loop, machine_id, name)
        hypervisor.set_reachable(True)
        await until("both gone", lambda: not backed(loop, machine_id), loop.explain)
        assert loop.store.usage().of(DISK) == 11 * GIB, "data that was made is kept, and its claim with it"


async def test_a_class_whose_firmware_this_host_lacks_is_not_sold_until_it_comes(tmp_path: Path) -> None:
    file = tmp_path / "classes.yaml"
    file.write_text("classes:\n- {name: u, cpu: 1, memory: 1Gi, firmware: uefi}\n- {name: b, cpu: 1, memory: 1Gi}\n")
    hypervisor = FakeHypervisor()
    whole, hypervisor.offered = hypervisor.offered, replace(hypervisor.offered, firmware=())
    spec = spec_of()
    set_class_name(spec, "u")
    async with serving_loop(tmp_path, hypervisor, machine_classes=file) as loop:
        await until("nothing for sale", lambda: not sold(loop, "u"), loop.explain)
        assert sold(loop, "b") == (await quantities(loop))["b"] > 0
        with pytest.raises(grpc.aio.AioRpcError, match="this host has no UEFI without Secure Boot") as refusal:
            await loop.create(spec)
        assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    hypervisor.offered = whole
    async with serving_loop(tmp_path, hypervisor, machine_classes=file) as loop:
        await until("something for sale", lambda: sold(loop, "u"), loop.explain)
        await loop.created(spec)


def sold(loop: Loop, name: str) -> int:
    offers = loop.provider.pool.offers(loop.store.usage())
    return next(each.quantity for each in offers if each.machine_class.name == name)


# Older stores, neighbours, cordon


async def test_machines_of_an_older_version_claim_what_they_have(tmp_path: Path) -> None:
    hypervisor = FakeHypervisor()
    small_host = replace(TIGHT, total=Resources(cpus=1, memory_bytes=100 * GIB))
    async with serving_loop(tmp_path, hypervisor) as loop:
        spec = spec_of()
        spec.volumes.append(volume("data", 3 * GIB))
        ids = [await loop.created(spec) for _ in range(3)]
        before = loop.store.usage()
        await asyncio.to_thread(loop.store.write, lambda tx: tx._connection.execute("DELETE FROM claim") and None)
    async with serving_loop(tmp_path, hypervisor, hardware=small_host) as loop:
        assert loop.store.usage() == before
        assert (await quantities(loop))["c1-m1"] == 3, "oversold: what exists, and none more"
        for machine_id in ids:
            await loop.state(machine_id, "RUNNING")
        async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "0 CPUs free (of 1 CPU, 3 CPUs claimed)"):
            await loop.create()


STRANGER = """<domain type='qemu'><uuid>0a0a0a0a-0000-4000-8000-000000000001</uuid>
<memory unit='KiB'>8388608</memory><vcpu current='2'>3</vcpu></domain>"""


async def test_domains_that_are_not_ours_are_charged(tmp_path: Path) -> None:
    hypervisor = FakeHypervisor()

    async def reach(loop: Loop, count: int) -> None:
        def counted() -> bool:
            offers = {each.machine_class.name: each for each in loop.provider.pool.offers(loop.store.usage())}
            return offers["c1-m1"].quantity == count

        await until(f"quantity {count}", counted)
        assert (await quantities(loop))["c1-m1"] == count

    async with serving_loop(tmp_path, hypervisor, hardware=FOUR) as loop:
        await reach(loop, 4)
        connection = hypervisor.connect()
        connection.define(STRANGER)
        connection.start("0a0a0a0a-0000-4000-8000-000000000001")
        await reach(loop, 2)
        await loop.create()
        await loop.create()
        async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "0 CPUs free (of 4 CPUs, 4 CPUs claimed)"):
            await loop.create()
        assert loop.store.usage().machines == {"c1-m1": 2}
    hypervisor.set_reachable(False)
    async with serving_loop(tmp_path, hypervisor, hardware=FOUR) as loop:
        await reach(loop, 2)
        hypervisor.set_reachable(True)
        hypervisor.connect().destroy("0a0a0a0a-0000-4000-8000-000000000001")
        await reach(loop, 4)


async def test_a_drained_host_gets_its_guests_back_when_it_is_uncordoned(tmp_path: Path) -> None:
    hypervisor = FakeHypervisor()
    async with serving_loop(tmp_path, hypervisor, hardware=FOUR) as loop:
        machine_id, off = await loop.created(), await loop.created()
        await loop.off(off)
        await asyncio.to_thread(loop.provider.cordon.command, "drain", {"reason": "a new board"})
        await loop.state(machine_id, "SUSPENDED")
        assert await quantities(loop) == {name: 2 * (name == "c1-m1") for name in loop.provider.pool.classes}
        async with refused(grpc.StatusCode.UNAVAILABLE, "drained (a new board)"):
            await loop.create()
    async with serving_loop(tmp_path, hypervisor, hardware=FOUR) as loop:
        await loop.reason(machine_id, "drained")
        await asyncio.to_thread(loop.provider.cordon.command, "uncordon", {})
        await loop.state(machine_id, "RUNNING")
        assert (await loop.machine(off)).status.state == pb.MACHINE_SUSPENDED
        await loop.create()
    assert loop.store.usage() != Usage()


def test_a_class_whose_templates_cannot_be_used_is_told_at_start(tmp_path: Path) -> None:
    file = tmp_path / "classes.yaml"
    file.write_text(f"classes:\n- {{name: odd, cpu: 1, memory: 1Gi, template: {tmp_path}/absent}}\n")
    wishes = settings(tmp_path, machine_classes=file)
    store = Store.open(StatePaths(wishes.state_dir), lambda: 1)
    try:
        with pytest.raises(ConfigError, match=f"machine class odd: templates {tmp_path}/absent: there is no such"):
            app.Provider(wishes, store, hypervisor=FakeHypervisor())
    finally:
        store.close()
