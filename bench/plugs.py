"""Hot-plug into a guest that answers, through the provider and with the bare calls: an empty disk, and an RBD image.

The guest is the tests' tiny one. What is measured of a machine's life does not belong here.
"""

from __future__ import annotations

import base64
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import libvirt

from bench.client import MIB, Provider, machine_request, until
from bench.table import Figure, Report, median
from bench.world import ASK_EVERY, World
from sri_libvirt import names
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.hypervisor.base import EventKind
from tests import guest
from tests.backends.ceph import Ceph

DEVICE = "odb"
USER = "guest"
MINE = "measured"
"""Of all secrets that a test's libvirtd has, what was called so is the benchmark's."""


@dataclass
class Times:
    """Milliseconds of each round: in and out, through the provider and bare."""

    attach: list[float] = field(default_factory=list)
    bare_attach: list[float] = field(default_factory=list)
    detach: list[float] = field(default_factory=list)
    bare_detach: list[float] = field(default_factory=list)


def measure(world: World, report: Report, rounds: int) -> None:
    """All of it; what was waited for in vain is told of, and the other figures stand."""
    machine_id = boot(world)
    # A guest that loses its last disk keeps it plugged for a while.
    world.served.attach(machine_id, _empty("stays", "oda"))
    until("the first disk", lambda: _volumes(world.served, machine_id).get("stays") == pb.VOLUME_ATTACHED)
    for what, part in (("attach and detach", _empty_disk), ("attach of an RBD image", _rbd)):
        try:
            part(world, report, machine_id, rounds)
        except (RuntimeError, AssertionError) as error:
            report.missing[what] = str(error)
    world.served.delete(machine_id)
    until("the guest gone", lambda: world.served.find(machine_id) is None, 0.05)


def _empty_disk(world: World, report: Report, machine_id: str, rounds: int) -> None:
    times = Times()
    for number in range(rounds):
        _round(world, machine_id, _empty(f"disk{number}", DEVICE), times)
    for name, mine, raw, goal, peer in (
        ("attach to ATTACHED, over the bare call", times.attach, times.bare_attach, 10.0, "+ 18 ms"),
        ("detach to gone from the guest, over the bare call", times.detach, times.bare_detach, 15.0, "+ 22 ms"),
    ):
        report.figures.append(
            Figure(
                name=name,
                unit="ms more",
                value=median(mine) - median(raw),
                goal=goal,
                peer=peer,
                alternative="ms for the bare call with the same XML",
                alternative_value=median(raw),
                on="libvirt",
                note=f"{median(mine):.0f} ms; medians of {len(mine)}, settle time 0, a guest that answers",
            )
        )


def _rbd(world: World, report: Report, machine_id: str, rounds: int) -> None:
    """Every round has an image of its own, of which nothing is known yet: its probe is a part of the attach."""
    times = Times()
    private = world.private
    with Ceph(private.directory("ceph"), private.inside) as ceph:
        shutil.copyfile(ceph.client_settings, world.ceph_conf)
        for number in range(rounds):
            volume = _image(ceph, f"image{number}")
            with _secret(world, machine_id, volume.name, ceph.key(USER)) as set_secret:
                _round(world, machine_id, volume, times, set_secret)
        file = world.served.root / "volume"
        file.write_bytes(_image(ceph, "probed").SerializeToString())
        argv = [
            sys.executable,
            "-m",
            "bench.probes",
            "--ceph-conf",
            str(world.ceph_conf),
            "--times",
            str(rounds),
            str(file),
        ]
        probes: list[float] = json.loads(private.run(argv))
    probe, bare = median(probes), median(times.bare_attach)
    report.figures.append(
        Figure(
            name="attach of an RBD image to ATTACHED, over one probe and the bare call",
            unit="ms more",
            value=median(times.attach) - probe - bare,
            alternative="ms for the probe and the bare call with the same XML",
            alternative_value=probe + bare,
            on="libvirt",
            note=f"{median(times.attach):.0f} ms, of which the probe (rbd status, qemu-img) {probe:.0f} ms and the "
            f"bare call {bare:.0f} ms; medians of {rounds}",
        )
    )


def _round(
    world: World,
    machine_id: str,
    volume: pb.Volume,
    times: Times,
    before_bare: Callable[[], None] = lambda: None,
) -> None:
    """A disk in and out through the provider, then the same by the bare calls."""
    served, watch = world.served, world.watch
    domain = world.connection.lookupByUUIDString(machine_id)
    begun = time.perf_counter()
    served.attach(machine_id, volume)
    until("the disk attached", lambda: _volumes(served, machine_id).get(volume.name) == pb.VOLUME_ATTACHED, ASK_EVERY)
    times.attach.append((time.perf_counter() - begun) * 1000)
    alias = names.alias("volume", volume.name, 1)
    xml = _disk(domain, alias)
    watch.forget()
    begun = time.perf_counter()
    served.detach(machine_id, volume.name)
    times.detach.append((watch.wait(machine_id, EventKind.DEVICE_REMOVED, alias) - begun) * 1000)
    until("the disk gone", lambda: volume.name not in _volumes(served, machine_id), ASK_EVERY)
    before_bare()
    other = alias.replace("ua-vol-", "ua-bare-")
    begun = time.perf_counter()
    domain.attachDeviceFlags(xml.replace(alias, other), libvirt.VIR_DOMAIN_AFFECT_LIVE)
    times.bare_attach.append((time.perf_counter() - begun) * 1000)
    watch.forget()
    begun = time.perf_counter()
    domain.detachDeviceAlias(other, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    times.bare_detach.append((watch.wait(machine_id, EventKind.DEVICE_REMOVED, other) - begun) * 1000)


def _empty(name: str, device: str) -> pb.Volume:
    return pb.Volume(name=name, device=device, empty_disk=pb.EmptyDisk(size_bytes=MIB))


def _image(ceph: Ceph, name: str) -> pb.Volume:
    attributes = {"monitors": ceph.monitors, "image": ceph.image(name, MIB)}
    secrets = {"userID": USER.encode(), "userKey": base64.b64encode(ceph.key(USER))}
    connection = pb.VolumeConnection(driver="ceph", handle=name, attributes=attributes, secret_data=secrets)
    return pb.Volume(name=name, device=DEVICE, connection=connection)


@contextmanager
def _secret(world: World, machine_id: str, name: str, key: bytes) -> Iterator[Callable[[], None]]:
    """Sets what the bare call opens the image with, as the provider does for its own; it is gone afterwards."""
    uuid = names.secret_uuid(machine_id, name, "auth")
    made: list[libvirt.virSecret] = []

    def define() -> None:
        usage = f"<usage type='ceph'><name>{MINE}</name></usage>"
        xml = f"<secret ephemeral='yes' private='yes'><uuid>{uuid}</uuid>{usage}</secret>"
        made.append(world.connection.secretDefineXML(xml))
        made[-1].setValue(key)

    try:
        yield define
    finally:
        for secret in made:
            secret.undefine()


def boot(world: World) -> str:
    """The tiny guest, up."""
    served = world.served
    image = served.root / "images" / "tiny.raw"
    shutil.copyfile(guest.image(), image)
    image.chmod(0o444)
    request = machine_request()
    request.machine.spec.image.image = f"file://{image}"
    machine_id = served.create(request)
    console = served.root / "state" / "machines" / machine_id / "console.log"
    until("the guest up", lambda: console.exists() and b"tiny: up" in console.read_bytes(), 0.1)
    return machine_id


def _volumes(served: Provider, machine_id: str) -> dict[str, int]:
    machine = served.find(machine_id)
    return {volume.name: volume.state for volume in machine.status.volumes} if machine else {}


def _disk(domain: libvirt.virDomain, alias: str) -> str:
    """The live XML of the disk with this alias."""
    xml: str = domain.XMLDesc(0)
    disks = ["<disk" + part.partition("</disk>")[0] + "</disk>" for part in xml.split("<disk")[1:]]
    return next(each for each in disks if alias in each)
