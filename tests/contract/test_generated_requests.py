"""10,000 generated requests over a real socket: every answer is one that the contract knows."""

from __future__ import annotations

import asyncio
from collections import Counter

import grpc
import pytest
from structlog.testing import capture_logs

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.server import intents
from tests.contract.conftest import Provider
from tests.contract.refusal import refused
from tests.contract.requests import Generator

REQUESTS = 10_000
CLIENTS = 8
KNOWN = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNIMPLEMENTED,
}


LINGER = 10
"""Machines that are being deleted at a time."""


async def send(provider: Provider, generator: Generator, going: list[str]) -> tuple[str, grpc.StatusCode, str]:
    """Send the next request; machines that are being deleted are finished after a while, as the loop would."""
    method, request = generator.request()
    try:
        reply = await provider.raw(method, request)
    except grpc.aio.AioRpcError as error:
        return method, error.code(), error.details() or ""
    if method == "CreateMachine":
        generator.learn(pb.CreateMachineResponse.FromString(reply).machine.metadata.id)
    if method == "DeleteMachine":
        going.append(pb.DeleteMachineRequest.FromString(request).machine_id)
        if len(going) > LINGER:
            await asyncio.to_thread(provider.finish, going.pop(0))
    return method, grpc.StatusCode.OK, ""


async def test_no_request_meets_a_bug(provider: Provider) -> None:
    generator = Generator(seed=20240109)
    going: list[str] = []
    answers: Counter[tuple[str, grpc.StatusCode]] = Counter()

    async def client(requests: int) -> None:
        for _ in range(requests):
            method, code, words = await send(provider, generator, going)
            answers[method, code] += 1
            assert code in KNOWN, (method, code, words)
            assert code is grpc.StatusCode.OK or words, (method, code)

    with capture_logs() as logs:
        await asyncio.gather(*(client(REQUESTS // CLIENTS) for _ in range(CLIENTS)))
    assert sum(answers.values()) == REQUESTS
    accepted = Counter({method: count for (method, code), count in answers.items() if code is grpc.StatusCode.OK})
    assert accepted.total() > REQUESTS / 3
    assert set(accepted) == {method.name for method in pb.DESCRIPTOR.services_by_name["MachineRuntime"].methods} - {
        "Exec"
    }
    assert {code for _, code in answers} == KNOWN
    assert not [line for line in logs if line["log_level"] == "error"]
    for machine in await provider.machines():
        stored = provider.store.machine(machine.metadata.id)
        assert stored is not None
        wanted = {(row.kind, row.name) for row in stored.attachments if row.wanted and row.kind in ("volume", "nic")}
        listed = {("volume", each.name) for each in machine.spec.volumes}
        assert wanted == listed | {("nic", each.name) for each in machine.spec.network_interfaces}
        targets = [row.target for row in stored.attachments if row.wanted and row.target]
        assert len(targets) == len(set(targets))


async def test_a_bug_in_a_handler_is_internal_and_logged(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await provider.create()

    def broken(*_: object) -> bool:
        raise KeyError("a secret of the program")

    monkeypatch.setattr(intents, "delete", broken)
    with capture_logs() as logs:
        async with refused(grpc.StatusCode.INTERNAL, "internal error, see the log"):
            await provider.stub.DeleteMachine(pb.DeleteMachineRequest(machine_id=made.metadata.id))
    (line,) = [line for line in logs if line["log_level"] == "error"]
    assert isinstance(line["exc_info"], KeyError)
    assert line["exc_info"].__traceback__ is not None
    assert line["method"] == "DeleteMachine"
    assert await provider.machines() == [made]
