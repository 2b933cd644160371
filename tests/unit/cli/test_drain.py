"""`sri-libvirt drain --wait`: which guests it waits for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.cli import drain
from sri_libvirt.records import Run, StopCause
from tests.unit.cli.conftest import WEB, machine

PAUSED = Run(uuid="r", started_at=1)


@pytest.mark.parametrize(
    ("state", "run", "waited_for"),
    [
        (pb.MACHINE_RUNNING, PAUSED, True),
        (pb.MACHINE_PENDING, PAUSED, True),
        (pb.MACHINE_SUSPENDED, replace(PAUSED, stopped=StopCause.REQUESTED), False),
        (pb.MACHINE_PENDING, Run(), False),
    ],
    ids=["runs", "paused, or not seen", "seen to be off", "never started"],
)
def test_a_guest_runs_until_it_was_seen_to_be_off(state: pb.MachineState, run: Run, waited_for: bool) -> None:
    found = replace(machine(WEB, "web", 1), status=pb.MachineStatus(state=state), run=run)
    assert drain._runs(found) is waited_for
