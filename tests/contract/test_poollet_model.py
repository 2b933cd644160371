"""The poollet's model notices what it is there to notice: replies that are wrong in one way each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests import third_party
from tests.contract.compressed import CompressedProvider
from tests.contract.test_rules_poollet import connection, running
from tests.poollet import pool
from tests.poollet.api import ApiMachine, ApiNic, ApiVolume
from tests.poollet.controller import SRI_GENERATION, Poollet
from tests.poollet.scenario import Scenario
from tests.poollet.watch import Broken, Panic

Change = Callable[[pb.ListMachinesResponse], None]


class Liar:
    """A stub whose lists are changed before the poollet sees them, once `change` is set."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self.change: Change | None = None

    def __getattr__(self, method: str) -> Any:
        call = getattr(self._stub, method)

        def changed(request: Any, timeout: float) -> Any:
            reply = call(request, timeout=timeout)
            if self.change and isinstance(reply, pb.ListMachinesResponse) and reply.machines:
                self.change(reply)
            return reply

        return changed


@pytest.fixture
def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CompressedProvider]:
    monkeypatch.syspath_prepend(third_party.install(tmp_path / "site"))
    made = CompressedProvider(tmp_path)
    made.start()
    yield made
    made.close()


def machine(tmp_path: Path) -> ApiMachine:
    backend = tmp_path / "backend"
    backend.mkdir()
    return ApiMachine(
        "m",
        volumes=[ApiVolume("root", "oda", connection=connection(backend, "root")), ApiVolume("scratch", "odb")],
        nics=[ApiNic("lan", "isolated", ("fd00::1",)), ApiNic("wan", "isolated")],
    )


def on_each(change: Callable[[pb.Machine], None]) -> Change:
    def changed(reply: pb.ListMachinesResponse) -> None:
        for each in reply.machines:
            change(each)

    return changed


def respell(found: pb.Machine) -> None:
    found.spec.network_interfaces[0].ips[0] = "fd00:0::1"


def fill_in(found: pb.Machine) -> None:
    next(each for each in found.spec.volumes if each.name == "scratch").empty_disk.size_bytes = 1 << 30


def drop_encryption(found: pb.Machine) -> None:
    next(each for each in found.spec.volumes if each.name == "root").connection.encryption_data.clear()


def lose_volume(found: pb.Machine) -> None:
    del found.spec.volumes[-1]


def twice(reply: pb.ListMachinesResponse) -> None:
    reply.machines.add().CopyFrom(reply.machines[0])
    reply.machines[-1].metadata.id = "other"


def forget_annotation(found: pb.Machine) -> None:
    del found.metadata.annotations[SRI_GENERATION]


def flapping() -> Change:
    """Status entries in another order every other time."""
    count = itertools.count()

    def changed(reply: pb.ListMachinesResponse) -> None:
        if next(count) % 2:
            entries = list(reply.machines[0].status.volumes)[::-1]
            del reply.machines[0].status.volumes[:]
            reply.machines[0].status.volumes.extend(entries)

    return changed


WRONG: list[tuple[str, Change, type[AssertionError], str]] = [
    ("no metadata", on_each(lambda m: m.ClearField("metadata")), Panic, "metadata of .* is nil"),
    ("no spec", on_each(lambda m: m.ClearField("spec")), Panic, "spec of .* is nil"),
    ("no status", on_each(lambda m: m.ClearField("status")), Panic, "status of .* is nil"),
    ("two of a uid", twice, Panic, "multiple SRI machines"),
    ("left out", lambda reply: reply.Clear(), Broken, "taken for gone"),
    ("another spelling", on_each(respell), Broken, "spurious detach of network interface 'lan'"),
    ("a size filled in", on_each(fill_in), Broken, "spurious detach of volume 'scratch'"),
    ("no encryption data", on_each(drop_encryption), Broken, "spurious detach of volume 'root'"),
    ("a volume lost", on_each(lose_volume), Broken, "spurious detach of volume"),
    ("other power", on_each(lambda m: setattr(m.spec, "power", pb.POWER_OFF)), Broken, "spurious UpdateMachinePower"),
    ("a label more", on_each(lambda m: m.metadata.labels.update({"a": "b"})), Broken, "labels of"),
    ("an annotation lost", on_each(forget_annotation), Broken, "annotations of"),
    ("unknown state", on_each(lambda m: setattr(m.status, "state", 9)), Broken, "a state of .* is unknown"),
    ("no handle", on_each(lambda m: m.status.volumes[0].ClearField("handle")), Broken, "attached without a handle"),
    ("flapping order", flapping(), Broken, "never comes to rest|at rest found a difference"),
    ("frozen", on_each(lambda m: setattr(m.status, "observed_generation", 0)), Broken, "is frozen"),
]


@pytest.mark.parametrize(("change", "error", "words"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_what_is_wrong_is_noticed(
    provider: CompressedProvider, tmp_path: Path, change: Change, error: type[AssertionError], words: str
) -> None:
    liar = Liar(provider.stub)
    scenario = Scenario(Poollet(liar), provider.second, frozen=10)
    wanted = running(scenario, machine(tmp_path))
    scenario.rest(3)
    liar.change = change
    with pytest.raises(error, match=words):
        scenario.rest(60)
    assert wanted.status.state == "Running"


def test_a_second_machine_would_be_made_of_one_that_is_not_listed_at_once(
    provider: CompressedProvider, tmp_path: Path
) -> None:
    liar = Liar(provider.stub)
    liar.change = lambda reply: reply.Clear()
    scenario = Scenario(Poollet(liar, [machine(tmp_path)]), provider.second)
    with pytest.raises(Panic, match="a second one would be created"):
        scenario.step()


def test_a_class_without_capabilities_ends_the_poollet() -> None:
    class Stub:
        def Status(self, _request: pb.StatusRequest, timeout: float) -> pb.StatusResponse:  # noqa: N802 of the .proto
            return pb.StatusResponse(machine_class_status=[pb.MachineClassStatus(machine_class={"name": "small"})])

    with pytest.raises(Panic):
        pool.capacity(Stub(), {"small": (1000, 1)})
