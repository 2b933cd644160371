"""The SRI's client for people: the provider is asked as the poollet asks it, by the socket of its group.

Names are looked for in the list that the provider gives, so neither root nor the store is needed. What is asked does
not belong here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.api.machine.v1alpha1.api_pb2_grpc import MachineRuntimeStub
from sri_libvirt.config import Settings
from sri_libvirt.errors import FailedPrecondition, NotFound, Unavailable
from sri_libvirt.records import LABEL_NAME, LABEL_NAMESPACE, SECOND
from sri_libvirt.views.show import full_name, took

CALL_SECONDS = 30.0
LOOK_SECONDS = 0.25
"""How often it is looked whether what was asked for has happened: the SRI tells of no changes."""

_SHOWN = 5
Met = Callable[[pb.Machine | None], bool]


class Client:
    """Calls of one provider. All raise SRIError, with the provider's own words."""

    def __init__(self, channel: grpc.Channel, address: str) -> None:
        self._stub: Any = MachineRuntimeStub(channel)
        self._address = address

    def call(self, method: str, request: Any) -> Any:
        """One RPC."""
        try:
            return getattr(self._stub, method)(request, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            raise _failed(error, self._address) from error

    def find(self, word: str) -> pb.Machine:
        """The machine of this id, unique beginning of one, `namespace/name` or name. Nothing is guessed."""
        machines = self.call("ListMachines", pb.ListMachinesRequest()).machines
        matching = [each for each in machines if word and (each.metadata.id.startswith(word) or word in _names(each))]
        matching = [each for each in matching if each.metadata.id == word] or matching
        if len(matching) == 1:
            found: pb.Machine = matching[0]
            return found
        if not matching:
            raise NotFound(f"the provider at {self._address} has no machine {word!r}")
        ids = ", ".join(each.metadata.id for each in matching[:_SHOWN]) + (", …" if len(matching) > _SHOWN else "")
        raise NotFound(f"{word!r} means {len(matching)} machines ({ids}): give more of the id")

    def get(self, machine_id: str) -> pb.Machine | None:
        """The machine of this id."""
        request = pb.ListMachinesRequest(filter=pb.MachineFilter(id=machine_id))
        found = self.call("ListMachines", request).machines
        return found[0] if found else None

    def wait(self, machine_id: str, what: str, met: Met, timeout: int | None) -> None:
        """Until it is so, for at most so many nanoseconds.

        Raises FailedPrecondition when the time is over, or it cannot become so any more.
        """
        begun = time.monotonic()
        while not met(machine := self.get(machine_id)):
            if machine is None:
                raise FailedPrecondition(f"machine {machine_id} is gone")
            if timeout is not None and time.monotonic() - begun >= timeout / SECOND:
                waited = f" after {took(timeout)}" if timeout else ""
                raise FailedPrecondition(
                    f"machine {machine_id} is not {what}{waited}; see: sri-libvirt machine why {machine_id}"
                )
            time.sleep(LOOK_SECONDS)


@contextmanager
def connected(settings: Settings) -> Iterator[Client]:
    """A client of the provider at `--address`."""
    with grpc.insecure_channel(settings.address) as channel:
        yield Client(channel, settings.address)


def title(machine: pb.Machine) -> str:
    """A machine as a question names it."""
    labels = machine.metadata.labels
    name = full_name(labels.get(LABEL_NAMESPACE, ""), labels.get(LABEL_NAME, ""))
    return f"{name} ({machine.metadata.id})" if name else str(machine.metadata.id)


def settled(state: pb.MachineState) -> Met:
    """Met once the latest wish was looked at, and the machine is in this state."""

    def met(machine: pb.Machine | None) -> bool:
        return (
            machine is not None
            and machine.status.observed_generation >= machine.metadata.generation
            and machine.status.state == state
        )

    return met


def _names(machine: pb.Machine) -> tuple[str, str]:
    name = machine.metadata.labels.get(LABEL_NAME, "")
    return name, full_name(machine.metadata.labels.get(LABEL_NAMESPACE, ""), name)


def _failed(error: grpc.RpcError, address: str) -> Exception:
    code, words = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE and ("connect" in words.lower() or "dns" in words.lower()):
        return Unavailable(f"no provider answers at {address} for this user (--address; its group may): {words}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unavailable(f"the provider at {address} has not answered within {CALL_SECONDS:g} s")
    return FailedPrecondition(f"{code.name}: {words}")
