"""What a machine keeps of its image: once what it means, and something else only while nothing was made of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sri_libvirt.devices import ImagePin
from sri_libvirt.errors import NotReady
from sri_libvirt.reconcile import actions as act
from sri_libvirt.store import Store
from tests.unit.reconcile.parts import Clock
from tests.unit.reconcile.test_perform import Bench
from tests.unit.reconcile.world import PIN, image_row, machine

IMAGE = image_row()
MOVED = replace(PIN, reference=PIN.reference.replace("0", "1"), boot="kernel")
PREPARE = (act.ChooseProfile(), act.AssignPorts(), act.PrepareDevice(IMAGE.key))


@pytest.fixture
def bench(store: Store, root: Path, clock: Clock) -> Bench:
    made = Bench(store, root, clock)
    with_image = machine(IMAGE)
    with_image.spec.image.image = IMAGE.reference
    made.put(with_image)
    return made


def asked(bench: Bench) -> int:
    return sum(call[0] == "resolve" for call in bench.drivers.calls)


def now_means(bench: Bench, pin: ImagePin) -> None:
    bench.drivers.pin = pin


def test_what_it_means_is_asked_once(bench: Bench) -> None:
    bench.do(act.ResolveImage(IMAGE.key), act.ResolveImage(IMAGE.key))
    assert bench.machine.image == PIN
    assert asked(bench) == 1
    now_means(bench, MOVED)
    bench.do(act.ResolveImage(IMAGE.key), *PREPARE)
    assert bench.machine.image == PIN


def test_a_failure_is_the_images_own(bench: Bench) -> None:
    bench.drivers.broken["image"] = NotReady("registry is silent", "Wait.", "image-unreachable")
    assert bench.fail(act.ResolveImage(IMAGE.key), bench.drivers.broken["image"])
    (row,) = bench.machine.attachments
    assert (row.problem, row.problem_advice, row.problem_code) == ("registry is silent", "Wait.", "image-unreachable")
    del bench.drivers.broken["image"]
    bench.do(act.ResolveImage(IMAGE.key))
    assert bench.machine.attachments[0].problem == ""


def test_what_is_no_image_may_be_another_thing_by_now(bench: Bench) -> None:
    """Somebody has pushed a better one under the same tag."""
    bench.do(act.ResolveImage(IMAGE.key), act.ChooseProfile(), act.AssignPorts())
    bench.drivers.unfit.add(PIN.reference)
    with pytest.raises(NotReady):
        bench.do(act.PrepareDevice(IMAGE.key))
    assert bench.machine.image == PIN
    now_means(bench, MOVED)
    with pytest.raises(NotReady):
        bench.do(act.PrepareDevice(IMAGE.key))
    assert bench.machine.image == MOVED
    assert bench.machine.profile is not None
    assert bench.machine.profile.boot == "kernel", "nothing was defined by the old one"
    bench.do(act.PrepareDevice(IMAGE.key))
    assert bench.machine.attachments[0].backing is not None


def test_a_disk_that_was_made_stays_what_it_is(bench: Bench) -> None:
    bench.do(act.ResolveImage(IMAGE.key), *PREPARE)
    bench.drivers.unfit.add(PIN.reference)
    now_means(bench, MOVED)
    with pytest.raises(NotReady):
        bench.do(act.PrepareDevice(IMAGE.key))
    assert bench.machine.image == PIN
    assert asked(bench) == 1
