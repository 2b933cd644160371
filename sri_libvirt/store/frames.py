"""The listing: every machine as a list reply holds it, serialised once, kept in memory.

A relist of thousands of machines every second then costs no SQL and no building of messages. Frames are published only
after their commit. Which frames a request may see is decided by its filter alone; nothing else belongs here.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import HANDLE_BYTES
from sri_libvirt.records import Machine

IGNITION_LISTED = 4096
"""Ignition data larger than this many bytes is never listed (contract G.3)."""


_LONGEST = (1 << 63) - 1
"""The number that takes the most bytes in a message."""

_LONGEST_TEXT = str(_LONGEST)
_LONGEST_HANDLE = "h" * HANDLE_BYTES
_BY_CONTENT = f"@sha256:{'0' * 64}"


def message(machine: Machine) -> pb.Machine:
    """The machine as the SRI shows it: metadata, spec and status always present (contract A.1).

    Of the status only what the spec has now: the loop may have looked before a detach.
    """
    shown = pb.Machine(spec=machine.spec, status=machine.status)
    _keep(shown.status.volumes, {each.name for each in shown.spec.volumes})
    _keep(shown.status.network_interfaces, {each.name for each in shown.spec.network_interfaces})
    shown.status.observed_generation = machine.observed_generation
    shown.status.SetInParent()
    shown.metadata.id = machine.id
    shown.metadata.labels.update(machine.labels)
    shown.metadata.annotations.update(machine.annotations)
    shown.metadata.generation = machine.generation
    shown.metadata.created_at = machine.created_at
    shown.metadata.deleted_at = machine.deleted_at
    return shown


def _keep(statuses: Any, names: set[str]) -> None:
    """Take out what has another name."""
    for index in range(len(statuses) - 1, -1, -1):
        if statuses[index].name not in names:
            del statuses[index]


def _largest(shown: pb.Machine) -> int:
    """Bytes of the largest message that a machine of this spec can become: all that the loop and power can change.

    An annotation that is a number is counted at its longest, too: the poollet counts generations in them.
    """
    most = pb.Machine(metadata=shown.metadata, spec=shown.spec)
    most.metadata.generation = most.metadata.deleted_at = _LONGEST
    for key, value in shown.metadata.annotations.items():
        if len(value) < len(_LONGEST_TEXT) and value.isascii() and value.isdigit():
            most.metadata.annotations[key] = _LONGEST_TEXT
    most.spec.power = pb.POWER_OFF
    status = most.status
    status.observed_generation, status.state = _LONGEST, pb.MACHINE_TERMINATED
    image = shown.spec.image.image
    status.image_ref = image if not image or image.lower().startswith(("/", "file:")) else image + _BY_CONTENT
    for volume in shown.spec.volumes:
        status.volumes.add(name=volume.name, handle=_LONGEST_HANDLE, state=pb.VOLUME_ATTACHED)
    for nic in shown.spec.network_interfaces:
        status.network_interfaces.add(name=nic.name, handle=_LONGEST_HANDLE, state=pb.NETWORK_INTERFACE_ATTACHED)
    return most.ByteSize()


def _listed(length: int) -> int:
    """Bytes that a message of this length takes in a list reply, with field tag and length."""
    return 1 + (max(length.bit_length(), 1) + 6) // 7 + length


@dataclass(frozen=True, slots=True)
class Frame:
    """One machine of the listing: `data` is its serialised message, `sequence` its place in the order of creation.

    `most` is how many bytes of a list reply it can take with the spec, labels and annotations that it has, whatever
    becomes of it.
    """

    data: bytes
    labels: dict[str, str]
    sequence: int
    deleted: bool
    state: pb.MachineState = pb.MACHINE_PENDING
    powered_off: bool = False
    most: int = 0

    @classmethod
    def of(cls, machine: Machine) -> Frame:
        """The frame of a machine."""
        shown = message(machine)
        if len(shown.spec.ignition_data) > IGNITION_LISTED:
            shown.spec.ClearField("ignition_data")
        return cls.read(shown, shown.SerializeToString(deterministic=True), machine.sequence)

    @classmethod
    def read(cls, shown: pb.Machine, data: bytes, sequence: int) -> Frame:
        """The frame of a message whose bytes are `data`."""
        metadata = shown.metadata
        labels = {sys.intern(key): value for key, value in metadata.labels.items()}  # the same keys everywhere
        off = shown.spec.power == pb.POWER_OFF
        most = _listed(max(_largest(shown), len(data)))  # larger than its largest: listed by an older version
        return cls(data, labels, sequence, bool(metadata.deleted_at), shown.status.state, off, most)

    def is_to_go(self, drained: bool) -> bool:
        """Whether a guest that may be there is to go, with all that comes after it; `drained`: as every guest is."""
        may_run = self.state in (pb.MACHINE_RUNNING, pb.MACHINE_PENDING)
        return self.deleted or (may_run and (self.powered_off or drained))

    @property
    def size(self) -> int:
        """Bytes that it takes in a list reply now."""
        return _listed(len(self.data))


class Listing:
    """All frames. Safe from any thread; a reader sees whole commits only."""

    def __init__(self, frames: Mapping[str, Frame]) -> None:
        self._lock = threading.Lock()
        self._frames = dict(frames)
        self._most = sum(frame.most for frame in self._frames.values())
        self._order: list[str] | None = None

    @property
    def most(self) -> int:
        """Bytes that an unfiltered list reply can come to with the machines as they are asked for."""
        return self._most

    def get(self, machine_id: str) -> Frame | None:
        """One machine's frame."""
        return self._frames.get(machine_id)

    def publish(self, changes: Mapping[str, Frame | None]) -> None:
        """Put a commit's frames in place; None takes a machine out."""
        with self._lock:
            for machine_id, frame in changes.items():
                old = self._frames.pop(machine_id, None) if frame is None else self._frames.get(machine_id)
                if frame is not None:
                    self._frames[machine_id] = frame
                    self._most += frame.most
                self._most -= old.most if old else 0
                if old is None or frame is None or old.deleted != frame.deleted:
                    self._order = None

    def ids(self) -> list[str]:
        """Ids of all machines: live before deleting ones, newest first (contract A.3)."""
        with self._lock:
            return list(self._ordered())

    def states(self) -> dict[str, tuple[pb.MachineState, bool]]:
        """The listed state of every machine, and whether it is being deleted."""
        with self._lock:
            return {machine_id: (frame.state, frame.deleted) for machine_id, frame in self._frames.items()}

    def select(self, machine_id: str, selector: Mapping[str, str]) -> list[bytes]:
        """The frames that match an id ("" for all) and carry every label of the selector, in the order of `ids`."""
        with self._lock:
            if machine_id:
                frame = self._frames.get(machine_id)
                found = [] if frame is None else [frame]
            else:
                found = [self._frames[each] for each in self._ordered()]
        required = selector.items()
        return [frame.data for frame in found if not required or required <= frame.labels.items()]

    def _ordered(self) -> list[str]:
        if self._order is None:
            frames = self._frames
            self._order = sorted(frames, key=lambda each: (frames[each].deleted, -frames[each].sequence))
        return self._order
