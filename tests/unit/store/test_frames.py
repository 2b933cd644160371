"""What is listed of a machine, and how large that can become."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import HANDLE_BYTES
from sri_libvirt.records import Machine
from sri_libvirt.store.frames import Frame, message
from tests.unit.store.records import full, machine

LARGEST = (1 << 63) - 1
DEVANAGARI = "\u0967" * 18
"""Digits to Unicode, of three bytes each, and no number that a poollet counts in."""
NAMES = st.text("ab-é", max_size=200)
HANDLES = st.text("xy", max_size=HANDLE_BYTES)
specs = st.builds(
    pb.MachineSpec,
    image=st.none() | st.builds(pb.ImageSpec, image=NAMES),
    volumes=st.lists(st.builds(pb.Volume, name=NAMES), max_size=4, unique_by=lambda each: each.name),
    network_interfaces=st.lists(
        st.builds(pb.NetworkInterface, name=NAMES), max_size=4, unique_by=lambda each: each.name
    ),
    ignition_data=st.binary(max_size=20),
)
numbers = st.sampled_from([0, 1, 127, 128, 1 << 40, LARGEST])


def became(before: Machine, draw: st.DataObject) -> Machine:
    """What loop, power and delete can make of a machine."""
    spec = pb.MachineSpec()
    spec.CopyFrom(before.spec)
    spec.power = draw.draw(st.sampled_from([pb.POWER_ON, pb.POWER_OFF]))
    status = pb.MachineStatus(
        state=draw.draw(st.sampled_from([pb.MACHINE_PENDING, pb.MACHINE_TERMINATED])), image_ref=before.spec.image.image
    )
    for volume in before.spec.volumes:
        status.volumes.add(name=volume.name, handle=draw.draw(HANDLES), state=pb.VOLUME_ATTACHED)
    for nic in before.spec.network_interfaces:
        status.network_interfaces.add(name=nic.name, handle=draw.draw(HANDLES), state=pb.NETWORK_INTERFACE_ATTACHED)
    annotations = {key: str(draw.draw(numbers)) if value == "1" else value for key, value in before.annotations.items()}
    return replace(
        before, spec=spec, status=status, annotations=annotations, generation=draw.draw(numbers),
        observed_generation=draw.draw(numbers), deleted_at=draw.draw(numbers),
    )  # fmt: skip


@settings(deadline=None)
@given(specs, st.dictionaries(NAMES, st.sampled_from(["", "1", "word", "x" * 300]), max_size=3), st.data())
def test_nothing_becomes_larger_than_its_most_nor_changes_it(
    spec: pb.MachineSpec, annotations: dict[str, str], draw: st.DataObject
) -> None:
    before = machine("m" * 36, spec=spec, annotations=annotations)
    frame = Frame.of(before)
    later = Frame.of(became(before, draw))
    assert frame.size <= frame.most
    assert later.size <= later.most == frame.most


def test_digits_that_are_no_number_of_a_poollet_count_as_they_are() -> None:
    before = machine("m" * 36, annotations={f"a{number}": DEVANAGARI for number in range(50)})
    later = replace(before, generation=LARGEST, observed_generation=LARGEST, deleted_at=LARGEST)
    assert Frame.of(later).size <= Frame.of(before).most


def test_the_most_is_no_more_than_what_it_can_become() -> None:
    spec = pb.MachineSpec(power=pb.POWER_OFF, image=pb.ImageSpec(image="r.io/i"))
    spec.volumes.add(name="v")
    spec.network_interfaces.add(name="n")
    status = pb.MachineStatus(state=pb.MACHINE_TERMINATED, image_ref=f"r.io/i@sha256:{'0' * 64}")
    status.volumes.add(name="v", handle="h" * HANDLE_BYTES, state=pb.VOLUME_ATTACHED)
    status.network_interfaces.add(name="n", handle="h" * HANDLE_BYTES, state=pb.NETWORK_INTERFACE_ATTACHED)
    frame = Frame.of(
        machine(spec=spec, status=status, generation=LARGEST, observed_generation=LARGEST, deleted_at=LARGEST)
    )
    assert frame.size == frame.most


def test_what_is_larger_than_it_could_become_counts_as_it_is() -> None:
    spec = pb.MachineSpec(volumes=[pb.Volume(name="v")])
    status = pb.MachineStatus()
    status.volumes.add(name="v", handle="h" * 5000)
    frame = Frame.of(machine(spec=spec, status=status))
    assert frame.most == frame.size > 5000


@pytest.mark.parametrize("field", ["volumes", "network_interfaces"])
def test_the_status_shows_nothing_that_the_spec_has_no_more(field: str) -> None:
    made = full()
    for name in ("gone", "there", "gone, too"):
        getattr(made.status, field).add(name=name, handle="h")
    getattr(made.spec, field).add(name="there")
    assert [each.name for each in getattr(message(made).status, field)] == ["there"]


@pytest.mark.parametrize(
    ("power", "state", "deleted", "drained", "to_go"),
    [
        (pb.POWER_ON, pb.MACHINE_RUNNING, False, False, False),
        (pb.POWER_ON, pb.MACHINE_PENDING, False, False, False),
        (pb.POWER_ON, pb.MACHINE_RUNNING, False, True, True),
        (pb.POWER_OFF, pb.MACHINE_RUNNING, False, False, True),
        (pb.POWER_OFF, pb.MACHINE_PENDING, False, False, True),  # paused, or in a start
        (pb.POWER_OFF, pb.MACHINE_SUSPENDED, False, True, False),
        (pb.POWER_ON, pb.MACHINE_TERMINATED, True, False, True),
    ],
)
def test_whose_guest_is_to_go(
    power: pb.Power, state: pb.MachineState, deleted: bool, drained: bool, to_go: bool
) -> None:
    made = replace(machine(), deleted_at=int(deleted), status=pb.MachineStatus(state=state))
    made.spec.power = power
    assert Frame.of(made).is_to_go(drained) is to_go
