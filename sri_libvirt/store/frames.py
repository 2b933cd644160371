"""The listing: every machine as a list reply holds it, serialised once, kept in memory.

A relist of thousands of machines every second then costs no SQL and no building of messages. Frames are published only
after their commit. Which frames a request may see is decided by its filter alone; nothing else belongs here.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.records import Machine

IGNITION_LISTED = 4096
"""Ignition data larger than this many bytes is never listed (contract G.3)."""


def message(machine: Machine) -> pb.Machine:
    """The machine as the SRI shows it: metadata, spec and status always present (contract A.1)."""
    shown = pb.Machine(spec=machine.spec, status=machine.status)
    shown.status.observed_generation = machine.observed_generation
    shown.status.SetInParent()
    shown.metadata.id = machine.id
    shown.metadata.labels.update(machine.labels)
    shown.metadata.annotations.update(machine.annotations)
    shown.metadata.generation = machine.generation
    shown.metadata.created_at = machine.created_at
    shown.metadata.deleted_at = machine.deleted_at
    return shown


@dataclass(frozen=True, slots=True)
class Frame:
    """One machine of the listing: `data` is its serialised message, `sequence` its place in the order of creation."""

    data: bytes
    labels: dict[str, str]
    sequence: int
    deleted: bool
    state: pb.MachineState = pb.MACHINE_PENDING
    powered_off: bool = False

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
        return cls(data, labels, sequence, bool(metadata.deleted_at), shown.status.state, off)

    def is_to_go(self, drained: bool) -> bool:
        """Whether a guest that may be there is to go, with all that comes after it; `drained`: as every guest is."""
        may_run = self.state in (pb.MACHINE_RUNNING, pb.MACHINE_PENDING)
        return self.deleted or (may_run and (self.powered_off or drained))

    @property
    def size(self) -> int:
        """Bytes that it takes in a list reply, with field tag and length."""
        return 1 + (max(len(self.data).bit_length(), 1) + 6) // 7 + len(self.data)


class Listing:
    """All frames. Safe from any thread; a reader sees whole commits only."""

    def __init__(self, frames: Mapping[str, Frame]) -> None:
        self._lock = threading.Lock()
        self._frames = dict(frames)
        self._size = sum(frame.size for frame in self._frames.values())
        self._order: list[str] | None = None

    @property
    def size(self) -> int:
        """Bytes of an unfiltered list reply."""
        return self._size

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
                    self._size += frame.size
                self._size -= old.size if old else 0
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
