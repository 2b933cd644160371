"""One idempotent performer per action of a plan. Each leaves the store saying what it did before it returns.

A performer raises `NotReady` or `HypervisorError` when it cannot; `note_failure` keeps that with the machine, so that
the next plan waits and says why. Whether an action is right does not belong here (that is `plan.py`).
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import Backing, DiskSource, NicBackend
from sri_libvirt.domain import ports
from sri_libvirt.errors import DescriptorRefused, DiskLocked, HypervisorError, InvalidSpec, NotReady
from sri_libvirt.hypervisor.base import Connection
from sri_libvirt.images import seed
from sri_libvirt.paths import TRAVERSABLE, MachinePaths, StatePaths, make_directory, sync_directory
from sri_libvirt.reconcile import actions as act
from sri_libvirt.reconcile import disks, plugging
from sri_libvirt.reconcile.actions import Action
from sri_libvirt.reconcile.firstbyte import Listen, nobody_listens
from sri_libvirt.reconcile.imaging import ChooseProfile, Images, MachineImage
from sri_libvirt.reconcile.linking import Links, MachineLink
from sri_libvirt.reconcile.power import GuestPower
from sri_libvirt.reconcile.reasons import action_failed, device_words
from sri_libvirt.reconcile.secrets import Lend, lend_nothing
from sri_libvirt.records import Attachment, ClassPolicy, Event, Machine, Run
from sri_libvirt.resources import byte_words
from sri_libvirt.store.store import Store
from sri_libvirt.store.transaction import Transaction
from sri_libvirt.volumes.base import VolumeDriver

ROOM_ADVICE = (
    "It is tried again every few seconds. Delete machines, or give the host more room; `sri-libvirt capacity "
    "--by machine` shows who has what."
)
GONE_ADVICE = "Install the driver's package on this host again and restart the provider."


class Plugins(Images, Links, Protocol):
    """The driver of each device; raises InvalidSpec when there is none (any more)."""

    def volume(self, row: Attachment) -> VolumeDriver: ...

    def size_of(self, row: Attachment) -> int:
        """The bytes of a plugged volume as the latest look at its backend has found it, 0 if none has."""

    def keeps_data(self, row: Attachment, paths: MachinePaths) -> bool:
        """Whether a device that leaves has data that its machine keeps, and claims for it."""


class Compiler(Protocol):
    """From a machine to its domain XML and back (the `domain` room, with its templates and schemas)."""

    def domain_xml(self, machine: Machine, rows: list[Attachment], paths: MachinePaths, run: str) -> str:
        """The XML of a domain with exactly these devices. Raises HypervisorError when it would not be valid."""

    def device_xml(self, machine: Machine, row: Attachment, *, by_qemu: bool = False) -> str:
        """The XML of one device of a machine for hot-plug, the same as in `domain_xml` but for the boot order.

        `by_qemu`: of a network interface that the host's kernel does not help to carry.
        """

    def differences(self, asked: str, got: str) -> list[str]:
        """What of the XML asked for is not in the XML that libvirt gives back, in words."""

    def undone(self, before: str, asked: str) -> list[str]:
        """What the XML of before has that others must have put there, and that the XML asked for undoes, in words."""

    def follow(self, live: str, persistent: str, alias: str) -> str:
        """The persistent XML with the disk of this alias as the live XML has it."""


@dataclass(frozen=True, slots=True)
class Performer:
    """Carries actions out. Shared by all lanes: it keeps no state, and the connection is the lane's."""

    store: Store
    paths: StatePaths
    plugins: Plugins
    compiler: Compiler
    choose_profile: ChooseProfile
    boot_id: Callable[[], str]
    clock: Callable[[], int]
    take: Callable[[Transaction, Attachment], str] = lambda _tx, _row: ""
    """Lets a machine have what a device claims of the host; else what lacks."""
    give_back: Callable[[Transaction, Attachment], None] = lambda _tx, _row: None
    """Ends the claims of a device that left nothing."""
    wake: Callable[[str], None] = lambda _machine_id: None
    """Has a machine looked at that waited for what is given up."""
    not_open_elsewhere: Callable[[Connection, str, DiskSource], None] = lambda _connection, _machine_id, _disk: None
    """Raises NotReady while a guest that nobody knows has a volume's source open."""
    lend: Lend = lend_nothing
    """Has the secrets of disks set while they are opened."""
    settle: Callable[[ClassPolicy, DiskSource], DiskSource] = lambda _policy, source: source
    """Gives a disk the settings that it is opened with. Raises NotReady."""
    vhost_net: Callable[[], bool] = lambda: False
    """Whether the host's kernel carries the queues of network interfaces."""
    listen: Listen = nobody_listens
    """Listens for what guests print from their start on."""

    def perform(self, action: Action, seen: Machine, connection: Connection) -> None:
        """Carry one action out. Raises NotReady, HypervisorError, InvalidSpec, Unreachable or OSError.

        `seen` is the machine as the pass has read it. What may have changed since is read anew: of an action on one
        device that device's row alone, for a pass has as many of these as the machine has devices.
        """
        if isinstance(action, act.OfDevice):
            if (row := self.store.attachment(seen.id, action.key)) is not None:
                self._of_device(action, seen, row, connection)
        elif (machine := self.store.machine(seen.id)) is not None:
            self._of_machine(action, machine, connection)

    def _of_device(self, action: act.OfDevice, machine: Machine, row: Attachment, connection: Connection) -> None:
        match action:
            case act.PrepareDevice():
                self._prepare(machine, row, connection, plugged=action.plugged)
            case act.ResolveImage():
                self._image.resolve(machine, row)
            case act.PlugDevice():
                self._plug(machine, row, connection)
            case act.UnplugDevice():
                self._unplug(row, connection, again=action.again)
            case act.FollowDisk():
                self._follow(row, connection)
            case act.ResizeDisk():
                self._resize(row, action.size, connection)
            case act.ReleaseDevice():
                self._release(machine, row, connection, final=action.final)

    def _of_machine(self, action: Action, machine: Machine, connection: Connection) -> None:
        match action:
            case act.ChooseProfile():
                self._choose_profile(machine, connection)
            case act.AssignPorts():
                self._assign_ports(machine)
            case act.Define():
                self._define(machine, connection, new_run=action.new_run)
            case act.Start():
                self._power.start(machine, connection, action)
            case act.SetClock():
                self._power.set_clock(machine, connection)
            case act.UnplugStranger():
                self._unplug_stranger(machine, action.alias, connection)
            case act.PressButton():
                self._power.press(machine, connection, first=action.first)
            case act.Resume():
                self._power.resume(machine, connection, action)
            case act.Destroy():
                self._power.destroy(machine, connection, action.cause)
            case act.Undefine():
                connection.undefine(machine.id)
            case act.RemoveFiles():
                self._remove_files(machine.id)
            case act.Forget():
                self.store.write(lambda tx: tx.forget(machine.id), relieving=True)

    @property
    def _image(self) -> MachineImage:
        return MachineImage(self.store, self.plugins, self.choose_profile)

    @property
    def _link(self) -> MachineLink:
        return MachineLink(self.store, self.plugins, self.vhost_net)

    @property
    def _power(self) -> GuestPower:
        return GuestPower(self.store, self.clock, self.boot_id, self.lend, self.listen)

    def independent(self, action: Action) -> bool:
        """Whether an action may go on after one before it failed: every device says by itself what it lacks."""
        return isinstance(action, (act.PrepareDevice, act.PlugDevice, act.ReleaseDevice))

    def note_failure(self, action: Action, machine_id: str, error: Exception) -> bool:
        """Keep a failure with the machine, so that plan() sees it. False when only time can help."""
        message = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        if isinstance(action, act.PrepareDevice | act.ResolveImage | act.PlugDevice | act.ReleaseDevice):
            row = self.store.attachment(machine_id, action.key)
            return row is not None and self._note_problem(action, row, message, error)
        machine = self.store.machine(machine_id)
        if machine is None:
            return False
        match action:
            case act.ChooseProfile() | act.AssignPorts() | act.Define() | act.Start():
                what = "the start" if action != act.Define(new_run=False) else "bringing the domain up to date"
                self._power.note_start_failure(machine, what, message, error)
                return True
            case _:
                reason = action_failed(type(action).__name__, message)
                self.store.write(lambda tx: tx.add_reason(machine_id, reason, kind="failed"), relieving=True)
                return False

    def _note_problem(self, action: Action, row: Attachment, message: str, error: Exception) -> bool:
        advice, code = (error.advice, error.code) if isinstance(error, NotReady) else ("", "")
        if isinstance(error, InvalidSpec):
            advice = GONE_ADVICE
        elif isinstance(error, DiskLocked):
            code = "in-use"
        now = self.clock()
        self._note(
            lambda tx: tx.set_backing(
                row.machine, row.key, row.backing, problem=message, advice=advice, problem_at=now, code=code
            ),
            relieving=isinstance(action, act.ReleaseDevice),
        )
        return True

    def _prepare(self, machine: Machine, row: Attachment, connection: Connection, *, plugged: bool) -> None:
        if not row.wanted or not row.port:
            return  # it went while other actions ran
        if lacking := self._lacking(row):
            raise NotReady(f"the host has no room for it: {lacking}", ROOM_ADVICE, code="no-room")
        paths = self._machine_directory(machine.id)
        made = self._prepared(machine, row, paths, connection, plugged=plugged)
        if isinstance(made, DiskSource) and row.kind == "volume":
            self.not_open_elsewhere(connection, machine.id, made)
        if isinstance(made, DiskSource):
            made = self.settle(machine.machine_class.policy, made)
        if isinstance(made, DiskSource) and isinstance(row.backing, DiskSource):
            # A domain names the old source until the next define, which is ours to change, not somebody else's work.
            made = made.after(row.backing)
        if made == row.backing and not row.problem:
            return
        if refusal := self.store.write(lambda tx: self._keep_prepared(tx, row, made), synced=False):
            raise refusal

    def _refuse_if_held(self, other: str) -> None:
        """A backend's lock is cooperative, if there is one, and the poollet gives a volume to the next machine before
        it detaches it from this one (contract A.5): there is never a second writer.
        """
        if other:
            raise _held(other)

    def _keep_prepared(self, tx: Transaction, row: Attachment, made: Backing) -> NotReady | None:
        """Keep what was prepared, and tell once what an operator should know of it; or, of what another machine has,
        nothing.
        """
        if row.kind == "volume" and isinstance(made, DiskSource) and (other := tx.holder(made, besides=row.machine)):
            return _held(other)
        if isinstance(made, NicBackend) and (refusal := self._link.refusal(tx, row, made)):
            return refusal
        tx.set_backing(row.machine, row.key, made)
        if made.note and (row.backing is None or row.backing.note != made.note):
            message = f"{device_words(row)}: {made.note}"
            tx.add_event(row.machine, Event(kind="device", reason="noted", message=message, time=self.clock()))
        return None

    def _lacking(self, row: Attachment) -> str:
        if row.kind not in ("volume", "nic"):
            return ""  # the class's claims hold what these take
        return self.store.write(lambda tx: self.take(tx, row), synced=False)

    def _prepared(
        self, machine: Machine, row: Attachment, paths: MachinePaths, connection: Connection, *, plugged: bool
    ) -> Backing:
        match row.kind:
            case "image":
                return self._image.disk(machine, row, paths, connection)
            case "seed":
                return seed.write_seed(paths, machine.spec.ignition_data, machine.id, machine.name)
            case "volume":
                driver, volume = self.plugins.volume(row), row.volume()
                self._refuse_if_held(self.store.holder(driver.handle(machine.id, volume), besides=machine.id))
                in_use: Callable[[str, pb.Volume], DiskSource] | None = getattr(driver, "prepare_plugged", None)
                return in_use(machine.id, volume) if plugged and in_use else driver.prepare(machine.id, volume, paths)
            case "nic":
                return self._link.prepare(machine, row, connection)

    def _choose_profile(self, machine: Machine, connection: Connection) -> None:
        if machine.profile is None:
            boot = machine.image.boot if machine.image else "disk"
            profile = self.choose_profile(connection, machine.machine_class, boot)
            self._note(lambda tx: tx.set_profile(machine.id, profile))

    def _assign_ports(self, machine: Machine) -> None:
        assert machine.profile is not None
        assigned = ports.assign(machine.attachments, machine.profile.ports)
        new = {row.key: assigned[row.key] for row in machine.attachments if not row.port and assigned.get(row.key)}
        if new:
            self._note(lambda tx: tx.set_ports(machine.id, new))

    def _define(self, machine: Machine, connection: Connection, *, new_run: bool) -> None:
        run = machine.run
        if new_run:
            # Before the define: a run that libvirt knows and the store does not would be nobody's. With it the choices
            # of the steps before it are on disk before libvirt hears of them.
            run = run.next(str(uuid.uuid4()), self.boot_id())
            self._begin_run(machine, run)
        paths = self._machine_directory(machine.id)
        if machine.spec.ignition_data and not machine.seeded:
            seed.write_ignition(paths, machine.spec.ignition_data)
        xml = self.compiler.domain_xml(machine, ports.in_domain(machine.attachments), paths, run.uuid)
        before = connection.snapshot(machine.id)
        missing = self.compiler.differences(xml, connection.define(xml))
        if missing:
            raise HypervisorError(f"libvirt did not keep what was defined: {'; '.join(missing)}")
        if before and before.persistent_xml and (undone := self.compiler.undone(before.persistent_xml, xml)):
            self._tell_of_change(machine.id, "undone", f"it is put back: {'; '.join(undone)}")
        if run.error and not new_run:
            self._set_run(machine, replace(run, error="", failures=0, not_before=0))

    def _plug(self, machine: Machine, row: Attachment, connection: Connection) -> None:
        if not row.wanted or row.backing is None or not row.port or row.problem:
            return  # what came before it in this pass has failed, and says so
        xml = self.compiler.device_xml(machine, row)
        try:
            with self.lend(connection, [row]):
                connection.attach_device(machine.id, xml)
        except DescriptorRefused:
            if row.kind != "nic":
                raise
            # AppArmor lets a guest that was started without a NIC have none of the kernel's vhost-net.
            connection.attach_device(machine.id, self.compiler.device_xml(machine, row, by_qemu=True))
            self._tell_of_detour(row)
        now = self.clock()
        self._note(lambda tx: tx.set_plugged(row.machine, row.key, now, plugging.plugs_in_a_row(row, now)))
        self._tell_of_device(row, "attached")

    def _tell_of_detour(self, row: Attachment) -> None:
        message = (
            f"{device_words(row)} is carried by QEMU alone, and slower, until the next cold start: the host's AppArmor "
            "keeps vhost-net from a guest that was started without a network interface"
        )
        event = Event(kind="device", reason="noted", message=message, time=self.clock())
        self._note(lambda tx: tx.add_event(row.machine, event))

    def _follow(self, row: Attachment, connection: Connection) -> None:
        domain = connection.snapshot(row.machine)
        if domain is None or not domain.live_xml or not domain.persistent_xml:
            return
        connection.define(self.compiler.follow(domain.live_xml, domain.persistent_xml, row.alias))
        self._tell_of_change(
            row.machine, "followed", f"its next start reads {device_words(row)} from where the guest has it"
        )

    def _resize(self, row: Attachment, size: int, connection: Connection) -> None:
        before = row.backing
        if (
            not row.wanted
            or not isinstance(before, DiskSource)
            or size <= before.size
            or disks.fixed_while_open(before)
        ):
            return  # it went, or was seen to, while other actions ran
        if self.plugins.size_of(row) != size:
            return  # a look since the plan has found another size, which the next plan follows
        connection.resize_disk(row.machine, row.target, size)
        message = f"{device_words(row)} has grown from {byte_words(before.size)} to {byte_words(size)}"
        event = Event(kind="device", reason="grown", message=message, time=self.clock())

        def work(tx: Transaction) -> None:
            tx.set_backing(row.machine, row.key, replace(before, size=size))
            tx.add_event(row.machine, event)

        self._note(work)

    def _tell_of_change(self, machine_id: str, reason: str, what: str) -> None:
        message = f"the domain was changed outside of this provider; {what}"
        event = Event(kind="drift", reason=reason, message=message, time=self.clock())
        self._note(lambda tx: tx.add_event(machine_id, event))

    def _unplug(self, row: Attachment, connection: Connection, *, again: bool) -> None:
        if row.wanted != again:
            return  # it came back while other actions ran, or went
        connection.detach_device(row.machine, row.alias)
        now = self.clock()
        self._note(lambda tx: tx.set_unplug(row.machine, row.key, now), relieving=True)

    def _unplug_stranger(self, machine: Machine, alias: str, connection: Connection) -> None:
        if any(row.alias == alias for row in machine.attachments):
            return  # it was attached again while other actions ran
        connection.detach_device(machine.id, alias)
        now = self.clock()
        known = tuple(
            replace(each, unplug_at=now) if each.alias == alias else each for each in machine.run.strangers or ()
        )
        self._set_run(machine, replace(machine.run, strangers=known), relieving=True)

    def _tell_of_device(self, row: Attachment, reason: str) -> None:
        now = self.clock()
        message = f"{device_words(row)} is {reason}"
        again = row.wanted and row.plugged_at > row.changed_at  # as after a guest has ejected it: nothing was asked
        event = Event(
            kind="device",
            reason=reason,
            message=message,
            time=now,
            took=0 if again else max(now - row.changed_at, 0),
            measure="" if again else "attach" if row.wanted else "detach",
        )
        self._note(lambda tx: tx.add_event(row.machine, event), relieving=not row.wanted)

    def _release(self, machine: Machine, row: Attachment, connection: Connection, *, final: bool) -> None:
        if row.wanted and not final:
            return  # it came back while other actions ran
        paths = self.paths.machine(machine.id)
        left_nothing = False
        try:
            self._undo(machine, row, paths, connection, final=final)
            # With the machine all its claims end.
            left_nothing = not final and not self.plugins.keeps_data(row, paths)
        except InvalidSpec as error:  # its driver was removed from this host; what it never made ready may go
            if row.backing is not None:
                raise NotReady(str(error), GONE_ADVICE) from error

        def work(tx: Transaction) -> tuple[bool, list[str]]:
            dropped = _drop(tx, row, final=final)
            if dropped and left_nothing:
                self.give_back(tx, row)
            return dropped, tx.retry_held() if row.kind == "volume" else []

        dropped, waiting = self.store.write(work, synced=False, relieving=True)
        if dropped and not final:
            self._tell_of_device(row, "detached")
        for each in waiting:
            self.wake(each)

    def _undo(
        self, machine: Machine, row: Attachment, paths: MachinePaths, connection: Connection, *, final: bool
    ) -> None:
        match row.kind:
            case "image":
                self.plugins.remove_image_disk(paths)
            case "seed":
                paths.seed.unlink(missing_ok=True)
            case "volume":
                self.plugins.volume(row).release(machine.id, row.volume(), paths, final=final)
            case "nic":
                self._link.release(machine, row, connection, final=final)

    def _remove_files(self, machine_id: str) -> None:
        root = self.paths.machine(machine_id).root
        if root.exists():
            shutil.rmtree(root)
            sync_directory(root.parent)

    def _machine_directory(self, machine_id: str) -> MachinePaths:
        paths = self.paths.machine(machine_id)
        if not paths.mark.is_symlink():
            make_directory(paths.root, TRAVERSABLE)
            paths.mark.symlink_to(self.store.instance)
            sync_directory(paths.root.parent)
        return paths

    def _begin_run(self, machine: Machine, run: Run) -> None:
        def work(tx: Transaction) -> None:
            tx.set_run(machine.id, run)
            tx.note_stop(machine.id, None)  # one that was noted is of an earlier run

        self.store.write(work)

    def _set_run(self, machine: Machine, run: Run, *, relieving: bool = False) -> None:
        self._note(lambda tx: tx.set_run(machine.id, run), relieving=relieving)

    def _note(self, work: Callable[[Transaction], object], *, relieving: bool = False) -> None:
        """Write a step down. What a power loss takes of it, it took of guest and QEMU too: the step is taken anew."""
        self.store.write(work, synced=False, relieving=relieving)


def _held(other: str) -> NotReady:
    return NotReady(
        f"machine {other} has the volume still",
        "Nothing need be done while it is being unplugged there; else detach it there: "
        f"sri-libvirt machine why {other}.",
        code="held",
    )


def _drop(tx: Transaction, row: Attachment, *, final: bool) -> bool:
    """Drop a released row; one that an RPC has wanted again meanwhile is to be prepared anew."""
    now = tx.attachment(row.machine, row.key)
    if now is not None and now.wanted and not final:
        tx.set_backing(row.machine, row.key, None)
        return False
    tx.delete_attachment(row.machine, row.key)
    return True
