"""Volumes that a secret opens, on a whole provider: libvirt has the secret for a call, and nobody else ever sees it."""

from __future__ import annotations

import asyncio
import io
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import structlog
from prometheus_client import generate_latest

from sri_libvirt import config, failpoints, log, names
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import HypervisorError
from sri_libvirt.hypervisor.base import Secret, SecretUsage
from sri_libvirt.hypervisor.fake import FakeHypervisor
from tests import third_party
from tests.contract.loop import Loop, disk, locked, serving_loop, spec_of, until
from tests.contract.test_store_cli import Cli

KEY = b"planted-secret-of-a-tenant"
OTHERS = "99999999-2222-4333-8444-555555555555"


@pytest.fixture(autouse=True)
def drivers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(third_party.install(tmp_path / "site"))
    yield
    failpoints.arm(None)


@pytest.fixture
async def loop(tmp_path: Path) -> AsyncIterator[Loop]:
    async with serving_loop(tmp_path, FakeHypervisor()) as loop:
        yield loop


def spec() -> pb.MachineSpec:
    made = spec_of()
    made.volumes.append(locked("data", KEY))
    return made


async def attach(loop: Loop, machine_id: str, name: str = "late") -> None:
    await loop.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=locked(name, KEY)))


def uuid_of(machine_id: str, name: str = "data") -> str:
    return names.secret_uuid(machine_id, name, "encryption")


def opened(loop: Loop, machine_id: str, name: str = "data") -> bytes:
    """What the disk was opened with since it was asked last."""
    return loop.hypervisor.opened_with.pop(uuid_of(machine_id, name), b"")


async def plugged(loop: Loop, machine_id: str, count: int) -> None:
    def there() -> bool:
        devices = (loop.live(machine_id).devices, loop.persistent(machine_id).devices)  # a save here is of the latter
        return [len(each) for each in devices] == [count, count] and not loop.codes(machine_id)

    await until(f"{count} devices", there, loop.explain)


async def test_a_start_a_plug_and_a_restore_open_the_disk_and_leave_no_secret(loop: Loop) -> None:
    machine_id = await loop.created(spec())
    assert opened(loop, machine_id) == KEY
    await attach(loop, machine_id)
    await plugged(loop, machine_id, 2)
    assert opened(loop, machine_id, "late") == KEY
    loop.hypervisor.save(machine_id)
    await until("restore", lambda: ("started", "restored") in loop.told(machine_id), loop.explain)
    assert (opened(loop, machine_id), opened(loop, machine_id, "late")) == (KEY, KEY)
    await until("no secret", lambda: loop.hypervisor.secrets == {})

    def attached() -> bool:
        return [each.state for each in loop.stored(machine_id).status.volumes] == [pb.VOLUME_ATTACHED] * 2

    await until("both attached", attached, loop.explain)


async def test_a_drop_that_fails_is_made_up_for_at_once(loop: Loop) -> None:
    loop.hypervisor.fail_next("drop_secret", HypervisorError("not now"))
    machine_id = await loop.created(spec())
    assert opened(loop, machine_id) == KEY
    await until("clean-up", lambda: loop.hypervisor.secrets == {})
    assert loop.codes(machine_id) == []


async def test_what_a_crash_left_goes_at_the_start_and_nothing_of_others(tmp_path: Path) -> None:
    hypervisor = FakeHypervisor()
    async with serving_loop(tmp_path, hypervisor) as loop:
        machine_id, instance = await loop.created(spec()), loop.store.instance
    for uuid, whose in ((uuid_of(machine_id), instance), ("5ec", OTHERS)):
        hypervisor.connect().set_secret(Secret(uuid, SecretUsage.VOLUME, whose), KEY)
    async with serving_loop(tmp_path, hypervisor):
        await until("clean-up", lambda: list(hypervisor.secrets) == ["5ec"])


async def test_a_clean_up_takes_no_secret_of_a_call_that_hangs_and_the_late_end_leaves_none(tmp_path: Path) -> None:
    async with serving_loop(tmp_path, FakeHypervisor(), call_deadline=config.duration("2s")) as loop:
        machine_id = await loop.created()
        release = loop.hypervisor.hang("attach_device")
        await attach(loop, machine_id)
        await loop.reason(machine_id, "stuck-call")
        await asyncio.to_thread(loop.provider.clean_up)
        assert list(loop.hypervisor.secrets) == [uuid_of(machine_id, "late")]
        release()
        await plugged(loop, machine_id, 1)
        assert opened(loop, machine_id, "late") == KEY
        await until("clean-up", lambda: loop.hypervisor.secrets == {})


async def test_machines_without_secrets_make_no_call_for_them(tmp_path: Path) -> None:
    points = failpoints.Once("fail", "never")
    failpoints.arm(points)
    async with serving_loop(tmp_path, FakeHypervisor()) as loop:
        machine_id = await loop.created(spec_of(disks=("data",)))
        await loop.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=disk("late")))
        await plugged(loop, machine_id, 2)
    assert "after libvirt.attach_device" in points.passed
    assert [point for point in points.passed if "secret" in point] == []


async def test_a_planted_secret_is_found_in_the_spec_alone(tmp_path: Path) -> None:
    """Whatever is done, also what fails: not in a log, an event, a reason, another column, XML or the CLI's output."""
    told = io.StringIO()
    before = structlog.get_config()
    log.set_up("debug", "json", told)
    hypervisor, cli = FakeHypervisor(tmp_path / "fake.json"), Cli(tmp_path)
    outputs: dict[str, str] = {}
    try:
        async with serving_loop(tmp_path, hypervisor) as loop:
            machine_id = await loop.created(spec())
            for method in ("set_secret", "attach_device", "drop_secret"):
                hypervisor.fail_next(method, HypervisorError("refused"))
            await attach(loop, machine_id)
            await plugged(loop, machine_id, 2)
            hypervisor.connect().set_secret(Secret("5ec", SecretUsage.CEPH, loop.store.instance), KEY)
            for command in COMMANDS:
                argv = [machine_id if word == "ID" else word for word in command.split()]
                status, outputs[command] = await cli.run(*argv)
                assert status == 0, outputs[command]
            xml = hypervisor.connect().snapshot(machine_id)
            outputs["xml"], outputs["log"] = repr(xml), told.getvalue()
            outputs["metrics"] = generate_latest(loop.provider.metrics.registry).decode()
    finally:
        structlog.configure(**before)
    assert "action failed" in outputs["log"]
    assert "data" in outputs["machine get ID -o yaml"]
    outputs["fake.json"] = (tmp_path / "fake.json").read_text()
    assert [what for what, text in outputs.items() if KEY.decode() in text] == []
    assert columns_with(tmp_path / "state", KEY) == {("machine", "spec"), ("machine", "frame"), ("attachment", "spec")}


COMMANDS = (
    "machine list", "machine get ID -o yaml", "machine get ID -o json", "machine get ID", "machine why ID",
    "machine events ID", "machine events -A -o json", "machine describe ID", "machine describe ID -o json",
    "capacity --by machine -o json", "config -o json", "sweep", "sweep -o json", "capacity -o json", "store check",
)  # fmt: skip


def columns_with(state: Path, value: bytes) -> set[tuple[str, str]]:
    """Tables and columns of the store that hold the value somewhere."""
    (path,) = (state / "store").glob("state.sqlite")
    found = set()
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            rows = connection.execute(f'SELECT * FROM "{table}"')
            columns = [each[0] for each in rows.description]
            for row in rows:
                cells = zip(columns, row, strict=True)
                found |= {(table, column) for column, cell in cells if value in _bytes(cell)}
    return found


def _bytes(cell: object) -> bytes:
    return cell if isinstance(cell, bytes) else str(cell).encode()
