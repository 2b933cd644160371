"""The list reply stays what a client can receive, whatever is written by whom and in which order."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import Exhausted, FailedPrecondition, SRIError
from sri_libvirt.paths import StatePaths
from sri_libvirt.reconcile import status as statuses
from sri_libvirt.reconcile.view import Observed, Policy
from sri_libvirt.records import GIB, Machine, MachineClass, Run
from sri_libvirt.server import bounds, intents
from sri_libvirt.server.service import stitch
from sri_libvirt.store import Store, Transaction
from sri_libvirt.store.frames import Frame

SMALL = {"CREATE": 6_000, "ATTACH": 8_000, "ANNOTATE": 10_000}
"""Bounds that a handful of calls reaches."""

CLASS = MachineClass("c", 1000, GIB)
LONG = st.integers(0, 2_000)
PICK = st.integers(0, 20)


class Listed(RuleBasedStateMachine):
    """RPCs as the service makes them, and a loop that writes what it has seen, late at times."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        for name, value in SMALL.items():
            self.patch.setattr(bounds, name, value)
        self.directory = tempfile.TemporaryDirectory()
        self.numbers = count(1)
        self.store = Store.open(StatePaths(Path(self.directory.name)), lambda: next(self.numbers))
        self.seen: list[Machine] = []

    def teardown(self) -> None:
        self.store.close()
        self.directory.cleanup()
        self.patch.undo()

    def some(self, pick: int) -> str:
        ids = self.store.machine_ids()
        return ids[pick % len(ids)] if ids else "nobody"

    def ask(self, work: Callable[[Transaction], Any], refusal: type[SRIError] = FailedPrecondition) -> None:
        """A call that may be refused, by that alone or for what is wrong in itself."""
        try:
            self.store.write(work)
        except refusal:
            return
        except SRIError as error:
            other = str(error)
        else:
            return
        assert "the list of all machines" not in other, "refused with another code"

    @rule(length=LONG)
    def create(self, length: int) -> None:
        number = next(self.numbers)
        spec = pb.MachineSpec(image=pb.ImageSpec(image="i" * (length // 4)), **{"class": "c"})  # type: ignore[arg-type]
        spec.volumes.add(name="v" * (length // 4), empty_disk={})
        draft = intents.Draft(f"machine-{number}", {}, {"generation": "1"}, spec, number, number)
        self.ask(lambda tx: intents.create(tx, draft, lambda: CLASS), Exhausted)

    @rule(pick=PICK, length=LONG, name=st.sampled_from(["a", "b"]))
    def attach_nic(self, pick: int, length: int, name: str) -> None:
        nic = pb.NetworkInterface(name=name * (1 + length // 3), network_id="isolated", attributes={"a": "x" * length})
        self.ask(lambda tx: intents.attach_nic(tx, self.some(pick), nic, next(self.numbers)))

    @rule(pick=PICK, length=LONG, name=st.sampled_from(["a", "b"]))
    def attach_volume(self, pick: int, length: int, name: str) -> None:
        volume = pb.Volume(name=name * (1 + length // 3), empty_disk=pb.EmptyDisk(size_bytes=length))
        self.ask(lambda tx: intents.attach_volume(tx, self.some(pick), volume, next(self.numbers)))

    @rule(pick=PICK, length=LONG)
    def annotate(self, pick: int, length: int) -> None:
        self.ask(lambda tx: intents.annotate(tx, self.some(pick), {"generation": "1", "a": "x" * length}))

    @rule(pick=PICK, generation=st.sampled_from([7, 10**9]))
    def count_generations(self, pick: int, generation: int) -> None:
        """What the poollet does after every update is never refused."""
        machine = self.store.machine(self.some(pick))
        if machine is not None and "generation" in machine.annotations:
            annotations = {**machine.annotations, "generation": str(generation)}
            self.store.write(lambda tx: intents.annotate(tx, machine.id, annotations))

    @rule(pick=PICK, power=st.sampled_from([pb.POWER_ON, pb.POWER_OFF]))
    def power(self, pick: int, power: pb.Power) -> None:
        machine = self.store.machine(self.some(pick))
        if machine is not None and not machine.deleted_at:
            self.store.write(lambda tx: intents.set_power(tx, machine.id, power, next(self.numbers)))

    @rule(pick=PICK)
    def detach(self, pick: int) -> None:
        machine = self.store.machine(self.some(pick))
        if machine is None:
            return
        if machine.spec.volumes:
            volume = machine.spec.volumes[0].name
            self.store.write(lambda tx: intents.detach_volume(tx, machine.id, volume, next(self.numbers)))
        if machine.spec.network_interfaces:
            nic = machine.spec.network_interfaces[0].name
            self.store.write(lambda tx: intents.detach_nic(tx, machine.id, nic, next(self.numbers)))

    @rule(pick=PICK)
    def delete(self, pick: int) -> None:
        machine_id = self.some(pick)
        if machine_id != "nobody":
            self.store.write(lambda tx: intents.delete(tx, machine_id, next(self.numbers)))

    @rule(pick=PICK)
    def forget(self, pick: int) -> None:
        machine = self.store.machine(self.some(pick))
        if machine is not None and machine.deleted_at:
            self.store.write(lambda tx: tx.forget(machine.id))

    @rule(pick=PICK)
    def look(self, pick: int) -> None:
        """A lane reads a machine, and takes its time."""
        machine = self.store.machine(self.some(pick))
        if machine is not None:
            self.seen.append(machine)

    @rule(handle=st.sampled_from(["", "h" * 40, "h" * 5000]))
    def record(self, handle: str) -> None:
        """The lane writes down what it has made of what it read."""
        if not self.seen:
            return
        machine = self.seen.pop(0)
        policy = Policy(handle_of=lambda _row: handle, start_blocked=lambda _machine: None)
        status = statuses.build(machine, Observed(domain=None, boot_id="b"), Run(), policy)
        with suppress(SRIError):  # it has been forgotten meanwhile
            self.store.write(
                lambda tx: tx.record_pass(
                    machine.id, status=status, run=Run(), reasons=(), observed_generation=machine.generation
                )
            )

    @invariant()
    def a_client_receives_it(self) -> None:
        assert len(stitch(self.store.frames())) <= SMALL["ANNOTATE"]

    @invariant()
    def nothing_is_larger_than_its_most(self) -> None:
        frames = [Frame.read(pb.Machine.FromString(data), data, 0) for data in self.store.frames()]
        assert all(frame.size <= frame.most for frame in frames)
        assert self.store.write(lambda tx: tx.listing_most()) == sum(frame.most for frame in frames)


Listed.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestListed = Listed.TestCase
