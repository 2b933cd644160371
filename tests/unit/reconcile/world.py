"""A pure model of a machine and its host, for tests of plan(): it carries actions out on plain data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DiskSource, ImagePin, NicBackend
from sri_libvirt.domain import ports
from sri_libvirt.domain.observed import Place
from sri_libvirt.errors import UNDER_WAY, HypervisorError, UnusableSave
from sri_libvirt.hypervisor.base import DomainSnapshot, DomainState, LastWords
from sri_libvirt.reconcile import actions as act
from sri_libvirt.reconcile import plugging
from sri_libvirt.reconcile.brake import back_off
from sri_libvirt.reconcile.plan import Plan, plan
from sri_libvirt.reconcile.view import FailedDisk, NotSeen, Observed, Policy
from sri_libvirt.records import (
    GIB,
    SECOND,
    Attachment,
    Event,
    Key,
    Machine,
    MachineClass,
    Profile,
    StopEvent,
    Stranger,
)

ID = "6b3ffb4e-8d3c-4f52-9d0a-0d2f3c1f0a01"
T0 = 1_700_000_000 * SECOND
PROFILE = Profile(
    layout=1, domain_type="qemu", machine_type="pc-q35-7.2", cpu_mode="maximum", cpu_model="", vcpus=1, cpu_millis=1000,
    memory_bytes=GIB, firmware="bios", loader="", loader_format="raw", nvram_template="", ports=4,
    emulator="/usr/bin/qemu-system-x86_64",
)  # fmt: skip
POLICY = Policy(handle_of=lambda row: f"handle-{row.name}", start_blocked=lambda machine: None, ports=PROFILE.ports)


STRANGER = Stranger("", target="vdz", serial="odz-1", port=4)
"""What the XML says of a device without a row, whatever its alias."""


PIN = ImagePin(f"registry.example.org/debian@sha256:{'0' * 64}", parts=("sha256:disk",))


def image_row(reference: str = "registry.example.org/debian:12", **changes: object) -> Attachment:
    row = Attachment(ID, "image", "", 1, reference.encode(), True, T0, target="vdaaa", serial="image")
    return replace(row, **changes)  # type: ignore[arg-type]


def volume_row(name: str = "data", **changes: object) -> Attachment:
    spec = pb.Volume(name=name, device="oda", empty_disk=pb.EmptyDisk(size_bytes=GIB))
    row = Attachment(ID, "volume", name, 1, spec.SerializeToString(), True, T0, target="vda", serial="oda-0")
    return replace(row, **changes)  # type: ignore[arg-type]


def nic_row(name: str = "nic", network: str = "network://net", **changes: object) -> Attachment:
    spec = pb.NetworkInterface(name=name, network_id=network)
    row = Attachment(ID, "nic", name, 1, spec.SerializeToString(), True, T0, mac="02:00:00:00:00:01")
    return replace(row, **changes)  # type: ignore[arg-type]


def machine(*rows: Attachment, power: pb.Power = pb.POWER_ON, **changes: object) -> Machine:
    """A machine just created with these devices."""
    spec = pb.MachineSpec(power=power)
    spec.volumes.extend(row.volume() for row in rows if row.kind == "volume" and row.wanted)
    spec.network_interfaces.extend(row.nic() for row in rows if row.kind == "nic" and row.wanted)
    made = Machine(
        id=ID, labels={}, annotations={}, spec=spec, status=pb.MachineStatus(), generation=1, observed_generation=0,
        created_at=T0, deleted_at=0, power_at=T0, machine_class=MachineClass("c1-m1", 1000, GIB), attachments=rows,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def snapshot(state: DomainState = DomainState.RUNNING, reason: str = "", managed_save: bool = False) -> DomainSnapshot:
    active = state is not DomainState.OFF and reason != "without a QEMU"
    return DomainSnapshot(ID, state, reason, "<live/>" if active else "", "<persistent/>", managed_save)


@dataclass
class World:
    """A host with one machine. `deaf`: the guest ignores its button. `broken`: rows whose prepare fails. `slow`: those
    for which slow work is under way until then. `found`: the bytes of volumes by name, as the latest look has them."""

    record: Machine | None
    domain: DomainSnapshot | None = None
    run: str = ""
    live: frozenset[str] = frozenset()
    persistent: frozenset[str] = frozenset()
    places: dict[str, Place] = field(default_factory=dict)
    defined: dict[str, Place] = field(default_factory=dict)
    astray: frozenset[str] = frozenset()
    now: int = T0
    boot: str = "boot-1"
    last_words: LastWords = field(default_factory=LastWords)
    host_stopping: bool | None = False
    boot_ended_at: int = 0
    reachable: bool = True
    foreign: bool = False
    deaf: bool = False
    deaf_to_unplug: bool = False
    unplugging: frozenset[str] = frozenset()
    broken: set[str] = field(default_factory=set)
    slow: dict[str, int] = field(default_factory=dict)
    found: dict[str, int] = field(default_factory=dict)
    failed_disks: tuple[FailedDisk, ...] = ()
    start_fails: bool = False
    restore_fails: list[HypervisorError] = field(default_factory=list)
    qemu_hangs: bool = False  # when its guest has halted
    stuck: tuple[str, ...] = ()
    edits: tuple[str, ...] = ()
    policy: Policy = POLICY
    done: list[act.Action] = field(default_factory=list)
    told: list[Event] = field(default_factory=list)

    def observed(self) -> Observed | NotSeen:
        if not self.reachable:
            return NotSeen("connection refused")
        return Observed(
            domain=self.domain, boot_id=self.boot, host_stopping=self.host_stopping, foreign=self.foreign, run=self.run,
            live=self.live, persistent=self.persistent, last_words=self.last_words, stuck=self.stuck,
            strangers=self.strangers(), boot_ended_at=self.boot_ended_at,
            places=self.places, defined=self.defined, astray=self.astray, failed_disks=self.failed_disks,
            edits=self.edits,
        )  # fmt: skip

    def strangers(self) -> tuple[Stranger, ...]:
        assert self.record is not None
        aliases = self.live - {row.alias for row in self.record.attachments}
        return tuple(replace(STRANGER, alias=alias) for alias in sorted(aliases))

    def look(self) -> Plan:
        """One pass: plan, and record it as the lane does."""
        assert self.record is not None
        policy = replace(self.policy, size_of=lambda row: self.found.get(row.name, 0))
        made = plan(self.record, self.observed(), self.now, policy)
        self.told += made.events
        event = self.record.stop_event
        self.record = replace(
            self.record, status=made.status, run=made.run, reasons=made.reasons,
            observed_generation=made.observed_generation,
            stop_event=None if event and made.consumed_stop_at == event.at else event,
        )  # fmt: skip
        return made

    def settle(self, passes: int = 24) -> Plan | None:
        """Plan and perform until nothing is left to do now; the last plan, None if the machine is gone."""
        for _ in range(passes):
            if self.record is None:
                return None
            made = self.look()
            if not made.actions:
                return made
            for action in made.actions:
                if not self._perform(action):
                    break
        raise AssertionError(f"no fixed point: {made.actions} {made.reasons}")

    def run_until(self, condition: object, limit: int = 3600 * SECOND) -> None:
        """Let time pass from wake to wake until condition() holds."""
        end = self.now + limit
        assert callable(condition)
        while not condition():
            made = self.settle()
            if condition():
                return
            assert made is not None, "the machine is gone"
            assert made.wake_at is not None, f"waits for ever: {made.reasons}"
            self.now = max(made.wake_at, self.now + 1)
            assert self.now < end, f"still waiting: {made.reasons}"

    def stop_guest(self, shutdown: str, stopped: str, reason: str, watched: bool = True) -> None:
        """The guest ends, seen by the event thread or by nobody."""
        assert self.record is not None
        self.domain = snapshot(DomainState.OFF, reason) if self.domain else None
        self.live = self.unplugging = frozenset()
        self.places = {}
        if watched:
            self.record = replace(self.record, stop_event=StopEvent(shutdown, stopped, self.now))

    def reset(self) -> None:
        """The guest resets (or has heard): every unplug that was sent is completed, wanted again or not."""
        self.live -= self.unplugging
        self.places = {alias: place for alias, place in self.places.items() if alias in self.live}
        self.astray -= self.unplugging
        self.unplugging = frozenset()

    def eject(self, alias: str) -> None:
        """The guest throws a device out that nobody has asked it for."""
        self.live -= {alias}

    def _row(self, key: Key, **changes: object) -> None:
        assert self.record is not None
        rows = tuple(
            replace(row, **changes) if row.key == key else row  # type: ignore[arg-type]
            for row in self.record.attachments
        )
        self.record = replace(self.record, attachments=rows)

    def _perform(self, action: act.Action) -> bool:
        assert self.record is not None
        self.done.append(action)
        record = self.record
        match action:
            case act.PrepareDevice(key=key):
                assert next(row.port for row in record.attachments if row.key == key), "prepared without a port"
                if key[1] in self.broken:
                    self._row(key, problem="is broken", problem_at=self.now)
                    return False
                if self.now < self.slow.get(key[1], 0):
                    self._row(key, problem="is being asked for", problem_code=UNDER_WAY, problem_at=self.now)
                    return False
                backing = NicBackend("h", "network", "net") if key[0] == "nic" else DiskSource("h", "/d", "qcow2", GIB)
                self._row(key, backing=backing, problem="", problem_code="", problem_at=0)
            case act.ResolveImage(key=key):
                if self.now < self.slow.get("the reference", 0):
                    self._row(key, problem="is being asked for", problem_code=UNDER_WAY, problem_at=self.now)
                    return False
                self._row(key, image=PIN, problem="", problem_code="", problem_at=0)
            case act.ChooseProfile():
                self.record = replace(record, profile=record.profile or replace(PROFILE, ports=self.policy.ports))
            case act.AssignPorts():
                self._assign_ports()
            case act.Define(new_run=new_run):
                if new_run:
                    self.run = f"run-{len(self.done)}"
                    self.record = replace(record, run=record.run.next(self.run, self.boot), stop_event=None)
                self.persistent = frozenset(row.alias for row in ports.in_domain(record.attachments))
                self.defined = {}
                if self.domain is None or not self.domain.active:
                    save = self.domain.managed_save if self.domain else False
                    reason = self.domain.reason if self.domain else "unknown"
                    self.domain = snapshot(DomainState.OFF, reason, save)
            case act.Start(restore=restore):
                if self.start_fails or (restore and self.restore_fails):
                    error = self.restore_fails.pop(0) if restore and self.restore_fails else HypervisorError("no")
                    failures, refused = record.run.failures + 1, record.run.save_refused
                    if isinstance(error, UnusableSave):
                        refused += 3 if error.certain else 1
                    not_before = self.now + back_off(failures)
                    run = replace(record.run, failures=failures, not_before=not_before, error=str(error),
                                  save_refused=refused)  # fmt: skip
                    self.record = replace(record, run=run)
                    return False
                self.domain, self.live = snapshot(), self.persistent
                behind = self.now - record.run.stopped_at if restore else 0
                run = replace(record.run.going(self.now), boot_id=self.boot, not_before=0, error="", behind=behind,
                              restored=restore)  # fmt: skip
                self.record = replace(record, run=run)
            case act.PlugDevice(key=key):
                row = next(row for row in record.attachments if row.key == key)
                if not row.port or row.backing is None:
                    return True
                assert self.domain is not None
                assert self.domain.state is DomainState.RUNNING
                assert row.alias not in self.live, "plugged twice"
                others = [other for other in record.attachments if other.alias in self.live]
                assert row.port not in {other.port for other in others}, "two at one port"
                assert row.target not in {other.target for other in others if other.target}, "two of one target"
                self.live |= {row.alias}
                self._row(key, plugged_at=self.now, plugs=plugging.plugs_in_a_row(row, self.now))
            case act.UnplugDevice(key=key, again=again):
                row = next(row for row in record.attachments if row.key == key)
                assert row.wanted == again
                self._row(key, unplug_at=self.now)
                self.unplugging |= {row.alias}
                if not self.deaf_to_unplug:
                    self.reset()
            case act.UnplugStranger(alias=alias):
                known = record.run.strangers or ()
                asked = tuple(replace(each, unplug_at=self.now) if each.alias == alias else each for each in known)
                self.record = replace(record, run=replace(record.run, strangers=asked))
                self.unplugging |= {alias}
                if not self.deaf_to_unplug:
                    self.reset()
            case act.FollowDisk(key=key):
                row = next(row for row in record.attachments if row.key == key)
                self.defined[row.alias] = self.places[row.alias]
            case act.ResizeDisk(key=key, size=size):
                row = next(row for row in record.attachments if row.key == key)
                assert size == self.found[row.name], "asked for another size than the latest look has found"
                assert isinstance(row.backing, DiskSource)
                assert size > row.backing.size, "cut"
                self._row(key, backing=replace(row.backing, size=size))
            case act.PressButton(first=first):
                pressed = self.now if first else record.run.pressed_at
                run = replace(record.run, pressed_at=pressed, last_press_at=self.now)
                self.record = replace(record, run=run)
                runs = self.domain is not None and self.domain.state is DomainState.RUNNING
                if runs and self.qemu_hangs:
                    self.domain = snapshot(DomainState.SHUTTING_DOWN, "unknown")
                elif runs and not self.deaf:
                    self.stop_guest("guest", "shutdown", "shutdown")
            case act.Destroy(cause=cause):
                run = replace(record.run, ending=cause) if cause else replace(
                    record.run, pressed_at=record.run.pressed_at or self.now, last_press_at=self.now)  # fmt: skip
                self.record = replace(record, run=run)
                self.stop_guest("host", "destroyed", "destroyed")
            case act.Resume(wake=wake, resumes=resumes):
                assert self.domain is not None
                assert wake is (self.domain.state is DomainState.SUSPENDED)
                self.record = replace(record, run=replace(record.run, resumed_at=self.now, resumes=resumes))
                self.domain = snapshot()
            case act.SetClock():
                assert self.domain is not None
                assert self.domain.state is DomainState.RUNNING
                self.record = replace(record, run=replace(record.run, behind=0))
            case act.Undefine():
                self.domain, self.persistent, self.run = None, frozenset(), ""
            case act.ReleaseDevice(key=key):
                if key[1] in self.broken:
                    self._row(key, problem="is busy", problem_at=self.now)
                    return False
                assert self.domain is None or not (
                    {row.alias for row in record.attachments if row.key == key} & (self.live | self.persistent)
                ), "released while a domain holds it"
                kept = tuple(row for row in record.attachments if row.key != key)
                self.record = replace(record, attachments=kept)
            case act.RemoveFiles():
                assert self.domain is None
            case act.Forget():
                assert not record.attachments
                self.record = None
        return True

    def _assign_ports(self) -> None:
        assert self.record is not None
        assert self.record.profile is not None
        rows = ports.placed(self.record.attachments, self.record.profile.ports)
        self.record = replace(self.record, attachments=rows)


def codes(world: World) -> list[str]:
    assert world.record is not None
    return [reason.code for reason in world.record.reasons]


def state(world: World) -> str:
    assert world.record is not None
    return pb.MachineState.Name(world.record.status.state).removeprefix("MACHINE_")


def running(*rows: object, **changes: object) -> World:
    world = World(machine(*rows, **changes))  # type: ignore[arg-type]
    world.settle()
    assert world.record is not None
    assert world.record.status.state == pb.MACHINE_RUNNING
    world.done.clear()
    return world


def power(world: World, value: pb.Power) -> None:
    assert world.record is not None
    spec = pb.MachineSpec()
    spec.CopyFrom(world.record.spec)
    spec.power = value
    world.record = replace(world.record, spec=spec, generation=world.record.generation + 1, power_at=world.now)


def delete(world: World) -> None:
    assert world.record is not None
    world.record = replace(world.record, deleted_at=world.now)
