"""500 random operations while the provider is killed, calls and programs hang or fail, the file system of its images
hangs, guests misbehave, the host reboots and its wall clock jumps: in the end nothing is lost, nothing is there twice,
nothing waits without a reason.

The provider is a process (`bad_host.py`), its guests are the fake's, its files are real. What is asked is remembered
here, as the poollet's API does, and asked again until it is answered.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import grpc
import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.api.machine.v1alpha1.api_pb2_grpc import MachineRuntimeStub
from sri_libvirt.domain import observed
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.looks import SLOW
from sri_libvirt.paths import StatePaths
from sri_libvirt.reconcile.actions import Action
from sri_libvirt.records import LABEL_NAME, LABEL_NAMESPACE, LABEL_UID, SECOND, Machine, set_class_name
from sri_libvirt.store.reader import Reader
from tests.contract.bad_host import HUNG, Clocks

OPERATIONS = 125
PATIENCE = 90.0
MACHINES = 5
HOUR = 3600 * SECOND
JUMPS = [-HOUR, HOUR, -24 * 3650 * HOUR, 24 * 3650 * HOUR]
RETRIED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}

CALLS = ("define", "start", "attach_device", "detach_device", "destroy", "undefine", "snapshot", "press_power_button")
POINTS = [
    *(f"{side} libvirt.{call}" for call in CALLS for side in ("before", "after")),
    *(f"{side} perform.{action.__name__}" for action in get_args(Action) for side in ("before", "after")),
    "before process.qemu-img", "after process.qemu-img",
]  # fmt: skip


@dataclass
class Wanted:
    """A machine as its user wants it."""

    uid: str
    power: pb.Power = pb.POWER_ON
    volumes: dict[str, pb.Volume] = field(default_factory=dict)
    nics: dict[str, pb.NetworkInterface] = field(default_factory=dict)
    image: str = ""
    machine_id: str = ""
    powered_itself_off: bool = False

    def spec(self) -> pb.MachineSpec:
        made = pb.MachineSpec(volumes=self.volumes.values(), network_interfaces=self.nics.values())
        set_class_name(made, "c1-m1")
        if self.image:
            made.image.image = self.image
        return made


class BadDays:
    """A host, its provider, and the user's wishes."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.chance = random.Random(seed)
        self.paths = StatePaths(root / "state")
        self.wanted: dict[str, Wanted] = {}
        self.deleted: list[str] = []
        self.harm = ""
        self.lives = 0
        self._count = 0
        images = root / "images"
        images.mkdir()
        (images / "tiny.raw").write_bytes(bytes(510) + b"\x55\xaa" + bytes(1 << 16))
        (images / "tiny.raw").chmod(0o444)
        self.image = str(images / "tiny.raw")

    # --- the provider's lives --------------------------------------------------------------------

    def start(self, harm: str = "") -> None:
        self.harm, self.lives = harm, self.lives + 1
        environ = {**os.environ, "SRI_LIBVIRT_FAILPOINT": harm}
        with (self.root / "provider.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.contract.bad_host", str(self.root)],
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=environ, text=True, cwd=Path(__file__).parents[2],
            )  # fmt: skip
        soon = [("grpc.max_reconnect_backoff_ms", 50), ("grpc.initial_reconnect_backoff_ms", 50)]
        self.channel = grpc.insecure_channel(f"unix://{self.root}/sri.sock", soon)
        self.stub: Any = MachineRuntimeStub(self.channel)

    def kill(self) -> None:
        self.channel.close()
        self.process.kill()
        self.process.communicate()

    def live_again(self) -> None:
        """The next life, maybe one that does itself harm."""
        self.kill()
        if self.chance.random() < 0.2:
            self.reboot()
        kind = self.chance.choice(["", "kill", "kill", "hang", "hang", "fail"])
        nth = self.chance.randrange(1, 6)
        self.start(f"{kind} {nth} {self.chance.choice(POINTS)}" if kind else "")

    def reboot(self) -> None:
        """The host goes down under its guests, and comes up with another boot."""
        clocks = Clocks.read(self.root / "clocks.json")
        clocks.reboot()
        clocks.keep()
        state = self.root / "fake.json"
        if state.exists():
            data = json.loads(state.read_text())
            for domain in data["domains"].values():
                domain |= {"live": "", "state": "off", "reason": "unknown", "unplugging": [], "said": ""}
            state.write_text(json.dumps(data))

    def storage(self, *, hangs: bool) -> None:
        """The file system of the images hangs, or goes on."""
        (self.root / HUNG).touch() if hangs else (self.root / HUNG).unlink(missing_ok=True)

    def happens(self, **what: Any) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(what) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return  # it has killed itself

    # --- what is asked ---------------------------------------------------------------------------

    def call(self, method: str, request: Any, done: tuple[grpc.StatusCode, ...] = ()) -> Any:
        """Ask until it is answered; codes that mean that it was done before count as answers."""
        end = time.monotonic() + PATIENCE
        while True:
            if self.process.poll() is not None:
                self.live_again()
            try:
                return getattr(self.stub, method)(request, timeout=5, wait_for_ready=True)
            except grpc.RpcError as error:
                if error.code() in done:
                    return None
                if error.code() not in RETRIED or time.monotonic() > end:
                    raise AssertionError(f"{method}: {error}\n{self.explain()}") from None

    def create(self, chance_of_image: float = 0.5) -> Wanted:
        self._count += 1
        made = Wanted(f"uid-{self._count}")
        if self.chance.random() < chance_of_image:
            made.image = self.image
        for name in self.chance.sample(["a", "b", "c"], self.chance.randrange(3)):
            made.volumes[name] = pb.Volume(name=name, empty_disk=pb.EmptyDisk(size_bytes=1 << 20))
        if self.chance.random() < 0.5:
            made.nics["n"] = pb.NetworkInterface(name="n", network_id="isolated")
        machine = pb.Machine(spec=made.spec())
        machine.metadata.labels.update({LABEL_UID: made.uid, LABEL_NAMESPACE: "default", LABEL_NAME: made.uid})
        reply = self.call("CreateMachine", pb.CreateMachineRequest(machine=machine))
        made.machine_id = reply.machine.metadata.id
        self.wanted[made.uid] = made
        return made

    def delete(self, each: Wanted) -> None:
        del self.wanted[each.uid]
        self.deleted.append(each.machine_id)
        request = pb.DeleteMachineRequest(machine_id=each.machine_id)
        self.call("DeleteMachine", request, done=(grpc.StatusCode.NOT_FOUND,))

    def power(self, each: Wanted) -> None:
        each.power = self.chance.choice([pb.POWER_ON, pb.POWER_OFF])
        self.call("UpdateMachinePower", pb.UpdateMachinePowerRequest(machine_id=each.machine_id, power=each.power))

    def volume(self, each: Wanted) -> None:
        name = self.chance.choice("abcd")
        if each.volumes.pop(name, None):
            request = pb.DetachVolumeRequest(machine_id=each.machine_id, name=name)
            self.call("DetachVolume", request, done=(grpc.StatusCode.NOT_FOUND,))
            return
        made = each.volumes[name] = pb.Volume(name=name, empty_disk=pb.EmptyDisk(size_bytes=1 << 20))
        self.call("AttachVolume", pb.AttachVolumeRequest(machine_id=each.machine_id, volume=made))

    def nic(self, each: Wanted) -> None:
        name = self.chance.choice("nm")
        if each.nics.pop(name, None):
            request = pb.DetachNetworkInterfaceRequest(machine_id=each.machine_id, name=name)
            self.call("DetachNetworkInterface", request, done=(grpc.StatusCode.NOT_FOUND,))
            return
        made = each.nics[name] = pb.NetworkInterface(name=name, network_id="isolated")
        attach = pb.AttachNetworkInterfaceRequest(machine_id=each.machine_id, network_interface=made)
        self.call("AttachNetworkInterface", attach)

    def guest(self, each: Wanted) -> None:
        """Something happens to its guest."""
        what = self.chance.choice(["guest_powers_off", "kill_qemu", "terminate_qemu", "destroy_from_outside", "reset"])
        each.powered_itself_off |= what == "guest_powers_off"
        self.happens(do=what, id=each.machine_id)

    def mood(self, each: Wanted) -> None:
        what = self.chance.choice(["set_deaf", "set_deaf_to_unplug"])
        self.happens(do=what, id=each.machine_id, **{"with": [self.chance.random() < 0.5]})

    def operate(self) -> None:
        """One random operation."""
        drawn = self.chance.random()
        if drawn < 0.12:
            self.live_again()
        elif drawn < 0.22:
            self.happens(do="jump", by=self.chance.choice(JUMPS))
        elif drawn < 0.27:
            self.storage(hangs=self.chance.random() < 0.5)
        elif len(self.wanted) < 2 or (drawn < 0.40 and len(self.wanted) < MACHINES):
            self.create()
        else:
            each = self.chance.choice(list(self.wanted.values()))
            often = [self.volume, self.volume, self.nic]
            acts: list[Callable[[Wanted], None]] = [*often, self.power, self.guest, self.mood]
            (self.delete if drawn > 0.95 else self.chance.choice(acts))(each)

    # --- what must be true -----------------------------------------------------------------------

    def listed(self) -> dict[str, pb.Machine]:
        """Machines by uid, each there once."""
        machines = self.call("ListMachines", pb.ListMachinesRequest()).machines
        uids = [each.metadata.labels[LABEL_UID] for each in machines]
        assert len(uids) == len(set(uids)), "a machine is there twice"
        return dict(zip(uids, machines, strict=True))

    def stored(self) -> dict[str, Machine]:
        with Reader.open(self.paths) as reader:
            return {each.uid: each for each in reader.machines()}

    def codes(self, each: Wanted) -> list[str]:
        """Of the reasons of a machine that is there."""
        self.listed()
        return [reason.code for reason in self.stored()[each.uid].reasons]

    def missing(self) -> list[str]:
        """What is not (yet) as it is wanted, in words."""
        listed, stored = self.listed(), self.stored()
        found = [f"{uid} is there and not wanted" for uid in listed.keys() - self.wanted.keys()]
        for uid, each in self.wanted.items():
            machine = listed.get(uid)
            assert machine is not None, f"{uid} is lost"
            assert machine.metadata.id == each.machine_id, f"{uid} was made anew"
            found += _differences(each, machine, stored[uid])
        return found

    def without_a_reason(self) -> list[str]:
        """Machines that are not as wanted, were looked at, and have no reason."""
        listed, stored = self.listed(), self.stored()
        return [
            uid
            for uid, each in self.wanted.items()
            if _differences(each, listed[uid], stored[uid])
            and listed[uid].status.observed_generation >= listed[uid].metadata.generation
            and not stored[uid].reasons
        ]

    def until(self, what: str, condition: Callable[[], list[str]]) -> None:
        end = time.monotonic() + PATIENCE
        while missing := condition():
            assert time.monotonic() < end, f"{what} ({self.lives} lives, {self.harm}): {missing}\n{self.explain()}"
            time.sleep(0.1)

    def explain(self) -> str:
        lines = []
        with Reader.open(self.paths) as reader:
            for each in reader.machines():
                lines.append(f"{each.id}: {each.status} {each.reasons} {each.run}")
                lines += [f"  {event.kind} {event.reason}: {event.message}" for event in reader.events(each.id, 20)]
        return "\n".join(lines)


def _differences(wanted: Wanted, machine: pb.Machine, stored: Machine) -> list[str]:
    """What of a machine is not as it is wanted. One whose guest powered itself off may stay off."""
    found = []
    state = pb.MACHINE_RUNNING if wanted.power == pb.POWER_ON else pb.MACHINE_SUSPENDED
    stays_off = wanted.powered_itself_off and [each.code for each in stored.reasons] == ["guest-powered-off"]
    if machine.status.state != state and not (stays_off and machine.status.state == pb.MACHINE_SUSPENDED):
        found.append(f"{wanted.uid} is {pb.MachineState.Name(machine.status.state)}")
    if {each.name: each for each in machine.spec.volumes} != wanted.volumes:
        found.append(f"{wanted.uid} has other volumes")
    if {each.name: each for each in machine.spec.network_interfaces} != wanted.nics:
        found.append(f"{wanted.uid} has other network interfaces")
    found += [f"{wanted.uid}: {each.name} is pending" for each in machine.status.volumes if not each.state]
    found += [f"{wanted.uid}: {each.name} is pending" for each in machine.status.network_interfaces if not each.state]
    if stored.reasons and not stays_off:
        found.append(f"{wanted.uid}: {[each.code for each in stored.reasons]}")
    if any(not row.wanted for row in stored.attachments):
        found.append(f"{wanted.uid} still has a device that was detached")
    return found


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(4))
def test_bad_days_end_well(tmp_path: Path, seed: int) -> None:
    days = BadDays(tmp_path, seed)
    days.start()
    try:
        for number in range(OPERATIONS):
            days.operate()
            if number % 25 == 24:
                days.until("a reason for everything", days.without_a_reason)
        days.storage(hangs=True)
        late = days.create(chance_of_image=1)
        days.until("what a look that hangs is called", lambda: [] if SLOW in days.codes(late) else [late.uid])
        days.kill()
        days.storage(hangs=False)
        days.start()
        for each in days.wanted.values():
            days.happens(do="set_deaf", id=each.machine_id, **{"with": [False]})
            days.happens(do="set_deaf_to_unplug", id=each.machine_id, **{"with": [False]})
        days.until("all that was asked for", days.missing)
        assert days.process.poll() is None
    finally:
        days.kill()
    guests = FakeHypervisor(tmp_path / "fake.json").connect()
    ids = {each.machine_id for each in days.wanted.values()}
    assert set(guests.domain_ids()) == ids
    assert {path.name for path in days.paths.machines.iterdir()} == ids
    for uid, machine in days.stored().items():
        snapshot = guests.snapshot(machine.id)
        assert snapshot is not None
        aliases = {row.alias for row in machine.attachments}
        assert set(observed.read(snapshot.persistent_xml).devices) == aliases, uid
        assert not snapshot.live_xml or set(observed.read(snapshot.live_xml).devices) == aliases, uid
    assert days.lives > 5
